"""The settings as they are now: read at the start, and again whenever a file changes.

Knows where the files are and no setting. The invariant: what is wrong is never applied; the server goes on with what it
had and says so in the log, once for each change.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from pathlib import Path

from isolate.errors import InvalidInput
from isolate.plain_files import read_plain
from server.settings import FILES, InvalidSettings, Settings, parse

MAX_FILE_BYTES = 4 << 20
RELOAD_S = 2.0  # between looks at the files: three stats

log = logging.getLogger("server")
Stamp = tuple[tuple[int, int, int] | None, ...]


class LiveSettings:
    """The settings in one directory."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._stamp: Stamp | None = None
        self._listeners: list[Callable[[Settings], object]] = []
        self.current = Settings()

    def load(self) -> None:
        """Read the files; raises InvalidSettings."""
        stamp = _stamp(self._directory)
        self.current = parse(read(self._directory))
        self._stamp = stamp

    def follow(self, listener: Callable[[Settings], object]) -> None:
        """Tell `listener` the settings now, and every time they change."""
        self._listeners.append(listener)
        listener(self.current)

    async def reload(self) -> bool:
        """Read the files again if one of them changed; returns whether there are other settings now."""
        stamp = await asyncio.to_thread(_stamp, self._directory)
        if stamp == self._stamp:
            return False
        self._stamp = stamp
        try:
            found = await asyncio.to_thread(lambda: parse(read(self._directory)))
        except InvalidInput as error:
            log.warning("Settings in %s are not applied, the ones before stay:", self._directory)
            for problem in str(error).splitlines():  # a traceback would tell nobody more
                log.warning("%s", self._directory / problem)
            return False
        self.current = found
        for listener in self._listeners:
            listener(found)
        log.warning("Settings in %s were read again", self._directory)
        return True


def read(directory: Path) -> dict[str, str]:
    """Return the texts of the files there are; raises InvalidSettings."""
    texts: dict[str, str] = {}
    problems: list[str] = []
    for name in FILES:
        try:
            texts[name] = read_text(directory, name)
        except (FileNotFoundError, NotADirectoryError):
            continue
        except InvalidSettings as error:
            problems += error.problems
    if problems:
        raise InvalidSettings(problems)
    return texts


def read_text(directory: Path, name: str) -> str:
    """Return the text of one file; raises InvalidSettings, and FileNotFoundError or NotADirectoryError without it."""
    try:
        return read_plain(directory / name, MAX_FILE_BYTES).decode()
    except (FileNotFoundError, NotADirectoryError):
        raise
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        raise InvalidSettings([f"{name}:{line}: Not UTF-8"]) from error
    except OSError as error:
        raise InvalidSettings([f"{name}:1: Cannot be read: {error.strerror}"]) from error


def _stamp(directory: Path) -> Stamp:
    found: list[tuple[int, int, int] | None] = []
    for name in FILES:
        try:
            state = (directory / name).stat()
            found.append((state.st_mtime_ns, state.st_size, state.st_ino))
        except OSError:
            found.append(None)
    return tuple(found)
