"""A manifest becomes a directory tree: decided first, made after.

Knows no store: what it maps is in the cache already, and pinned. `plan` is pure; `apply` makes directories parents
first, then files, then links, so that nothing is ever written through a link, whatever the manifest or the file system
(case, normalisation) make of the names. The invariant: nothing outside the destination is created or changed.

Mapped by hard link a file is the cache's own: read-only, 0444 or 0555. Of its mode the executable bit is promised.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

from isolate.cas.cache import LocalCache
from isolate.cas.digest import Blob
from isolate.entries import Entry, Kind
from isolate.errors import BlobsMissing, InvalidInput, InvalidManifest, IsolateError, NoSpace
from isolate.isolated import Manifest
from isolate.paths import RelPath
from run_isolated import linux

# Why a hard link is refused where a copy is possible: another device, too many links (65,000 on ext4), or a file system
# or kernel setting that has none for us.
_NO_LINK = {errno.EXDEV, errno.EMLINK, errno.EPERM, errno.ENOTSUP, errno.EACCES}
_COPY_BYTES = 1 << 20
_CREATE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW


class How(Enum):
    """How files get into a tree."""

    LINK = "auto"  # hard links to the cache, read-only; copies where there can be none
    ONLY_LINK = "hardlink"  # hard links, or an error
    REFLINK = "reflink"  # files of their own that share the bytes until one is written to; copies where they cannot
    COPY = "copy"  # files of their own, with the mode of the manifest

    @property
    def is_shared(self) -> bool:
        """Whether files of the tree are files of the cache."""
        return self in {How.LINK, How.ONLY_LINK}


@dataclass(frozen=True, slots=True)
class Plan:
    """What to make, in this order."""

    directories: tuple[str, ...]  # parents first
    empty_files: tuple[Entry, ...]
    files: tuple[Entry, ...]
    tars: tuple[Entry, ...]
    links: tuple[Entry, ...]

    @property
    def names(self) -> int:
        """How many names the tree has, not counting what is in tars."""
        return len(self.directories) + len(self.empty_files) + len(self.files) + len(self.links)


@dataclass(frozen=True, slots=True)
class Mapped:
    """What was made; `linked` are the files of the cache that the tree now shares, each once."""

    linked: tuple[tuple[str, Blob, bool], ...]  # path in the cache, blob, executable
    copied_files: int
    problem: str = ""  # why it was not made as asked for


def plan(manifest: Manifest) -> Plan:
    """Return how the tree of `manifest`, which has no includes left, is made."""
    directories: dict[str, None] = {}
    empty_files: list[Entry] = []
    files: list[Entry] = []
    tars: list[Entry] = []
    links: list[Entry] = []
    file, folder, link = Kind.FILE, Kind.DIR, Kind.LINK  # looking up a member takes longer than all else here
    for entry in manifest.entries:
        path, kind, blob, _, _ = entry
        if blob is not None:
            if kind is file:
                (files if blob.size else empty_files).append(entry)
            elif blob.size:
                tars.append(entry)
        elif kind is link:
            links.append(entry)
        parent = path if kind is folder else path.rpartition("/")[0]
        if parent and parent not in directories:
            directories |= dict.fromkeys(RelPath(parent).parents)
            directories[parent] = None
    return Plan(tuple(directories), tuple(empty_files), tuple(files), tuple(tars), tuple(links))


def apply(tree: Plan, cache: LocalCache, destination: Path, how: How = How.LINK) -> Mapped:
    """Make the tree at `destination`, which is empty or does not exist.

    Raises InvalidInput when it is neither, InvalidManifest for names this file system cannot hold side by side,
    BlobsMissing when the cache lost a file, NoSpace. After an error what was made so far is the caller's to remove.
    """
    sources = cache.paths([(entry.blob, how.is_shared and entry.is_executable) for entry in tree.files if entry.blob])
    try:
        _make_destination(destination)
        with directory(destination) as root, directory(cache.files_dir) as files:
            maker = _Maker(root, files, how)
            maker.make_directories(tree)
            maker.make_files(tree.files, [source[len(str(cache.files_dir)) + 1 :] for source in sources])
            for entry in tree.tars:
                if entry.blob is not None:
                    from run_isolated import tar  # few trees have one

                    tar.extract(cache.path(entry.blob), destination, entry.path.rpartition("/")[0])
            maker.make_links(tree.links)
    except OSError as error:
        raise _explained(error, destination) from error
    linked = tuple((f"{cache.files_dir}/{source}", *what) for source, what in maker.linked.items())
    return Mapped(linked, maker.copied_files, maker.problem)


class _Maker:
    """Makes one tree; stops trying what this file system cannot do.

    All paths are relative to open directories: resolving long prefixes twice per link takes a third of the time.
    """

    def __init__(self, root: int, files: int, how: How) -> None:
        self._root, self._files = root, files  # descriptors of the destination, and of the cache's files
        self._may_link = self._copies_are_shared = how.is_shared  # a copy in place of a link has the link's mode
        self._may_clone = how is How.REFLINK
        self._may_copy = how is not How.ONLY_LINK
        self.linked: dict[str, tuple[Blob, bool]] = {}
        self.copied_files = 0
        self.problem = ""

    def make_directories(self, tree: Plan) -> None:
        """Make all directories and, since they need no content, the empty files."""
        for path in tree.directories:
            os.mkdir(path, dir_fd=self._root)
        for entry in tree.empty_files:
            os.close(os.open(entry.path, _CREATE, own_mode(entry), dir_fd=self._root))

    def make_files(self, entries: Sequence[Entry], sources: Sequence[str]) -> None:
        for entry, source in zip(entries, sources, strict=True):
            if self._may_link and self._link(source, entry.path):
                if source not in self.linked and entry.blob is not None:
                    self.linked[source] = (entry.blob, entry.is_executable)
            else:
                mode = (0o555 if entry.is_executable else 0o444) if self._copies_are_shared else own_mode(entry)
                self._copy(source, entry.path, mode)

    def make_links(self, entries: Sequence[Entry]) -> None:
        for entry in entries:
            os.symlink(entry.target or "", entry.path, dir_fd=self._root)

    def _link(self, source: str, path: str) -> bool:
        try:
            os.link(source, path, src_dir_fd=self._files, dst_dir_fd=self._root, follow_symlinks=False)
        except OSError as error:
            if error.errno not in _NO_LINK or not self._may_copy:
                raise
            self._may_link = error.errno == errno.EMLINK  # only this file has too many
            return False
        return True

    def _clone(self, reading: int, writing: int) -> bool:
        refusal = linux.share_bytes(reading, writing)
        if refusal:
            self._may_clone = False  # nor will the next one be
            self.problem = f"Files were copied: {refusal}"
        return not refusal

    def _copy(self, source: str, path: str, mode: int) -> None:
        try:
            reading = os.open(source, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW, dir_fd=self._files)
        except FileNotFoundError as error:
            raise _lost(source) from error
        try:
            writing = os.open(path, _CREATE, mode, dir_fd=self._root)
            try:
                if not (self._may_clone and self._clone(reading, writing)):
                    _copy_bytes(reading, writing)
                    self.copied_files += 1
            finally:
                os.close(writing)
        finally:
            os.close(reading)


def _make_destination(destination: Path) -> None:
    try:
        destination.mkdir(parents=True)
    except FileExistsError:
        if destination.is_symlink() or not destination.is_dir() or os.listdir(destination):
            raise InvalidInput(f"Cannot map into {destination}: not an empty directory") from None


@contextmanager
def directory(path: Path) -> Iterator[int]:
    """Open a directory to name files below it."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def own_mode(entry: Entry) -> int:
    """Return the mode of a file that is not shared: the owner's part, 0500 when the manifest says nothing."""
    return (entry.mode or 0o500) & 0o700


