"""Flags of files and directories as a hostile command sets them."""

from __future__ import annotations

import fcntl
import os
import sys
from pathlib import Path

from isolate.cas.inode_flags import GET_FLAGS, Marks, marks_of

IMMUTABLE, NO_DUMP, SYNCHRONOUS = 0x10, 0x40, 0x8
_SET_FLAGS = 0x40086602


def set_flags(path: Path, flags: int) -> bool:
    """Add `flags`; False where that is not possible."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
    try:
        present = int.from_bytes(fcntl.ioctl(descriptor, GET_FLAGS, bytes(8))[:4], sys.byteorder)
        fcntl.ioctl(descriptor, _SET_FLAGS, (present | flags).to_bytes(8, sys.byteorder))
    except OSError:
        return False
    finally:
        os.close(descriptor)
    return True


def marks_at(path: Path) -> Marks:
    """Return what `marks_of` says of a file or directory."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
    try:
        return marks_of(descriptor)
    finally:
        os.close(descriptor)
