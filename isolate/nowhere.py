"""A store that lacks nothing and keeps nothing: what to archive into for the hash alone.

The invariant: no byte leaves the process, and no file is read a second time.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence

from isolate.cas.block import Absent, Block, ChunkList
from isolate.cas.digest import Blob, Namespace
from isolate.cas.store import Written


class Nowhere:
    """A `BlobStore` that says it has everything, and cannot give it back."""

    def __init__(self, namespace: Namespace) -> None:
        self._namespace = namespace

    @property
    def namespace(self) -> Namespace:
        return self._namespace

    async def missing(self, blobs: Sequence[Blob]) -> list[Blob]:  # noqa: ARG002 - the protocol's
        return []

    async def write(self, blocks: AsyncIterator[Block]) -> Written:
        present = 0
        async for block in blocks:
            present += len(block.entries)
        return Written(0, present, 0)

    async def compose(self, blob: Blob, chunks: Sequence[Blob]) -> None:
        """Do nothing: the blob is said to be there."""

    async def read(self, blobs: Sequence[Blob]) -> AsyncIterator[Block | ChunkList | Absent]:
        yield Absent(tuple(blob.digest for blob in blobs))
