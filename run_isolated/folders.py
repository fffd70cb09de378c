"""What each directory of a mapped tree holds, as it should be found on disk: pure, and written as a stream.

Knows no disk and no cache. One `Folder` after another, parents first, so that a tree of any size is compared while one
of them is in memory. The invariant: when `read` comes to its end without an error, what it yielded was
written by `write`, to the last bit.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from os import fsdecode, fsencode
from typing import BinaryIO, NamedTuple

import msgspec

from isolate.cas.digest import BLAKE3, Algorithm, Blob
from isolate.errors import InvalidRecord
from run_isolated.mapper import Plan, own_mode

_LENGTH_BYTES = 4
MAX_FOLDER_BYTES = 1 << 30  # a directory of millions of names; more means that these are not our bytes

Variant = tuple[Blob, bool]  # one file of the cache: its content, and whether it is executable


class Fact(NamedTuple):
    """A file of the cache that a tree shares, as it was when it was mapped."""

    size: int
    mtime_ns: int
    inode: int
    is_executable: bool
    digest: bytes

    @property
    def variant(self) -> Variant:
        return Blob(self.digest, self.size), self.is_executable


class Facts:
    """Packs facts of one algorithm."""

    def __init__(self, algorithm: Algorithm) -> None:
        self._layout = struct.Struct(f"<QqQ?{algorithm.digest_bytes}s")

    def pack(self, facts: Iterable[tuple[int, int, int, bool, bytes]]) -> bytes:
        pack = self._layout.pack
        return b"".join([pack(*fact) for fact in facts])

    def unpack(self, packed: bytes) -> Iterator[Fact]:
        """Yield what was packed; raises InvalidRecord."""
        try:
            return map(Fact._make, self._layout.iter_unpack(packed))
        except struct.error as error:
            raise InvalidRecord(f"Facts of a kept tree are damaged: {error}") from error


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


def folders_of(tree: Plan, cached: Mapping[Variant, tuple[int, int, int]], facts: Facts) -> Iterator[Folder]:
    """Yield the directories of `tree`, parents first; `cached` says what its files are in the cache.

    For trees without tars: what is in those nobody knows without reading them.
    """
    contents: dict[str, _Content] = {path: _Content() for path in ("", *tree.directories)}
    for path in tree.directories:
        above, _, name = path.rpartition("/")
        contents[above].folders.append(fsencode(name))
    for entry in tree.files:
        if entry.blob is not None:
            above, _, name = entry.path.rpartition("/")
            content, executable = contents[above], entry.is_executable
            content.names.append(name)
            content.facts.append((*cached[entry.blob, executable], executable, entry.blob.digest))
    for entry in tree.empty_files:
        above, _, name = entry.path.rpartition("/")
        contents[above].empties.append((fsencode(name), own_mode(entry)))
    for entry in tree.links:
        above, _, name = entry.path.rpartition("/")
        contents[above].links.append((fsencode(name), fsencode(entry.target or "")))
    for path, content in contents.items():
        files = fsencode("\0".join(content.names))
        yield Folder(fsencode(path), files, facts.pack(content.facts), content.empties, content.links, content.folders)


def write(file: BinaryIO, folders: Iterable[Folder]) -> None:
    """Write `folders`, an end and a check."""
    encode, hasher = msgspec.msgpack.Encoder().encode, BLAKE3.hasher()
    for folder in folders:
        body = encode(folder)
        hasher.update(body)
        file.write(len(body).to_bytes(_LENGTH_BYTES, "little") + body)
    file.write(bytes(_LENGTH_BYTES) + hasher.digest())


def read(file: BinaryIO) -> Iterator[Folder]:
    """Yield what was written; raises InvalidRecord for anything else, at the latest at the end."""
    decode, hasher = msgspec.msgpack.Decoder(Folder).decode, BLAKE3.hasher()
    while length := int.from_bytes(_exactly(file, _LENGTH_BYTES), "little"):
        if length > MAX_FOLDER_BYTES:
            raise InvalidRecord(f"A directory of {length} bytes in a kept tree")
        body = _exactly(file, length)
        hasher.update(body)
        try:
            yield decode(body)
        except msgspec.DecodeError as error:
            raise InvalidRecord(f"The list of a kept tree is damaged: {error}") from error
    if file.read() != hasher.digest():
        raise InvalidRecord("The list of a kept tree is damaged: its check differs")


def _exactly(file: BinaryIO, length: int) -> bytes:
    data = file.read(length)
    if len(data) != length:
        raise InvalidRecord("The list of a kept tree is cut off")
    return data
