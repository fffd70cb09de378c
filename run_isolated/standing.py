"""Where a mapped tree stood when its command began, and which of its inputs may have left it since.

Knows no cache. A directory is ours if it is one, has the inode that it had, and is in one that is ours; so no link in
its place or above it, and nothing that was put there, is taken for it. What is below another one may be anywhere, and
so may everything be once the run directory is not where it was: below a link, or on another mount. A directory of ours
that is older than the command has the entries it had; the others are looked through.
"""

from __future__ import annotations

import os
import stat
from array import array
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from isolate.cas.mounts import has_mounts
from run_isolated import linux
from run_isolated.linked import Variant

_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


@dataclass(frozen=True, slots=True)
class Layout:
    """Where a mapped tree has what."""

    root: Path
    directories: Callable[[], Iterable[str]]  # below the root, which is "" and comes first; parents first
    # Yields the files of the cache in some of them: directory, name, and which file (blob, executable).
    files_in: Callable[[Collection[str]], Iterable[tuple[str, str, Variant]]]


@dataclass(frozen=True, slots=True)
class Standing:
    """One tree, as it stood."""

    layout: Layout
    place: str  # of the root, without links
    mount: tuple[int, int]
    inodes: array[int]  # of the directories, in their order

    @classmethod
    def note(cls, layout: Layout) -> Self:
        """Look at each directory; to be called before the command starts. Raises OSError."""
        place = os.path.realpath(layout.root)
        with _folder(place) as root:
            look = os.stat
            inodes = [look(path or ".", dir_fd=root, follow_symlinks=False).st_ino for path in layout.directories()]
            return cls(layout, place, linux.mount_of(root), array("Q", inodes))

    def is_in_place(self) -> bool:
        """Whether the root is where it was, no link or mount leads there, and nothing in it is mounted elsewhere."""
        if os.path.realpath(self.layout.root) != self.place or has_mounts(self.layout.root):
            return False
        with suppress(OSError), _folder(self.place) as root:
            return linux.mount_of(root) == self.mount and os.fstat(root).st_ino == self.inodes[0]
        return False

    def moved(self, since_ns: int, inode_of: Callable[[Variant], int | None]) -> set[Variant]:
        """Return the inputs that are not, or may not be, where they were when the command began.

        `since_ns` is a ctime that nothing has that was not touched since.
        """
        layout = self.layout
        if self.is_in_place():
            with suppress(OSError), _folder(self.place) as root:
                lost, touched = self._looked_at(root, since_ns)
                return _moved(root, layout, lost, touched, inode_of) if lost or touched else set()
        return {variant for _, _, variant in layout.files_in(set(layout.directories()))}

    def _looked_at(self, root: int, since_ns: int) -> tuple[set[str], set[str]]:
        """Return the directories that are not ours any more, and those of ours that were touched."""
        lost: set[str] = set()
        touched: set[str] = set()
        device = self.mount[0]
        for path, inode in zip(self.layout.directories(), self.inodes, strict=True):
            if lost and path.rpartition("/")[0] in lost:
                lost.add(path)
                continue
            try:
                status = os.stat(path or ".", dir_fd=root, follow_symlinks=False)
            except OSError:
                lost.add(path)
                continue
            if not stat.S_ISDIR(status.st_mode) or (status.st_dev, status.st_ino) != (device, inode):
                lost.add(path)
            elif status.st_ctime_ns >= since_ns:
                touched.add(path)
        return lost, touched


def _moved(
    root: int, layout: Layout, lost: set[str], touched: set[str], inode_of: Callable[[Variant], int | None]
) -> set[Variant]:
    """Return all files of the directories `lost`, and those of the `touched` ones whose name leads elsewhere."""
    moved: set[Variant] = set()
    inodes: dict[str, dict[str, int]] = {}
    for path, name, variant in layout.files_in(lost | touched):
        if path in touched:
            if path not in inodes:
                inodes[path] = _inodes(root, path)
            inode = inode_of(variant)
            if inode is not None and inodes[path].get(name) == inode:
                continue
        moved.add(variant)
    return moved


def _inodes(root: int, path: str) -> dict[str, int]:
    """Return which name in a directory leads to which inode; nothing when it cannot be read."""
    with suppress(OSError):
        folder = os.open(path or ".", _FOLDER, dir_fd=root)
        try:
            with os.scandir(folder) as entries:
                return {entry.name: entry.inode() for entry in entries}
        finally:
            os.close(folder)
    return {}


@contextmanager
def _folder(path: str) -> Iterator[int]:
    descriptor = os.open(path, _FOLDER)
    try:
        yield descriptor
    finally:
        os.close(descriptor)
