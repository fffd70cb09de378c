"""`bot_config.py`: the hooks that an administrator gives to all bots, kept in the data directory.

Knows no route and never runs the code: it only sees whether it is Python at all. The file may be edited in place; what
counts is what is in it when a bot asks. The invariant: its version changes exactly when its content does, so a bot that
has another version is to start again.
"""

from __future__ import annotations

import ast
import json
import logging
import os
from dataclasses import dataclass
from pathlib import Path

from isolate.cas.digest import SHA256
from isolate.cas.files import write_atomic
from isolate.clock import Clock
from isolate.errors import InvalidInput

FILE = "bot_config.py"
MAX_BYTES = 1 << 20  # it goes with every handshake
NO_VERSION = "default"  # of a server without one, as in 2020
_VERSION_CHARS = 14

log = logging.getLogger("server")


@dataclass(frozen=True, slots=True)
class Script:
    """The hooks as they are now; without a content there are none."""

    content: str | None = None
    version: str = NO_VERSION
    who: str = ""
    changed_at: float | None = None


class BotConfigFile:
    """The file, and who wrote it."""

    def __init__(self, folder: Path, clock: Clock) -> None:
        self._path, self._author = folder / FILE, folder / f"{FILE}.json"
        self._clock = clock
        self._seen: tuple[int, int, int] | None = None
        self._current = Script()

    def current(self) -> Script:
        """Return the hooks; costs one stat while nothing changes. A file that cannot be read counts as unchanged."""
        try:
            found = os.stat(self._path)
        except OSError:
            self._seen, self._current = None, Script()
            return self._current
        stamp = (found.st_mtime_ns, found.st_size, found.st_ino)
        if stamp != self._seen:
            try:
                content = self._path.read_bytes().decode()
                check(content)
            except (OSError, UnicodeDecodeError, InvalidInput) as error:
                log.error("%s is not used: %s", self._path, error)  # noqa: TRY400 - foreseen, no traceback
            else:
                version = _version(content)
                self._current = Script(content, version, self._who(version), found.st_mtime)
            self._seen = stamp
        return self._current

    def replace(self, content: str, who: str) -> Script:
        """Give other hooks to the bots, or none for an empty text; raises InvalidInput."""
        check(content)
        if not content.strip():
            self._path.unlink(missing_ok=True)
            return self.current()
        note = {"version": _version(content), "who": who}
        write_atomic(self._author, json.dumps(note).encode(), durable=True)
        write_atomic(self._path, content.encode(), durable=True)
        return self.current()

    def _who(self, version: str) -> str:
        """Return who wrote this content; nobody knows when it was edited in place."""
        try:
            note = json.loads(self._author.read_bytes())
            return str(note["who"]) if note["version"] == version else ""
        except (OSError, ValueError, KeyError, TypeError):
            return ""


def check(content: str) -> None:
    """Raise InvalidInput for what no bot could load."""
    try:
        size = len(content.encode())
        ast.parse(content, FILE)
    except SyntaxError as error:
        raise InvalidInput(f"{FILE}, line {error.lineno}: {error.msg}") from error
    except (ValueError, RecursionError, MemoryError) as error:  # a NUL, a lone surrogate, endless nesting
        raise InvalidInput(f"{FILE} is no Python: {error}") from error
    if size > MAX_BYTES:
        raise InvalidInput(f"{FILE} has {size} bytes, at most {MAX_BYTES} are sent to bots")


def _version(content: str) -> str:
    return f"hash:{SHA256.digest(content.encode()).hex()[:_VERSION_CHARS]}"
