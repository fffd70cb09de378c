"""A mapped tree that outlived its run, as it lies in its directory: see reuse.py.

Knows not where kept trees are. The invariant: what is told of a tree was written when it was kept, to the last bit.
"""

from __future__ import annotations

import itertools
from array import array
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import msgspec

from isolate.cas.foreign import open_plain
from isolate.errors import InvalidRecord
from run_isolated import folders
from run_isolated.folders import Folder
from run_isolated.sealing import read_sealed, write_sealed


class About(msgspec.Struct, frozen=True, array_like=True):
    """A kept tree without its names."""

    version: int
    namespace: str
    boot_id: str
    command: list[bytes]
    relative_cwd: bytes | None
    proven_ns: int  # ctime, on the cache's file system, from which on somebody else may have written
    touched_s: int  # when the cache was last told that the files were used
    names: int
    sketch: bytes

    def proven_at(self, proven_ns: int) -> About:
        """Return the same, of a tree that was looked at once more."""
        return msgspec.structs.replace(self, proven_ns=proven_ns)


@dataclass(frozen=True, slots=True)
class Shared:
    """What a kept tree has of the cache; apart, because only who takes the tree reads it."""

    sizes: array[int]  # of all blobs, manifests included
    facts: Iterable[bytes]  # of the files of the cache that it shares, list by list; to be gone through several times


@dataclass(frozen=True, slots=True)
class Taken:
    """A tree that is ours now: in `path`, not compared yet."""

    path: Path
    about: About

    @property
    def tree(self) -> Path:
        return self.path / "tree"

    def shared(self) -> Shared | None:
        """Return what it has of the cache; None when that cannot be told any more."""
        path = self.path / "shared"
        try:
            with open_plain(path) as file:
                records = read_sealed(file)
                sizes = array("Q", next(records, b""))
                for _ in records:
                    pass  # up to the check at the end
        except (OSError, InvalidRecord, ValueError):
            return None
        return Shared(sizes, _FactsOf(path))

    def folders(self) -> Iterator[Folder]:
        """Yield what it should hold; raises InvalidRecord."""
        with open_plain(self.path / "folders") as file:
            yield from folders.read(file)


def write_lists(place: Path, shared: Shared, wanted: Iterable[Folder]) -> None:
    """Write in the directory `place` what a tree shares and holds; raises OSError, TooLarge."""
    with open(place / "folders", "wb") as file:
        folders.write(file, wanted)
    with open(place / "shared", "wb") as file:
        write_sealed(file, itertools.chain([shared.sizes.tobytes()], filter(None, shared.facts)))


class _FactsOf(Iterable[bytes]):
    """The facts in a file that was read to its end before."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __iter__(self) -> Iterator[bytes]:
        try:
            with open_plain(self._path) as file:
                yield from itertools.islice(read_sealed(file), 1, None)
        except OSError as error:
            raise InvalidRecord(f"The tree was taken away: {error.strerror}") from error
