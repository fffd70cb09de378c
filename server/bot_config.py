"""The hooks an administrator gives to bots: `bot_config.py` for all, and scripts for the bots of some groups.

Knows no route and never runs the code: it only sees whether it is Python at all. The file may be edited in place; what
counts is what is in it when a bot asks. The invariant: its version changes exactly when its content does, so a bot that
has another version is to start again.
"""

from __future__ import annotations

import ast
import json
import logging
import os
from dataclasses import dataclass, field
from pathlib import Path

from isolate.cas.digest import SHA256
from isolate.cas.files import write_atomic
from isolate.errors import InvalidInput
from isolate.plain_files import read_plain
from server.bot_groups import SCRIPT_NAME, BotGroup

FILE = "bot_config.py"
SCRIPTS = "scripts"  # the folder for those of groups, beside the settings that name them
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


@dataclass(frozen=True, slots=True)
class BotCode:
    """The hooks of one bot: those for all, and on top of them those of its group."""

    for_all: Script = field(default_factory=Script)
    of_group: Script = field(default_factory=Script)

    @property
    def version(self) -> str:
        """Changes exactly when one of the two does."""
        parts = [one.version for one in (self.for_all, self.of_group) if one.version != NO_VERSION]
        return "+".join(parts) or NO_VERSION


class BotConfigFile:
    """One file, and who wrote it."""

    def __init__(self, path: Path) -> None:
        self._path, self._author = path, path.with_name(f"{path.name}.json")
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
                content = read_plain(self._path, MAX_BYTES).decode()
                check(content, self._path.name)
            except (OSError, UnicodeDecodeError, InvalidInput) as error:
                log.error("%s is not used: %s", self._path, error)  # noqa: TRY400 - foreseen, no traceback
            else:
                version = _version(content)
                self._current = Script(content, version, self._who(version), found.st_mtime)
            self._seen = stamp
        return self._current

    def replace(self, content: str, who: str) -> Script:
        """Give other hooks to the bots, or none for an empty text; raises InvalidInput."""
        check(content, self._path.name)
        if not content.strip():
            self._path.unlink(missing_ok=True)
            return self.current()
        self._path.parent.mkdir(parents=True, exist_ok=True)
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


class BotScripts:
    """All the files: in the data directory the one for all bots, in `folder` those of groups, by name."""

    def __init__(self, data_dir: Path, folder: Path) -> None:
        self._for_all, self._folder = BotConfigFile(data_dir / FILE), folder
        self._by_name: dict[str, BotConfigFile] = {}

    def file(self, name: str = "") -> BotConfigFile:
        """Return the file of a group's script, "" being that for all bots; raises InvalidInput for no such name."""
        if not name:
            return self._for_all
        if not SCRIPT_NAME.fullmatch(name):
            raise InvalidInput(f"{name[:100]!r} is no name of a script: letters, digits, '_' and '-', and .py")
        return self._by_name.setdefault(name, BotConfigFile(self._folder / name))

    def of(self, group: BotGroup) -> BotCode:
        """Return what the bots of a group are to run."""
        return BotCode(self._for_all.current(), self.file(group.script).current() if group.script else Script())


def check(content: str, name: str = FILE) -> None:
    """Raise InvalidInput for what no bot could load."""
    found = fault_of(content, name)
    if found is not None:
        line, reason = found
        raise InvalidInput(f"{name}, line {line}: {reason}" if line else reason)


def fault_of(content: str, name: str) -> tuple[int | None, str] | None:
    """Return the line, if it is in one, and the reason why no bot could load `content`; None if it could."""
    try:
        size = len(content.encode())
        ast.parse(content, name)
    except SyntaxError as error:
        return error.lineno, error.msg if error.lineno else f"{name} is no Python: {error.msg}"
    except (ValueError, RecursionError, MemoryError) as error:  # a NUL, a lone surrogate, endless nesting
        return None, f"{name} is no Python: {error}"
    if size > MAX_BYTES:
        return None, f"{name} has {size} bytes, at most {MAX_BYTES} are sent to bots"
    return None


def _version(content: str) -> str:
    return f"hash:{SHA256.digest(content.encode()).hex()[:_VERSION_CHARS]}"
