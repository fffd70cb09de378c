"""A little room on the disk, taken while there is plenty and given up when nothing else is left.

Deleting needs room as well: the index notes first what goes. The invariant: whoever gives the reserve up does so to
free space; it is taken again only where plenty is free, and a disk without room for it is no error.
"""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

FILE = "reserve"
RESERVE_BYTES = 4 << 20  # a few transactions of an eviction, whose log is moved into the index after each
PLENTY = 4  # times as much is free before it is taken


class Reserve:
    """The reserve of one data directory; every call blocks for a moment."""

    def __init__(self, root: Path) -> None:
        self._path = root / FILE

    def take(self) -> None:
        """Take it if it is not there and there is plenty of room."""
        with suppress(OSError):
            status = os.statvfs(self._path.parent)
            has_plenty = status.f_bavail * status.f_frsize >= PLENTY * RESERVE_BYTES
            if has_plenty and not (self._path.exists() and self._path.stat().st_size >= RESERVE_BYTES):
                self._allocate()

    def give_up(self) -> bool:
        """Return whether there is more room now."""
        try:
            self._path.unlink()
        except OSError:
            return False
        return True

    def _allocate(self) -> None:
        descriptor = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC | os.O_NONBLOCK, 0o600)
        try:
            os.posix_fallocate(descriptor, 0, RESERVE_BYTES)
        except OSError:
            self._path.unlink(missing_ok=True)
        finally:
            os.close(descriptor)
