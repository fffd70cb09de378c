"""Deletion of a directory, whatever a command did to it.

Knows no run. The invariants: nothing outside the directory is deleted or changed, because no link is followed and no
mount point entered; no depth exhausts the stack, the descriptors or the length of a path; what cannot be deleted does
not keep the rest, and is named with the reason.
"""

from __future__ import annotations

import errno
import itertools
import os
import stat
from collections.abc import Callable, Collection
from contextlib import suppress
from pathlib import Path

from isolate.cas.inode_flags import make_mutable
from isolate.errors import InternalFailure
from run_isolated import linux
from run_isolated.stopping import Check, go_on

OWNER = "owner"  # the file that says whose a work directory is; it goes last, so that the next run takes up the rest

_PRIVATE = 0o700
_NAMED_AT_MOST = 3  # problems in one message


class _Stuck(Exception):
    """Something cannot be deleted, and trying again would not help."""


def delete_tree(path: Path, check: Check = go_on) -> None:
    """Delete the directory `path` and all below it, whatever the modes and however deep; raises InternalFailure.

    What a command put in its place, a link or a file, goes as what it is. `check` is called before each deletion and
    may raise to leave the rest to somebody else.
    """
    try:
        if not stat.S_ISDIR(os.lstat(path).st_mode):
            os.unlink(path)
            return
        top = _open_directory(path, None, None)
    except FileNotFoundError:
        return
    except (OSError, _Stuck) as error:
        raise InternalFailure(f"Cannot delete {str(path)!r}: {_reason(error)}") from error
    try:
        problems = _Deletion(top, check).run()
        if not problems:
            with suppress(FileNotFoundError):
                os.rmdir(path)
    except OSError as error:
        problems = [_reason(error)]
    finally:
        os.close(top)
    if problems:
        more = f"; {len(problems) - _NAMED_AT_MOST} more" if len(problems) > _NAMED_AT_MOST else ""
        raise InternalFailure(f"Cannot delete {str(path)!r}: {'; '.join(problems[:_NAMED_AT_MOST])}{more}")


def delete_all_but(path: Path, spared: Collection[Path]) -> None:
    """Delete what is at `path` except the directories `spared` and those they are in; raises InternalFailure."""
    if path in spared:
        return
    try:
        if not stat.S_ISDIR(os.lstat(path).st_mode):
            os.unlink(path)
        elif not any(place.is_relative_to(path) for place in spared):
            delete_tree(path)
        else:
            os.chmod(path, _PRIVATE)
            for name in os.listdir(path):
                delete_all_but(path / name, spared)
    except OSError as error:
        raise InternalFailure(f"Cannot delete {str(path)!r}: {_reason(error)}") from error


