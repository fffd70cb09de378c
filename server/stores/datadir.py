"""The data directory: one server at a time, one format, and whether the last one stopped in peace.

Knows nothing of what is kept in it. The invariant: while a `DataDirectory` is open no other process has it open, and
everything in it is of a format this version knows.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
from pathlib import Path
from typing import Self

from isolate.cas.files import sync_directory, write_atomic
from isolate.errors import Busy, FormatTooNew, InvalidInput, NoSpace

FORMAT = 1  # of the layout: packs/, blobs.sqlite, tasks.sqlite, …; each database counts its own schema
_FORMAT_FILE, _LOCK_FILE, _RUNNING_FILE = "format.json", "lock", "running"
# What may come before the first server: settings, the hooks and the archives of bots; new file systems have the last.
_FULL = {errno.ENOSPC, errno.EDQUOT}
_NOT_FOREIGN = {_LOCK_FILE, "config", "bot_config.py", "bot_config.py.json", "bot_archives", "lost+found"}


class DataDirectory:
    """An open data directory; `stopped_cleanly` says how the server before this one ended.

    An unclean stop stays on record until somebody sets `settled`: what followed from it must not be forgotten because
    a server ran for a minute in between.
    """

    def __init__(self, path: Path, lock: int, *, stopped_cleanly: bool) -> None:
        self.path, self.stopped_cleanly = path, stopped_cleanly
        self.settled = stopped_cleanly
        self._lock = lock

    @classmethod
    def open_existing(cls, path: Path) -> Self:
        """Open what a server has made, to look at or to tidy; raises Busy, FormatTooNew, InvalidInput.

        Nothing is written: this promises nothing to anybody, so that its own end is no stop to be noted.
        """
        if not (path / _FORMAT_FILE).is_file():
            raise InvalidInput(f"{path} is not the data directory of a server")
        return cls._open(path, serves=False)

    @classmethod
    def open(cls, path: Path) -> Self:
        """Open or create the directory for a server; raises Busy, FormatTooNew, InvalidInput, NoSpace."""
        return cls._open(path, serves=True)

    @classmethod
    def _open(cls, path: Path, *, serves: bool) -> Self:
        try:
            path.mkdir(mode=0o700, parents=True, exist_ok=True)
            lock = os.open(path / _LOCK_FILE, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise _translated(error, path) from error
        try:
            _take(lock, path)
            _check_format(path)
            running = path / _RUNNING_FILE
            stopped_cleanly = not running.exists()
            if serves and stopped_cleanly:
                _mark(running)
        except OSError as error:
            os.close(lock)
            raise _translated(error, path) from error
        except BaseException:
            os.close(lock)
            raise
        return cls(path, lock, stopped_cleanly=stopped_cleanly)

    def close(self) -> None:
        """Note that all ended well, if it did, and let the next server in."""
        if self.settled:
            (self.path / _RUNNING_FILE).unlink(missing_ok=True)
        os.close(self._lock)


def _mark(running: Path) -> None:
    """Make the mark of a running server survive a crash; it is empty, so that a full disk takes it."""
    os.close(os.open(running, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600))
    sync_directory(running.parent)


def _translated(error: OSError, path: Path) -> InvalidInput | NoSpace:
    text = f"Cannot keep data in {path}: {error.strerror}"
    return NoSpace(text) if error.errno in _FULL else InvalidInput(text)


def _take(lock: int, path: Path) -> None:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise Busy(f"Another server is using {path}") from error


def _check_format(path: Path) -> None:
    file = path / _FORMAT_FILE
    try:
        # Who opens a pipe waits for somebody who writes.
        text = "" if file.exists() and not file.is_file() else file.read_text(encoding="utf-8")
    except FileNotFoundError:
        if foreign := sorted({entry.name for entry in path.iterdir()} - _NOT_FOREIGN):
            raise InvalidInput(f"{path} holds {foreign[0]!r}, which is not ours: name an empty directory") from None
        write_atomic(file, json.dumps({"format": FORMAT}).encode() + b"\n", durable=True)
        return
    try:
        found = json.loads(text)["format"]
        if not isinstance(found, int):
            raise TypeError
    except (ValueError, TypeError, KeyError) as error:
        raise InvalidInput(f"{file} does not say which format {path} has") from error
    if found > FORMAT:
        raise FormatTooNew(f"{path} has format {found}, this version knows {FORMAT}: use a newer version")
