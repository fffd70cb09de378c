"""The log of a run: what was asked, what went wrong, what it came to, in a file that rotates.

Knows no flags. The invariant: a log that cannot be written stops nobody who did not ask for it.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from logging.handlers import RotatingFileHandler
from pathlib import Path

from isolate.errors import InvalidInput
from isolate.monitor import Monitor

FILE_BYTES, OLD_FILES = 10 << 20, 5  # as in 2020


class LoggedMonitor:
    """A monitor that also logs problems."""

    def __init__(self, monitor: Monitor, log: logging.Logger) -> None:
        self.count, self.expect = monitor.count, monitor.expect
        self._monitor, self._log = monitor, log

    def problem(self, message: object) -> None:
        self._log.warning("%s", message)
        self._monitor.problem(message)


class _LogFile(RotatingFileHandler):
    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 - the name it has in `logging`
        """Say nothing: a full disk is no reason to print a traceback for each line."""


@contextmanager
def log_to(path: Path | None, *, required: bool) -> Iterator[logging.Logger]:
    """Give a log that goes to `path`; raises InvalidInput when it is required and cannot be had."""
    log = logging.getLogger("run_isolated.log")
    log.propagate = False
    handler: logging.Handler = logging.NullHandler()
    try:
        if path is not None:
            handler = _LogFile(
                path, maxBytes=FILE_BYTES, backupCount=OLD_FILES, encoding="utf-8", errors="backslashreplace"
            )
    except OSError as error:
        if required:
            raise InvalidInput(f"Cannot write the log {str(path)!r}: {error.strerror}") from error
    handler.setFormatter(logging.Formatter("%(asctime)s %(process)d %(levelname)s %(message)s"))
    log.addHandler(handler)
    log.setLevel(logging.INFO)
    try:
        yield log
    finally:
        log.removeHandler(handler)
        with suppress(OSError):  # a full disk, again: what the run came to is told elsewhere
            handler.close()