class _Deletion:
    """One directory on its way out. A directory in a directory is moved up beside it before it is emptied."""

    def __init__(self, top: int, check: Check) -> None:
        self._top, self._mount, self._check = top, linux.mount_of(top), check
        self._numbers = itertools.count()
        self._prefix = os.urandom(8).hex()  # so that no name that a command chose is in the way
        self._origins: dict[str, str] = {}  # where a directory that was moved up came from
        self._stuck: set[str] = set()  # in the top directory
        self._problems: list[str] = []

    def run(self) -> list[str]:
        """Delete what can be; return what could not, and why."""
        while folders := [name for name in self._files(self._top, "", spare=OWNER) if name not in self._stuck]:
            for name in folders:
                if not self._empty(name):
                    self._stuck.add(name)
        if not self._problems:
            with suppress(FileNotFoundError):
                os.unlink(OWNER, dir_fd=self._top)
        return self._problems

    def _empty(self, name: str) -> bool:
        """Delete the directory `name` of the top directory; what is in it may stay beside it for now."""
        origin = self._origins.pop(name, name)
        try:
            folder = _open_directory(name, self._top, self._mount)
        except FileNotFoundError:  # somebody else deletes it, too
            return False
        except (OSError, _Stuck) as error:
            return self._note(origin, error)
        before = len(self._problems)
        try:
            for inner in self._files(folder, origin):
                self._move_up(inner, folder, f"{origin}/{inner}")
        except OSError as error:
            return self._note(origin, error)
        finally:
            os.close(folder)
        return len(self._problems) == before and self._delete(name, self._top, origin, os.rmdir)

    def _move_up(self, name: str, folder: int, origin: str) -> None:
        moved = f"{self._prefix}-{next(self._numbers)}"

        def move(name: str, *, dir_fd: int) -> None:
            os.rename(name, moved, src_dir_fd=dir_fd, dst_dir_fd=self._top)

        if self._delete(name, folder, origin, move):
            self._origins[moved] = origin

    def _files(self, folder: int, origin: str, spare: str = "") -> list[str]:
        """Delete what is no directory, and empty directories, in `folder`; return the names of the other directories.

        Files that cannot be deleted are noted, once: in the top directory they are met again.
        """
        left, present = [], []
        with suppress(FileNotFoundError), os.scandir(folder) as entries:  # it may be gone itself
            present = list(entries)
        for entry in present:
            if entry.is_dir(follow_symlinks=False):
                try:
                    os.rmdir(entry.name, dir_fd=folder)
                except OSError:
                    left.append(entry.name)
            elif entry.name != spare and not (folder == self._top and entry.name in self._stuck):
                place = f"{origin}/{entry.name}" if origin else entry.name
                if not self._delete(entry.name, folder, place, os.unlink) and folder == self._top:
                    self._stuck.add(entry.name)
        return left

    def _delete(self, name: str, folder: int, origin: str, call: Callable[..., None]) -> bool:
        """Do `call`, once more when what forbids it could be taken away; False, noted, when it cannot be done."""
        self._check()
        try:
            try:
                call(name, dir_fd=folder)
            except PermissionError:
                _unprotect(name, folder, self._mount)
                call(name, dir_fd=folder)
        except FileNotFoundError:
            return True
        except (OSError, _Stuck) as error:
            return self._note(origin, _Stuck(_whose(name, folder)) if _is_forbidden(error) else error)
        return True

    def _note(self, origin: str, error: Exception) -> bool:
        self._problems.append(f"{origin!r} {_reason(error)}")
        return False


def _open_directory(path: str | Path, parent: int | None, mount: tuple[int, int] | None) -> int:
    """Open a directory with all rights to it; raises _Stuck for one that is another file system's, or another's."""
    handle = os.open(path, linux.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=parent)
    try:
        if mount is not None and linux.mount_of(handle) != mount:
            raise _Stuck("is a mount point: unmount it")
    finally:
        os.close(handle)
    try:
        return _opened(path, parent)
    except PermissionError as error:
        raise _Stuck(_whose(path, parent)) from error


def _opened(path: str | Path, parent: int | None) -> int:
    status = os.stat(path, dir_fd=parent, follow_symlinks=False)
    if status.st_mode & _PRIVATE != _PRIVATE:
        with suppress(PermissionError):
            os.chmod(path, _PRIVATE, dir_fd=parent)
    return os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=parent)


def _unprotect(name: str, folder: int, mount: tuple[int, int]) -> None:
    """Take away what may forbid the deletion of an entry: modes and flags, of it and of its directory."""
    make_mutable(folder)
    status = os.stat(name, dir_fd=folder, follow_symlinks=False)
    kind = stat.S_IFMT(status.st_mode)
    if kind == stat.S_IFDIR:
        os.close(_open_directory(name, folder, mount))
    if kind in {stat.S_IFDIR, stat.S_IFREG}:
        with suppress(OSError):
            flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
            entry = os.open(name, flags, dir_fd=folder)
            try:
                make_mutable(entry)
            finally:
                os.close(entry)


def _is_forbidden(error: Exception) -> bool:
    return isinstance(error, PermissionError)


def _whose(path: str | Path, parent: int | None) -> str:
    """Return whose something is that we may not delete."""
    try:
        owner = os.stat(path, dir_fd=parent, follow_symlinks=False).st_uid
    except OSError:
        return "is not accessible"
    return "is protected" if owner == os.geteuid() else f"belongs to user {owner}"


def _reason(error: Exception) -> str:
    if isinstance(error, OSError):
        return "is a mount point: unmount it" if error.errno == errno.EBUSY else f"{error.strerror}"
    return str(error)
