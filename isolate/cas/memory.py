"""A blob store in memory: the reference implementation the contract is debugged on.

Complete and honest: verifies as every other store does. Keeps everything for as long as it lives, so it knows no time,
no limits of space and no failures. The invariant: what is in the index was verified.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Sequence

from isolate.cas.block import Absent, Block, ChunkList, check_recipe
from isolate.cas.digest import Blob, Namespace
from isolate.cas.store import MAX_BATCH, Written
from isolate.errors import BlobCorrupt, ChunksMissing, InvalidInput, InvalidRecord, TooLarge, UploadCorrupt


class MemoryStore:
    """Implements `isolate.cas.store.BlobStore`."""

    def __init__(self, namespace: Namespace) -> None:
        self._namespace = namespace
        self._blocks: dict[bytes, Block] = {}
        self._sizes: dict[bytes, int] = {}
        self._recipes: dict[bytes, ChunkList] = {}

    @property
    def namespace(self) -> Namespace:
        return self._namespace

    async def missing(self, blobs: Sequence[Blob]) -> list[Blob]:
        if len(blobs) > MAX_BATCH:
            raise TooLarge(f"{len(blobs)} digests in one call, limit {MAX_BATCH}")
        return [blob for blob in blobs if not self._holds(blob.digest)]

    async def write(self, blocks: AsyncIterator[Block]) -> Written:
        stored = present = size_bytes = 0
        async for block in blocks:
            if block.algorithm is not self._namespace.algorithm:
                raise InvalidRecord(f"Block of {block.algorithm.name} digests in namespace {self._namespace.name}")
            try:
                entries = [blob for blob, _ in block.contents()]
            except BlobCorrupt as error:
                raise UploadCorrupt(error.blob, error.found) from error
            for blob in entries:
                if blob.digest in self._blocks:
                    present += 1
                    continue
                self._blocks[blob.digest] = block
                self._sizes[blob.digest] = blob.size
                stored += 1
                size_bytes += blob.size
        return Written(stored, present, size_bytes)

    async def compose(self, blob: Blob, chunks: Sequence[Blob]) -> None:
        check_recipe(blob, chunks)
        if self._holds(blob.digest):
            return
        absent = [chunk.digest for chunk in chunks if chunk.digest not in self._blocks]
        if absent:
            raise ChunksMissing(absent)
        for chunk in chunks:
            if chunk.size != self._sizes[chunk.digest]:
                raise InvalidInput(
                    f"Chunk {chunk.digest.hex()} has {self._sizes[chunk.digest]} bytes, not {chunk.size}"
                )
        hasher = self._namespace.algorithm.hasher()
        for content in self._contents(chunks):
            hasher.update(content)
        if (found := hasher.digest()) != blob.digest:
            raise UploadCorrupt(blob, found)
        self._recipes[blob.digest] = ChunkList(blob, tuple(chunks))

    async def read(self, blobs: Sequence[Blob]) -> AsyncIterator[Block | ChunkList | Absent]:
        wanted = dict.fromkeys(blob.digest for blob in blobs)
        for digest in wanted:
            if digest in self._recipes and digest not in self._blocks:
                yield self._recipes[digest]
        for block in {id(block): block for digest in wanted if (block := self._blocks.get(digest))}.values():
            yield block
        if absent := tuple(digest for digest in wanted if not self._holds(digest)):
            yield Absent(absent)

    def _holds(self, digest: bytes) -> bool:
        return digest in self._blocks or digest in self._recipes or digest == self._namespace.empty.digest

    def _contents(self, chunks: Sequence[Blob]) -> Iterator[memoryview]:
        """Yield the contents of stored chunks, opening each block once as long as neighbours share it."""
        opened: tuple[Block, dict[bytes, memoryview]] | None = None
        for chunk in chunks:
            block = self._blocks[chunk.digest]
            if opened is None or opened[0] is not block:
                opened = block, {blob.digest: content for blob, content in block.contents()}
            yield opened[1][chunk.digest]