def _copy_bytes(reading: int, writing: int) -> None:
    """Copy in the kernel where that is possible; file systems that can share the bytes do."""
    try:
        while os.copy_file_range(reading, writing, _COPY_BYTES):
            pass
    except (OSError, AttributeError) as error:  # two file systems, or a kernel without it; what was copied stays
        if getattr(error, "errno", 0) in {errno.ENOSPC, errno.EDQUOT, errno.EIO}:
            raise
        while content := os.read(reading, _COPY_BYTES):
            view = memoryview(content)
            while view:
                view = view[os.write(writing, view) :]


def _lost(source: str) -> BlobsMissing:
    return BlobsMissing([bytes.fromhex(os.path.basename(source).partition(".")[0])], "the cache")


def _explained(error: OSError, destination: Path) -> IsolateError:
    """Return what went wrong in the words of whoever asked for the tree."""
    path = os.fsdecode(error.filename2 or error.filename or "")
    if path.startswith(f"{destination}/"):  # a member of a tar; a destination may be ours, under a name for a moment
        path = os.path.relpath(path, destination)
    match error.errno:
        case errno.ENOSPC | errno.EDQUOT:
            return NoSpace(f"No space left to map the tree into {destination}")
        case errno.EEXIST:
            return InvalidManifest(f"Cannot make {path}: another entry of the tree or its tars has this name")
        case errno.ENAMETOOLONG | errno.EILSEQ | errno.EINVAL:
            return InvalidManifest(f"Cannot make {path}: {error.strerror}")
        case errno.ENOENT if error.filename2:  # of a link: all directories of the tree are there
            return _lost(error.filename)
    return IsolateError(f"Cannot map the tree into {destination}: {error.strerror}: {path}")
