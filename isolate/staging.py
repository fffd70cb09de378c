"""A directory beside a place, for what is to appear there whole.

Knows nothing of what it is for. The invariant: it is gone at the end; that of a process that was killed goes when the
next one makes one for the same name, and nobody else's goes, for its owner holds a lock on it.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import mkdtemp

from isolate.errors import InternalFailure
from isolate.monitor import Monitor
from run_isolated.deletion import delete_tree

SUFFIX = ".isolate-part"  # no directory of a person is named so
_STEM_CHARS = 50  # of the name, which may be as long as names may be
_RANDOM_CHARS = 8  # what mkdtemp adds
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


@contextmanager
def staging(place: Path, name: str, monitor: Monitor) -> Iterator[Path]:
    """Give a directory in `place` for what is to become `name`; raises OSError.

    What cannot be deleted is a problem for `monitor`, and for the next one.
    """
    prefix = f".{name[:_STEM_CHARS]}-"
    for left in _left_by_the_dead(place, prefix):
        _delete(left, monitor)
    path, lock = _owned(place, prefix)
    try:
        yield path
    finally:
        _delete(path, monitor)
        os.close(lock)


def _owned(place: Path, prefix: str) -> tuple[Path, int]:
    """Make a directory, and return it with the descriptor that holds it."""
    while True:
        path = Path(mkdtemp(SUFFIX, prefix, place))
        with suppress(FileNotFoundError):  # another process took it for one of the dead, before it was locked
            lock = os.open(path, _DIRECTORY)
            if _locks(lock) is not False and _is_at(path, lock):
                return path, lock
            os.close(lock)


def _left_by_the_dead(place: Path, prefix: str) -> Iterator[Path]:
    """Yield the directories that nobody holds, each held by us until the next one is asked for."""
    length = len(prefix) + _RANDOM_CHARS + len(SUFFIX)
    try:
        names = os.listdir(place)
    except OSError:  # it may be one that only lets us write
        return
    for name in names:
        if len(name) == length and name.startswith(prefix) and name.endswith(SUFFIX):
            try:
                lock = os.open(place / name, _DIRECTORY)
            except OSError:  # gone meanwhile, of another user, or no directory
                continue
            try:
                if _locks(lock):
                    yield place / name
            finally:
                os.close(lock)


def _locks(descriptor: int) -> bool | None:
    """Hold a directory, if nobody does; None where directories cannot be held, so that they stay when we die."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return None
    return True


def _is_at(path: Path, descriptor: int) -> bool:
    try:
        return os.path.samestat(os.stat(path), os.fstat(descriptor))
    except FileNotFoundError:
        return False


def _delete(path: Path, monitor: Monitor) -> None:
    try:
        delete_tree(path)
    except InternalFailure as error:
        monitor.problem(error)
