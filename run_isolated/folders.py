"""What each directory of a mapped tree holds, as it should be found on disk, written and read as a stream.

Knows no tree on disk and no cache. One `Folder` after another, parents first, so that a tree of any size is compared
while one of them is in memory. The invariant: a directory is described once and whole, whichever runs it came in.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from os import fsdecode, fsencode
from typing import BinaryIO

import msgspec

from isolate.errors import InvalidRecord, TooLarge
from isolate.parts import may_follow_below
from isolate.spool import Spool
from run_isolated.facts import Facts
from run_isolated.linked import Variant
from run_isolated.mapper import own_mode
from run_isolated.plans import Plan
from run_isolated.sealing import read_sealed, write_sealed

MAX_FOLDER_NAMES = 1 << 18  # files in one directory, which is in memory as a whole: about 100 MB
_NO_NAMES = {b"", b".", b".."}
_MODE = 0o777


class Folder(msgspec.Struct, frozen=True, array_like=True):
    """One directory: the names in it and what they are. Names and paths are bytes, since a name need not be text."""

    path: bytes  # below the root, which is b""
    files: bytes  # names with NULs between, of the files shared with the cache
    facts: bytes  # of those, in their order
    empties: list[tuple[bytes, int]]  # name and mode
    links: list[tuple[bytes, bytes]]  # name and target
    folders: list[bytes]

    @property
    def file_names(self) -> list[str]:
        return fsdecode(self.files).split("\0") if self.files else []


@dataclass(slots=True)
class _Content:
    names: list[str] = field(default_factory=list)
    facts: list[tuple[int, int, int, bool, bytes]] = field(default_factory=list)
    empties: list[tuple[bytes, int]] = field(default_factory=list)
    links: list[tuple[bytes, bytes]] = field(default_factory=list)
    folders: list[bytes] = field(default_factory=list)


Known = tuple[Plan, Mapping[Variant, tuple[int, int, int]]]  # a run, and what its files are in the cache


class _Folders:
    """The directories of a tree, described run by run."""

    def __init__(self, facts: Facts, temporary: Callable[[], str]) -> None:
        self._facts = facts
        self._open: dict[str, _Content] = {"": _Content()}  # parents first
        self._closed = Spool(temporary)  # what is below comes before what is above
        self._encode = msgspec.msgpack.Encoder().encode

    def add(self, plan: Plan, cached: Mapping[Variant, tuple[int, int, int]]) -> None:
        opened = self._open
        for path in plan.directories:
            opened[path] = _Content()
        for path in plan.directories:
            above, _, name = path.rpartition("/")
            opened[above].folders.append(fsencode(name))
        for entry in plan.files:
            if entry.blob is not None:
                above, _, name = entry.path.rpartition("/")
                content, executable = opened[above], entry.is_executable
                content.names.append(name)
                content.facts.append((*cached[entry.blob, executable], executable, entry.blob.digest))
        for entry in plan.empty_files:
            above, _, name = entry.path.rpartition("/")
            opened[above].empties.append((fsencode(name), own_mode(entry)))
        for entry in plan.links:
            above, _, name = entry.path.rpartition("/")
            opened[above].links.append((fsencode(name), fsencode(entry.target or "")))
        for path, content in opened.items():
            if len(content.names) > MAX_FOLDER_NAMES:
                raise TooLarge(f"Directory {path!r} has more than {MAX_FOLDER_NAMES} files")

    def close(self, last: str) -> None:
        """Put away the directories that nothing after the path `last` is in."""
        for path in reversed(self._open):
            if path and not may_follow_below(path, last):
                self._closed.append(self._encode(self._folder(path, self._open[path])))
        self._open = {path: content for path, content in self._open.items() if not path or may_follow_below(path, last)}

    def all(self) -> Iterator[Folder]:
        """Yield all directories, parents first."""
        for path, content in self._open.items():
            yield self._folder(path, content)
        decode = msgspec.msgpack.Decoder(Folder).decode
        for encoded in reversed(self._closed):
            yield decode(encoded)

    def _folder(self, path: str, content: _Content) -> Folder:
        files = fsencode("\0".join(content.names))
        facts = self._facts.pack(content.facts)
        return Folder(fsencode(path), files, facts, content.empties, content.links, content.folders)


def folders_of(runs: Iterable[Known], facts: Facts, temporary: Callable[[], str]) -> Iterator[Folder]:
    """Yield the directories of a tree, parents first; raises TooLarge for one that is too large to be described.

    For trees without tars: what is in those nobody knows without reading them. `temporary` returns a path for a file.
    """
    folders = _Folders(facts, temporary)
    last = ""
    for plan, cached in runs:
        if last:
            folders.close(last)
        folders.add(plan, cached)
        last = plan.last
    yield from folders.all()


def write(file: BinaryIO, folders: Iterable[Folder]) -> None:
    """Write `folders`, an end and a check."""
    write_sealed(file, map(msgspec.msgpack.Encoder().encode, folders))


def read(file: BinaryIO) -> Iterator[Folder]:
    """Yield what was written; raises InvalidRecord for anything else, at the latest at the end.

    A directory comes once, after the one that has its name among its `folders`, so that no path leads out of the tree.
    """
    decode = msgspec.msgpack.Decoder(Folder).decode
    announced = {b""}
    for record in read_sealed(file):
        try:
            folder = decode(record)
        except msgspec.DecodeError as error:
            raise InvalidRecord(f"The list of a kept tree is damaged: {error}") from error
        if folder.path not in announced:
            raise InvalidRecord(f"The list of a kept tree has {folder.path!r} in a place of its own")
        _check_names(folder)
        announced.remove(folder.path)
        announced.update(folder.path + b"/" + name if folder.path else name for name in folder.folders)
        yield folder
    if announced:
        raise InvalidRecord(f"The list of a kept tree does not say what is in {announced.pop()!r}")


def _check_names(folder: Folder) -> None:
    """Raise InvalidRecord unless the names in a directory are names, and each is there once."""
    names = [name for name, _ in folder.empties] + [name for name, _ in folder.links] + folder.folders
    is_plain = b"/" not in folder.files and not any(b"/" in name or b"\0" in name for name in names)
    names += folder.files.split(b"\0") if folder.files else []
    distinct = set(names)
    if not is_plain or len(distinct) < len(names) or not distinct.isdisjoint(_NO_NAMES):
        raise InvalidRecord(f"The list of a kept tree has a directory {folder.path!r} that cannot be")
    if any(mode & ~_MODE for _, mode in folder.empties):
        raise InvalidRecord(f"The list of a kept tree has modes in {folder.path!r} that no file gets")
