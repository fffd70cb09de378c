"""Which files of the cache a tree shares with it, one list for each run of the tree, as it was mapped.

Knows no paths: what a file is called follows from what it is. The invariant: at most HELD_FILES are in memory, the
others wait on disk.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from struct import Struct

from isolate.cas.digest import Algorithm, Blob
from isolate.spool import Spool

HELD_FILES = 1 << 17

Variant = tuple[Blob, bool]  # one file of the cache: its content, and whether it is executable


class Linked:
    """Lists of files, each file once in its list."""

    def __init__(self, algorithm: Algorithm, temporary: Callable[[], str]) -> None:
        """`temporary` returns a path for a new file."""
        self._layout = Struct(f"<?Q{algorithm.digest_bytes}s")
        self._held: list[Sequence[Variant]] = []
        self._spool = Spool(temporary)
        self.files = 0

    def append(self, variants: Sequence[Variant]) -> None:
        """Take the next list."""
        self.files += len(variants)
        if self.files <= HELD_FILES:
            self._held.append(variants)
        else:
            pack = self._layout.pack
            self._spool.append(
                b"".join([pack(is_executable, size, digest) for (digest, size), is_executable in variants])
            )

    def __iter__(self) -> Iterator[Sequence[Variant]]:
        yield from self._held
        for packed in self._spool:
            yield [(Blob(digest, size), executable) for executable, size, digest in self._layout.iter_unpack(packed)]
