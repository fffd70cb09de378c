"""The work directory of one run: made, owned, and deleted whatever a command did to it.

    <root>/ir-<12 hex>/owner    its owner holds a lock on it; when nobody does, the run is dead
                      /ir       the run directory: the tree is mapped here
                      /io       ${ISOLATED_OUTDIR}
                      /it       TMPDIR

The tools of 2020 used a fixed `ir`; a name of its own lets any number of runs share a root. Knows no command and no
store. The invariants: nothing outside the directory is ever deleted, because no link is followed; nobody deletes the
directory of a live run; what a SIGKILLed run left is deleted by the next one.
"""

from __future__ import annotations

import fcntl
import itertools
import os
import re
import secrets
import stat
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from isolate.errors import InternalFailure
from isolate.monitor import Monitor

_NAME = re.compile(r"ir-[0-9a-f]{12}")
_KEPT_PREFIX = "kept-"
_OWNER = "owner"
_PRIVATE = 0o700


@dataclass(frozen=True, slots=True)
class WorkDir:
    """The directories of one run; `path` is above them all."""

    path: Path
    owner: int  # descriptor of the owner's file, locked

    @classmethod
    def make(cls, root: Path, *, keep: bool) -> WorkDir:
        """Make a fresh work directory in `root`, called `kept-ir-…` if it is to be kept; raises InternalFailure."""
        path = Path(os.path.realpath(root)) / f"{_KEPT_PREFIX if keep else ''}ir-{secrets.token_hex(6)}"
        try:
            os.makedirs(root, exist_ok=True)
            os.mkdir(path, _PRIVATE)
            made = cls(path, _lock(path))
            for inner in (made.run, made.out, made.temp):
                os.mkdir(inner, _PRIVATE)
        except OSError as error:
            with suppress(InternalFailure):  # the first reason is the one to tell
                delete_tree(path)
            raise InternalFailure(f"Cannot make a work directory in {str(root)!r}: {error.strerror}") from error
        return made

    @property
    def run(self) -> Path:
        return self.path / "ir"

    @property
    def out(self) -> Path:
        return self.path / "io"

    @property
    def temp(self) -> Path:
        return self.path / "it"

    @property
    def is_kept(self) -> bool:
        return self.path.name.startswith(_KEPT_PREFIX)

    def close(self) -> None:
        """Delete it unless it is to be kept; raises InternalFailure."""
        try:
            if not self.is_kept:
                delete_tree(self.path)
        finally:
            os.close(self.owner)


def _lock(path: Path) -> int:
    """Make the owner's file, locked before it has its name, and return its descriptor."""
    unnamed = path / f"{_OWNER}-"
    descriptor = os.open(unnamed, os.O_CREAT | os.O_EXCL | os.O_RDWR | os.O_CLOEXEC, 0o600)
    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    os.rename(unnamed, path / _OWNER)
    return descriptor


def sweep(root: Path, end_processes: Callable[[Path], object], monitor: Monitor) -> None:
    """End and delete what runs that were killed left in `root`; what cannot be deleted is reported."""
    for path in abandoned(root):
        monitor.count("abandoned_runs")
        end_processes(path)
        try:
            delete_tree(path)
        except InternalFailure as error:
            monitor.problem(error)


def abandoned(root: Path) -> Iterator[Path]:
    """Yield the work directories in `root` whose owner is dead, each owned by us until the next one is asked for."""
    with suppress(OSError):
        for name in sorted(filter(_NAME.fullmatch, os.listdir(root))):
            path = Path(os.path.realpath(root)) / name
            owner = _take_over(path)
            if owner is not None:
                try:
                    yield path
                finally:
                    os.close(owner)


def _take_over(path: Path) -> int | None:
    """Return the owner's descriptor, now ours; None when the directory has an owner, or none that we know of."""
    try:
        descriptor = os.open(path / _OWNER, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError:  # being made, being deleted, or not ours: a name alone does not make it so
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        return None
    return descriptor


def delete_tree(path: Path) -> None:
    """Delete the directory `path` and all below it, whatever the modes and however deep; raises InternalFailure.

    Follows no link. A directory in a directory is moved up beside it before it is emptied: no depth can exhaust the
    stack, the descriptors or the length of a path. The owner's file goes last, so that a deletion that was interrupted
    is taken up by the next run.
    """
    try:
        top = _open_directory(path, None)
    except FileNotFoundError:
        return
    except OSError as error:
        raise InternalFailure(f"Cannot delete {str(path)!r}: {error.strerror}") from error
    try:
        _empty(top)
    except OSError as error:
        name = "" if error.filename is None else f" {os.fsdecode(error.filename)!r}:"
        raise InternalFailure(f"Cannot delete {str(path)!r}:{name} {error.strerror}") from error
    finally:
        os.close(top)
    with suppress(FileNotFoundError):
        os.rmdir(path)


def _empty(top: int) -> None:
    """Delete everything in the directory `top`."""
    numbers = itertools.count()
    ours = secrets.token_hex(8)  # so that no name that a command chose is in the way
    while folders := _delete_files(top, spare=_OWNER):
        for name in folders:
            folder = _open_directory(name, top)
            try:
                for inner in _delete_files(folder):
                    _make_accessible(inner, folder)
                    os.rename(inner, f"{ours}-{next(numbers)}", src_dir_fd=folder, dst_dir_fd=top)
            finally:
                os.close(folder)
            os.rmdir(name, dir_fd=top)
    with suppress(FileNotFoundError):
        os.unlink(_OWNER, dir_fd=top)


def _delete_files(folder: int, spare: str = "") -> list[str]:
    """Delete what is no directory, and empty directories, in `folder`; return the names of the other directories."""
    left = []
    with os.scandir(folder) as entries:
        present = list(entries)
    for entry in present:
        if entry.is_dir(follow_symlinks=False):
            try:
                os.rmdir(entry.name, dir_fd=folder)
            except OSError:
                left.append(entry.name)
        elif entry.name != spare:
            os.unlink(entry.name, dir_fd=folder)
    return left


def _open_directory(path: str | Path, parent: int | None) -> int:
    _make_accessible(path, parent)
    return os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=parent)


def _make_accessible(path: str | Path, parent: int | None) -> None:
    """Give the owner of a directory its rights back; one of another owner is left as it is."""
    status = os.stat(path, dir_fd=parent, follow_symlinks=False)
    if stat.S_ISDIR(status.st_mode) and status.st_mode & _PRIVATE != _PRIVATE:
        with suppress(PermissionError):
            os.chmod(path, _PRIVATE, dir_fd=parent)
