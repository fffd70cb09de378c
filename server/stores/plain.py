"""The plain bytes of one blob, piece by piece, whatever it is made of.

Knows no HTTP. The invariant: at most one chunk is open at a time, and every byte that leaves was verified.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence

from isolate.cas.block import Block, ChunkList
from isolate.errors import BlobsMissing
from server.stores.budget import ByteBudget
from server.stores.reading import RecordSource, Wanted
from server.stores.sqlite_index import Lookup

PIECE_BYTES = 256 << 10  # what a slow reader makes us hold besides the chunk itself

Find = Callable[[Sequence[bytes]], Awaitable[Lookup]]


class PlainSource:
    """Opens blobs of one namespace."""

    def __init__(self, source: RecordSource, find: Find, budget: ByteBudget) -> None:
        self._source, self._find, self._budget = source, find, budget

    async def pieces(self, digest: bytes, start: int, stop: int) -> AsyncGenerator[memoryview, None]:
        """Yield the bytes from `start` to `stop`; raises BlobsMissing, also when a chunk turns out to be bad."""
        content = await self._open(digest)
        if isinstance(content, memoryview):
            for at in range(start, min(stop, len(content)), PIECE_BYTES):
                yield content[at : min(at + PIECE_BYTES, stop)]
            return
        at = 0
        for chunk in content.chunks:
            if at < stop and at + chunk.size > start:
                part = await self._open(chunk.digest)
                if not isinstance(part, memoryview):
                    raise BlobsMissing([chunk.digest])
                yield part[max(0, start - at) : stop - at]
            at += chunk.size

    async def _open(self, digest: bytes) -> memoryview | ChunkList:
        """Return the content of a stored blob, or the chunks of a composed one."""
        lookup = await self._find([digest])
        if digest not in lookup.places:
            raise BlobsMissing([digest])
        place = lookup.places[digest]
        found: list[memoryview] = []

        def extract(block: Block, _wanted: Wanted) -> tuple[Block, ...]:
            # A copy: a slice would keep all of a block alive for one small file.
            found.extend(memoryview(bytes(content)) for blob, content in block.contents() if blob.digest == digest)
            return ()

        wanted = Wanted(lookup.blocks[place.block], {place.entry: digest})
        async with self._budget.lease(wanted.row.length + place.size):
            opened = await self._source.open([wanted], extract)
        if await self._source.report(opened):
            raise BlobsMissing([digest])
        return found[0] if found else next(record for record in opened.records if isinstance(record, ChunkList))
