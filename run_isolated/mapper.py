"""A tree is made as it was planned.

Knows no store: what it maps is in the cache already, and pinned. `apply` makes the directories of a run parents first,
each before the files in it, and the links of all runs at the very end, so that nothing is ever written through a link,
whatever the manifest or the file system (case, normalisation) make of the names. The invariants: nothing outside the
destination is created or changed; memory does not depend on the size of the tree.

Mapped by hard link a file is the cache's own: read-only, 0444 or 0555. Of its mode the executable bit is promised.
"""

from __future__ import annotations

import errno
import os
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

from isolate.cas.cache import LocalCache
from isolate.cas.digest import Blob
from isolate.entries import Entry
from isolate.errors import InvalidInput, InvalidManifest, IsolateError, LostFromCache, NoSpace
from isolate.spool import Spool
from run_isolated import linux
from run_isolated.linked import Linked, Variant
from run_isolated.many_links import ManyLinks, Places
from run_isolated.plans import Plan
from run_isolated.stopping import Check, checked, go_on

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
class Mapped:
    """What was made; `linked` are the files of the cache that the tree now shares."""

    linked: Linked
    copied_files: int = 0
    problem: str = ""  # why it was not made as asked for
    names: int = 0
    tars: int = 0


def apply(
    plans: Iterable[Plan],
    cache: LocalCache,
    destination: Path,
    how: How = How.LINK,
    check: Check = go_on,
    others: ManyLinks | None = None,
) -> Mapped:
    """Make the tree at `destination`, which is empty or does not exist; `others` make links, too.

    Raises InvalidInput when it is neither, InvalidManifest for names this file system cannot hold side by side,
    LostFromCache when the cache lost a file, NoSpace. After an error what was made so far is the caller's to remove.
    """
    linked, late = Linked(cache.namespace.algorithm, cache.temporary), _Late(cache)
    names = 0
    try:
        _make_destination(destination)
        with directory(destination) as root, directory(cache.files_dir) as files:
            places = Places(str(cache.files_dir), str(destination))
            maker = _Maker(root, files, how, check, others or ManyLinks(), places)
            above, shares = len(str(cache.files_dir)) + 1, how.is_shared
            for run in plans:
                shares = how.is_shared
                sources = cache.paths(
                    [(entry.blob, shares and entry.is_executable) for entry in run.files if entry.blob]
                )
                linked.append(maker.make_files(run, [source[above:] for source in sources]))
                maker.make_empty_files(run)
                late.add(run)
                names += run.names
            late.extract_tars(destination)
            late.make_links(root)
    except OSError as error:
        raise _explained(error, destination) from error
    return Mapped(linked, maker.copied_files, maker.problem, names, late.tars)


class _Late:
    """Tars and links, which have to wait until all directories and files are made."""

    def __init__(self, cache: LocalCache) -> None:
        self._cache = cache
        self._tars, self._links = Spool(cache.temporary), Spool(cache.temporary)  # a record for each run
        self.tars = 0

    def add(self, run: Plan) -> None:
        if not run.tars and not run.links:
            return
        from msgspec.msgpack import encode

        if run.tars:
            self.tars += len(run.tars)
            self._tars.append(encode([(os.fsencode(entry.path), *entry.blob) for entry in run.tars if entry.blob]))
        if run.links:
            links = [(os.fsencode(entry.path), os.fsencode(entry.target or "")) for entry in run.links]
            self._links.append(encode(links))

    def extract_tars(self, destination: Path) -> None:
        for record in self._tars:
            from msgspec.msgpack import decode

            from run_isolated import tar  # few trees have one

            for path, digest, size in decode(record):
                archive = self._cache.path(Blob(digest, size))
                tar.extract(archive, destination, os.fsdecode(path).rpartition("/")[0])

    def make_links(self, root: int) -> None:
        for record in self._links:
            from msgspec.msgpack import decode

            for path, target in decode(record):
                os.symlink(target, path, dir_fd=root)


class _Maker:
    """Makes one tree; stops trying what this file system cannot do.

    All paths are relative to open directories: resolving long prefixes twice per link takes a third of the time.
    """

    def __init__(self, root: int, files: int, how: How, check: Check, many: ManyLinks, places: Places) -> None:
        self._root, self._files = root, files  # descriptors of the destination, and of the cache's files
        self._check, self._many, self._places = check, many, places
        self._may_link = self._copies_are_shared = how.is_shared  # a copy in place of a link has the link's mode
        self._may_clone = how is How.REFLINK
        self._may_copy = how is not How.ONLY_LINK
        self.copied_files = 0
        self.problem = ""

    def make_empty_files(self, tree: Plan) -> None:
        """Make the files that need no content."""
        for entry in tree.empty_files:
            os.close(os.open(entry.path, _CREATE, own_mode(entry), dir_fd=self._root))

    def make_files(self, tree: Plan, sources: Sequence[str]) -> list[Variant]:
        """Make all directories, and files; return which of the cache they are links to, each once."""
        entries, directories = tree.files, _Directories(tree, self._root, self._check)
        copied: set[int] = set()

        def make_one(number: int) -> None:
            self._check()
            entry, source = entries[number], sources[number]
            if not (self._may_link and self._link(source, entry.path)):
                copied.add(number)
                shared_mode = 0o555 if entry.is_executable else 0o444
                self._copy(source, entry.path, shared_mode if self._copies_are_shared else own_mode(entry))

        directories.make_until(1)
        for number in range(len(entries))[:1]:
            make_one(number)
        others = range(1, len(entries))
        linkers = self._many.for_links(len(others)) if self._may_link else None
        if linkers is not None:
            paths = [entry.path for entry in entries]
            linkers.make(self._places, others, sources, paths, make_one, directories.make_until)
        directories.make_all()
        if linkers is None:
            for number in others:
                make_one(number)
        linked = [(entry.blob, entry.is_executable) for number, entry in enumerate(entries) if number not in copied]
        return list(dict.fromkeys((blob, executable) for blob, executable in linked if blob is not None))

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


class _Directories:
    """The directories of one run, made as they are needed: others make links in the first ones meanwhile."""

    def __init__(self, tree: Plan, root: int, check: Check) -> None:
        self._tree, self._root, self._check = tree, root, check
        self._made = 0

    def make_until(self, number: int) -> None:
        """Make those that the first `number` files need."""
        self._make(bisect_left(self._tree.files_before, number, self._made))

    def make_all(self) -> None:
        self._make(len(self._tree.directories))

    def _make(self, count: int) -> None:
        for path in checked(self._tree.directories[self._made : count], self._check):
            os.mkdir(path, dir_fd=self._root)
        self._made = max(self._made, count)


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


def _lost(source: str) -> LostFromCache:
    return LostFromCache([bytes.fromhex(os.path.basename(source).partition(".")[0])], "the cache")


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
        case number if number in _NO_LINK and error.filename2:
            return IsolateError(f"Cannot link {path} to the cache: {error.strerror}; --map auto copies such files")
    return IsolateError(f"Cannot map the tree into {destination}: {error.strerror}: {path}")
