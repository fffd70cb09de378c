"""Directories that a process has for itself, which it says by a lock on them; when it dies, they are nobody's.

Knows not what they are for. The invariant: no link is followed to what is locked.
"""

from __future__ import annotations

import errno
import fcntl
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from isolate.cas.foreign import put_away
from isolate.locks import when_free
from run_isolated import linux
from run_isolated.stopping import Check

PRIVATE = 0o700
_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


@contextmanager
def alone(path: Path) -> Iterator[None]:
    """Lock a directory for as long as it takes; raises as `locked` does."""
    lock = locked(path)
    try:
        yield
    finally:
        os.close(lock)


def locked(path: Path) -> int:
    """Lock a directory until what is returned is closed; raises BlockingIOError while somebody uses what is in it."""
    status = os.lstat(path)
    if not stat.S_ISDIR(status.st_mode):
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(path))
    if status.st_mode & PRIVATE != PRIVATE:  # a command took the rights away
        os.chmod(path, PRIVATE)
    descriptor = os.open(path, _FOLDER)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        raise
    return descriptor


def own(path: Path, check: Check) -> int:
    """Make a directory, or take one that is there, and lock it as `locked` does, once nobody else has it.

    While somebody has it, `check` is asked, and may raise to stop waiting.
    """
    while True:
        try:
            path.mkdir(mode=PRIVATE, parents=True, exist_ok=True)
            lock = when_free(partial(locked, path), check)
        except (FileExistsError, NotADirectoryError):  # a command put something there
            put_away(path)
        except FileNotFoundError:  # whoever had it is done with it
            continue
        else:
            if is_at(path, lock):
                return lock
            os.close(lock)


def is_at(path: Path, descriptor: int) -> bool:
    """Whether an open directory is still at `path`."""
    try:
        return os.path.samestat(os.lstat(path), os.fstat(descriptor))
    except FileNotFoundError:
        return False


def mount_of(path: Path) -> tuple[int, int]:
    """Return what two places have in common between which directories can be moved; raises OSError."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        return linux.mount_of(descriptor)
    finally:
        os.close(descriptor)
