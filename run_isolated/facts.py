"""What the files of the cache were that a tree shares, when it was mapped: packed, list by list.

Knows no tree and no cache. The invariant: what is unpacked is what was packed, or InvalidRecord.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from isolate.cas.digest import Algorithm, Blob
from isolate.errors import InvalidRecord
from run_isolated.linked import Variant


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
        self._digest_bytes = algorithm.digest_bytes
        self.layout = struct.Struct(f"<QqQ?{algorithm.digest_bytes}s")
        self.fact_bytes = self.layout.size

    def pack(self, facts: Iterable[tuple[int, int, int, bool, bytes]]) -> bytes:
        pack = self.layout.pack
        return b"".join([pack(*fact) for fact in facts])

    def known(self, packed: bytes) -> dict[Variant, tuple[int, int, int]]:
        """Return size, mtime_ns and inode of each file of which facts were packed; raises InvalidRecord."""
        return {
            (Blob(digest, size), executable): (size, mtime_ns, inode)
            for size, mtime_ns, inode, executable, digest in self.unpack(packed)
        }

    def count(self, packed: bytes) -> int:
        """Return how many facts were packed; raises InvalidRecord."""
        count, rest = divmod(len(packed), self.fact_bytes)
        if rest:
            raise InvalidRecord(f"Facts of a kept tree are damaged: {rest} bytes are left over")
        return count

    def variants(self, packed: bytes) -> list[Variant]:
        """Return the files of which facts were packed; raises InvalidRecord."""
        return [fact.variant for fact in self.unpack(packed)]

    def digests(self, packed: bytes) -> Iterator[bytes]:
        """Yield only the digests of what was packed: they are at the end of each fact."""
        size, length = self.fact_bytes, self._digest_bytes
        return (packed[end - length : end] for end in range(size, len(packed) + 1, size))

    def unpack(self, packed: bytes) -> Iterator[Fact]:
        """Yield what was packed; raises InvalidRecord."""
        try:
            return map(Fact._make, self.layout.iter_unpack(packed))
        except struct.error as error:
            raise InvalidRecord(f"Facts of a kept tree are damaged: {error}") from error
