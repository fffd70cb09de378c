"""Where a bot writes what happens: a rotated file with times and origins, and short lines on stderr."""

from __future__ import annotations

import logging
from logging.handlers import RotatingFileHandler
from pathlib import Path

LOG_BYTES, LOG_FILES = 10 << 20, 5


class ShortFormatter(logging.Formatter):
    """Leaves origins and tracebacks to the file."""

    def __init__(self, file: Path) -> None:
        super().__init__()
        self._file = file

    def format(self, record: logging.LogRecord) -> str:
        details = f" (details in {self._file})" if record.exc_info else ""
        return f"swarming-bot: {record.getMessage()}{details}"


class LogFile(RotatingFileHandler):
    """A full disk loses lines; it must not end or disturb the bot."""

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 - the name is logging's
        pass


def start_log(folder: Path, *, verbose: bool) -> None:
    """Begin to write, for the whole process."""
    level = logging.DEBUG if verbose else logging.INFO
    path = folder / "bot.log"
    file = LogFile(path, maxBytes=LOG_BYTES, backupCount=LOG_FILES, encoding="utf-8", delay=True)
    file.setFormatter(logging.Formatter("%(asctime)s %(process)d %(levelname)s %(name)s: %(message)s"))
    console = logging.StreamHandler()
    console.setFormatter(ShortFormatter(path))
    console.setLevel(level)
    logging.basicConfig(level=level, handlers=[file, console], force=True)
    logging.getLogger("asyncio").setLevel(logging.WARNING)
    # A line for each poll and heartbeat is for who asked for everything.
    logging.getLogger("isolate.http").setLevel(logging.INFO if level <= logging.DEBUG else logging.WARNING)
