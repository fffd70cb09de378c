"""The work directory of one run: made, owned, and deleted whatever a command did to it.

    <root>/ir-<12 hex>/owner    its owner holds a lock on it; when nobody does, the run is dead
                      /ir       the run directory: the tree is mapped here
                      /io       ${ISOLATED_OUTDIR}
                      /it       TMPDIR

The tools of 2020 used a fixed `ir`; a name of its own lets any number of runs share a root. Knows no command and no
store. The invariants: nothing outside the directory is ever deleted, because no link is followed; nobody deletes the
directory of a live run; what a SIGKILLed run left is deleted by the next one; where a command moved the directory to,
it is deleted all the same, as long as `/proc` tells and nothing hides it.
"""

from __future__ import annotations

import fcntl
import os
import re
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from isolate.cas.inode_flags import scatter
from isolate.errors import InternalFailure
from isolate.monitor import Monitor
from run_isolated.deletion import OWNER, delete_tree
from run_isolated.result import Stopped
from run_isolated.stopping import Check

__all__ = ["WorkDir", "abandoned", "delete_tree", "sweep"]

_KEPT_PREFIX = "kept-"
_NAME = re.compile(rf"({_KEPT_PREFIX})?ir-[0-9a-f]{{12}}")
_PRIVATE = 0o700
_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_PAUSES_S = (0.1, 1.0)  # before trying again to delete: a network disk or the kernel may need a moment


@dataclass(frozen=True, slots=True)
class WorkDir:
    """The directories of one run; `path` is above them all."""

    path: Path
    owner: int  # descriptor of the owner's file, locked
    folder: int  # and of the directory itself, wherever a command moves it

    @classmethod
    def make(cls, root: Path, *, keep: bool) -> WorkDir:
        """Make a fresh work directory in `root`, called `kept-ir-…` if it is to be kept; raises InternalFailure."""
        path = Path(os.path.realpath(root)) / f"{_KEPT_PREFIX if keep else ''}ir-{os.urandom(6).hex()}"
        opened: list[int] = []
        try:
            os.makedirs(root, exist_ok=True)
            os.mkdir(path, _PRIVATE)
            opened.append(_lock(path))
            opened.append(os.open(path, _FOLDER))
            made = cls(path, *opened)
            _make_scattered(made.run)
            for inner in (made.out, made.temp):
                os.mkdir(inner, _PRIVATE)
        except OSError as error:
            with suppress(OSError):  # the first reason is the one to tell
                _unmake(path, opened)
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

    def trees(self) -> list[Path]:
        """Return what is in it as long as no command was, but for its owner's file."""
        with suppress(OSError):
            return [self.path / name for name in os.listdir(self.path) if name != OWNER]
        return []

    @property
    def is_kept(self) -> bool:
        return is_kept(self.path)

    def close(self) -> None:
        """Delete it, or if it is to be kept leave it to whoever wanted that; raises InternalFailure."""
        try:
            if not self.is_kept:
                _delete_in_the_end(self.path)
                if (moved := _place_of(self.folder)) is not None:
                    _delete_in_the_end(moved)
            with suppress(FileNotFoundError):  # of one that is kept, or that nobody finds
                os.unlink(OWNER, dir_fd=self.folder)
        finally:
            os.close(self.owner)
            os.close(self.folder)


def is_kept(path: Path) -> bool:
    """Whether a work directory is to be kept when its run is over."""
    return path.name.startswith(_KEPT_PREFIX)


def _place_of(folder: int) -> Path | None:
    """Return where an open directory is now; None when it is nowhere any more, or nobody tells."""
    with suppress(OSError):
        place = os.readlink(f"/proc/self/fd/{folder}")
        if os.path.samestat(os.lstat(place), os.fstat(folder)):
            return Path(place)
    return None


def _make_scattered(path: Path) -> None:
    """Make a directory for a large tree away from where the last one was deleted; see `scatter`.

    The name it is made with decides where, so that is never the same.
    """
    above = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        scatter(above)
        name = os.urandom(6).hex()
        os.mkdir(name, _PRIVATE, dir_fd=above)
        os.rename(name, path.name, src_dir_fd=above, dst_dir_fd=above)
    finally:
        os.close(above)


def _unmake(path: Path, opened: list[int]) -> None:
    """Delete what `make` made, which nobody else had yet: with few descriptors, as it may be those that lack."""
    for descriptor in opened:
        os.close(descriptor)
    try:
        os.rmdir(path)  # nothing is opened for it
    except OSError:
        for name in os.listdir(path):
            (os.unlink if name.startswith(OWNER) else os.rmdir)(path / name)
        os.rmdir(path)


def _delete_in_the_end(path: Path) -> None:
    """Delete a work directory, in more than one try; raises InternalFailure."""
    for pause_s in _PAUSES_S:
        try:
            return delete_tree(path)
        except InternalFailure:
            time.sleep(pause_s)
    return delete_tree(path)


def _lock(path: Path) -> int:
    """Make the owner's file, locked before it has its name, and return its descriptor."""
    unnamed = path / f"{OWNER}-"
    descriptor = os.open(unnamed, os.O_CREAT | os.O_EXCL | os.O_RDWR | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.rename(unnamed, path / OWNER)
    except OSError:
        os.close(descriptor)
        raise
    return descriptor


def sweep(root: Path, end_processes: Callable[[Path], object], check: Check, monitor: Monitor) -> None:
    """End what runs that were killed left in `root`, and delete what was not to be kept; what cannot be is reported.

    `check` may raise to leave the rest to the next run.
    """
    for path in abandoned(root):
        monitor.count("abandoned_runs")
        end_processes(path)
        try:
            if is_kept(path):
                (path / OWNER).unlink(missing_ok=True)  # once: from now on it is its user's
            else:
                delete_tree(path, check)
        except Stopped:
            raise
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
        descriptor = os.open(path / OWNER, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError:  # being made, being deleted, or not ours: a name alone does not make it so
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        return None
    return descriptor
