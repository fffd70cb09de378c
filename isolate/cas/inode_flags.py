"""Flags of files and directories, as `chattr` sets them: some forbid changes even to root, others outlast a copy of us.

Knows no cache and no tree. On other systems than Linux, and where a file system has none, nothing has any.
"""

from __future__ import annotations

import os
import sys
from contextlib import suppress
from typing import NamedTuple

GET_FLAGS, _SET_FLAGS, _GET_MORE = 0x80086601, 0x40086602, 0x801C581F
TOPDIR = 0x20000
_IMMUTABLE, _APPEND, _VERITY = 0x10, 0x20, 0x100000
_OF_USERS = 0x2281C4FF | TOPDIR | _VERITY  # what anybody can set; others tell how a file system keeps something
_OLD = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK


class Marks(NamedTuple):
    """What an inode has beside mode, owner and attributes."""

    flags: int = 0
    project: int = 0  # whose quota it counts for


def marks_of(descriptor: int) -> Marks:
    """Return what somebody may have set."""
    flags = _flags(descriptor)
    if flags is None:
        return Marks()
    import fcntl

    project = 0
    with suppress(OSError):  # a file system without projects
        project = int.from_bytes(fcntl.ioctl(descriptor, _GET_MORE, bytes(28))[12:16], sys.byteorder)
    return Marks(flags & _OF_USERS, project)


def make_mutable(descriptor: int) -> None:
    """Take away the flags that forbid changes even to root, if there are any and we may."""
    _change(descriptor, remove=_IMMUTABLE | _APPEND)


def make_removable(path: str) -> None:
    """Do so with the file at `path`, if it can be opened and is no link, and with the directory that is to lose it."""
    for each in (path, os.path.dirname(path)):
        with suppress(OSError):
            descriptor = os.open(each, _OLD)
            try:
                make_mutable(descriptor)
            finally:
                os.close(descriptor)


def scatter(descriptor: int) -> bool:
    """Ask that directories made in this one go to a part of the disk that their name decides; returns if that is known.

    Else ext4 puts a tree where the last one has just been deleted, and each mkdir there first looks through all the
    inodes that were freed in the last minutes: 300 us instead of 25. So it is without a journal; with one, directories
    that are scattered cost a little more (files in them 0.58-0.65 s instead of 0.55-0.58 s for 20,000).
    """
    return _change(descriptor, add=TOPDIR)


def make_apart(folder: str) -> None:
    """Make a directory of files, unless it is there; if its parent has to be made, too, what comes in it is scattered.

    For siblings of which each fills up by itself. In one place together, making 8,600 files just after as many were
    deleted took 5 s in the kernel, and scattered 0.7 s.
    """
    above = os.path.dirname(folder)
    if not os.path.isdir(above):
        os.makedirs(above, exist_ok=True)
        descriptor = os.open(above, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            scatter(descriptor)
        finally:
            os.close(descriptor)
    os.makedirs(folder, exist_ok=True)


def _change(descriptor: int, *, add: int = 0, remove: int = 0) -> bool:
    flags = _flags(descriptor)
    if flags is None:
        return False
    changed = (flags | add) & ~remove
    if changed != flags:
        import fcntl

        try:
            fcntl.ioctl(descriptor, _SET_FLAGS, changed.to_bytes(8, sys.byteorder))
        except OSError:
            return False
    return True


def _flags(descriptor: int) -> int | None:
    if not sys.platform.startswith("linux"):
        return None
    import fcntl

    with suppress(OSError):
        return int.from_bytes(fcntl.ioctl(descriptor, GET_FLAGS, bytes(8))[:4], sys.byteorder)
    return None
