"""Whole directories, moved from one place to another; what commands did to them may be hostile.

Knows no cache. The invariants: no link is followed; at every moment at least one of the two places has the whole
directory, and the destination has it whole or not at all, so a process that is killed in between loses nothing.
"""

from __future__ import annotations

import errno
import os
import stat
from contextlib import suppress
from pathlib import Path

from isolate.cas.inode_flags import make_mutable
from run_isolated.deletion import delete_tree

_PRIVATE = 0o700
_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


def move(source: Path, destination: Path) -> None:
    """Move a directory to a place where nothing is, also to another file system; raises OSError."""
    try:
        _rename(source, destination)
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
        _copy(source, destination)
        # Its name goes at once, its files one by one: half of a directory is never taken for the whole.
        leaving = _beside(source)
        _rename(source, leaving)
        delete_tree(leaving)


def _rename(source: Path, destination: Path) -> None:
    try:
        os.rename(source, destination)
    except PermissionError:  # a command took the rights to what it is in
        own(source.parent)
        os.rename(source, destination)


def own(directory: Path) -> None:
    """Get back the rights a command took away, and the ownership if we may; no flag forbids changes any more."""
    with suppress(OSError):
        descriptor = os.open(directory, _FOLDER)
        try:
            make_mutable(descriptor)
        finally:
            os.close(descriptor)
    with suppress(OSError):
        if os.lstat(directory).st_uid != os.geteuid():
            os.chown(directory, os.geteuid(), -1, follow_symlinks=False)
        os.chmod(directory, _PRIVATE)


def tree_size(root: Path) -> int:
    """Return the bytes of all plain files below `root`; links count nothing, a file with two names counts twice."""
    size_bytes, pending = 0, [os.fspath(root)]
    while pending:
        with suppress(OSError), os.scandir(pending.pop()) as entries:
            for entry in entries:
                if entry.is_dir(follow_symlinks=False):
                    pending.append(entry.path)
                elif entry.is_file(follow_symlinks=False):
                    size_bytes += entry.stat(follow_symlinks=False).st_size
    return size_bytes


def is_directory(path: Path) -> bool:
    """Whether there is a directory, and not a link to one."""
    try:
        return stat.S_ISDIR(os.lstat(path).st_mode)
    except OSError:
        return False


def is_file_or_nothing(path: Path) -> bool:
    """Whether there is a plain file, or nothing at all; a link is neither."""
    try:
        return stat.S_ISREG(os.lstat(path).st_mode)
    except OSError:
        return True


def _copy(source: Path, destination: Path) -> None:
    import shutil  # few directories change their file system

    coming = _beside(destination)
    try:
        shutil.copytree(source, coming, symlinks=True)
        os.rename(coming, destination)
    except BaseException:
        delete_tree(coming)
        raise


def _beside(path: Path) -> Path:
    return path.with_name(f"moving-{os.urandom(6).hex()}")
