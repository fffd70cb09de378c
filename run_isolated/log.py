"""The log of a run: what was asked, what went wrong, what it came to, in a file that rotates.

Knows no flags. The invariants: a log that cannot be written stops nobody who did not ask for it; a line is written
whole, so that runs may share a file. Not the library's, which a run would wait for longer than for its tree.
"""

from __future__ import annotations

import os
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from threading import Lock

from isolate.clock import Clock
from isolate.errors import InvalidInput
from isolate.monitor import Monitor

FILE_BYTES, OLD_FILES = 10 << 20, 5  # as in 2020
_APPEND = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NONBLOCK


class Log:
    """A file of dated lines; safe to call from any thread."""

    def __init__(self, path: Path | None, clock: Clock) -> None:
        """Without a `path` nothing is noted. Raises OSError."""
        self._path, self._clock, self._lock = path, clock, Lock()
        self._file = None if path is None else _opened(path)

    def note(self, text: str) -> None:
        self._write("INFO", text)

    def problem(self, text: str) -> None:
        self._write("WARNING", text)

    def close(self) -> None:
        """Close the file; what comes later is not noted."""
        with self._lock:
            if self._file is not None:
                os.close(self._file)
                self._file = None

    def _write(self, level: str, text: str) -> None:
        if self._file is None:
            return
        now_s = self._clock.now()
        date = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(now_s))
        line = f"{date},{int(now_s * 1000) % 1000:03} {os.getpid()} {level} {text}\n".encode(errors="backslashreplace")
        with self._lock, suppress(OSError):  # a full disk: what the run came to is told elsewhere
            self._rotate(len(line))
            if self._file is not None:
                os.write(self._file, line)

    def _rotate(self, coming_bytes: int) -> None:
        """Begin a new file if the next line is too much for this one; raises OSError."""
        if self._path is None or self._file is None:
            return
        status = os.fstat(self._file)
        if not stat.S_ISREG(status.st_mode) or status.st_size + coming_bytes < FILE_BYTES:
            return
        for number in range(OLD_FILES - 1, 0, -1):
            with suppress(FileNotFoundError):
                os.replace(f"{self._path}.{number}", f"{self._path}.{number + 1}")
        os.replace(self._path, f"{self._path}.1")
        fresh = _opened(self._path)
        os.close(self._file)
        self._file = fresh


def _opened(path: Path) -> int:
    """Open a log; raises OSError also for a pipe that nobody reads, which would make us wait."""
    file = os.open(path, _APPEND, 0o666)
    os.set_blocking(file, True)
    return file


class LoggedMonitor:
    """A monitor that also logs problems."""

    def __init__(self, monitor: Monitor, log: Log) -> None:
        self.count, self.expect = monitor.count, monitor.expect
        self._monitor, self._log = monitor, log

    def problem(self, message: object) -> None:
        self._log.problem(str(message))
        self._monitor.problem(message)


@contextmanager
def log_to(path: Path | None, clock: Clock, *, required: bool) -> Iterator[Log]:
    """Give a log that goes to `path`; raises InvalidInput when it is required and cannot be had."""
    try:
        log = Log(path, clock)
    except OSError as error:
        if required:
            raise InvalidInput(f"Cannot write the log {str(path)!r}: {error.strerror}") from error
        log = Log(None, clock)
    try:
        yield log
    finally:
        log.close()
