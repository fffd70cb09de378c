"""What a command put in the place of something of ours, or did to it: out of the way, without waiting for anybody.

Knows no cache. The invariant: no link is followed.
"""

from __future__ import annotations

import errno
import os
import stat
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

from isolate.cas.inode_flags import make_removable


def put_away(path: Path) -> None:
    """Remove what somebody put in the place of something of ours; of a link, the link only."""
    foreign = path.with_name(f"foreign-{os.urandom(8).hex()}")
    with suppress(FileNotFoundError):  # another process was faster
        os.rename(path, foreign)
        if stat.S_ISDIR(os.lstat(foreign).st_mode):
            remove(foreign)
        else:
            foreign.unlink()


def make_way(path: str) -> None:
    """Take away what a command put in the place of a file, or the flags that it gave one."""
    if os.path.isdir(path) and not os.path.islink(path):
        put_away(Path(path))
    else:
        make_removable(path)


def remove(path: Path) -> None:
    """Remove a directory as far as that is possible."""
    import shutil  # at the end of a run, which is to begin soon

    shutil.rmtree(path, ignore_errors=True)


def open_plain(path: Path) -> BinaryIO:
    """Open a file to read; raises OSError for anything else, a link or a pipe, without waiting for anybody."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    if stat.S_ISREG(os.fstat(descriptor).st_mode):
        return open(descriptor, "rb")
    os.close(descriptor)
    raise OSError(errno.EINVAL, "it is no file", str(path))


def at_once(path: str, flags: int) -> int:
    """Open a file of ours, and wait for nobody if a command put a pipe in its place."""
    return os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, 0o666)
