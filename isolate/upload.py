"""Files -> blocks -> store: the sending half of an archive, for the calling thread and the worker processes alike.

Knows no trees and no processes. The invariants: every content sent has the digest that was announced, else FileChanged;
when an upload returns, the store has acknowledged every blob; memory is a few blocks, whatever is sent.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Sequence
from typing import NamedTuple

from isolate.cas.block import Block
from isolate.cas.digest import Blob
from isolate.cas.packing import BlockBuilder
from isolate.cas.store import BlobStore, Written
from isolate.cas.wire import CHUNKED_ABOVE_BYTES
from isolate.effort import FIRST_LEVEL, Threads
from isolate.hashing import FileReader
from isolate.large import LargeFile, Stored, Told

STEP_BYTES = 2 << 20  # of payloads that are made between two looks at the connection


class Wanted(NamedTuple):
    """A file whose content the store lacks."""

    path: str
    blob: Blob


class Uploader:
    """Sends files to `store`, reading and compressing them in `threads` with their effort."""

    def __init__(self, store: BlobStore, reader: FileReader, threads: Threads) -> None:
        self._store = store
        self._reader = reader
        self._threads = threads
        self._algorithm = store.namespace.algorithm

    async def upload(self, files: Sequence[Wanted]) -> Written:
        """Send small `files`, in this order within blocks; raises FileChanged and what the store raises."""
        with self._threads.uploading():
            return await self._store.write(self._from_thread(self._blocks(files)))

    async def store_large(self, path: str, told: Told) -> Stored:
        """Send a large file while it is read; see `LargeFile`."""
        return await LargeFile(path, self._store, self._reader, self._threads, told).store()

    async def upload_content(self, blob: Blob, content: bytes) -> Written:
        """Send a content that is in memory, unless the store has it."""
        if not blob.size or not await self._store.missing([blob]):
            return Written(0, 1, 0)
        if blob.size <= CHUNKED_ABOVE_BYTES:
            return await self._store.write(self._from_thread(self._pack(*one) for one in ((blob, content),)))
        pieces = list(self._pieces(content))
        contents = dict(pieces)
        missing = await self._store.missing(list(contents))
        blocks = (self._pack(piece, contents[piece]) for piece in missing)
        written = await self._store.write(self._from_thread(blocks))
        await self._store.compose(blob, [piece for piece, _ in pieces])
        return Written(written.stored + 1, written.present, written.size_bytes)

    def _blocks(self, files: Sequence[Wanted]) -> Iterator[Block]:
        builder, effort = BlockBuilder(self._algorithm, None), self._threads.effort
        read, add = self._reader.read, builder.add
        for path, blob in files:
            builder.level = effort.level
            block = add(blob, read(path, blob))
            if block is not None:
                yield block
        last = builder.flush()
        if last is not None:
            yield last

    def _pieces(self, content: bytes) -> Iterator[tuple[Blob, bytes]]:
        import io

        from isolate.cas.chunker import chunks

        for chunk in chunks(io.BytesIO(content)):
            piece = bytes(chunk)
            yield Blob(self._algorithm.digest(piece), len(piece)), piece

    def _pack(self, blob: Blob, content: bytes) -> Block:
        return Block.pack(self._algorithm, [(blob, content)], FIRST_LEVEL)

    async def _from_thread(self, blocks: Iterator[Block]) -> AsyncIterator[Block]:
        """Yield `blocks`, computing some at a time in a thread."""
        while step := await self._threads.run(_next_step, blocks):
            for block in step:
                yield block


def _next_step(blocks: Iterator[Block]) -> list[Block]:
    step: list[Block] = []
    step_bytes = 0
    for block in blocks:
        step.append(block)
        step_bytes += len(block.payload)
        if step_bytes >= STEP_BYTES:
            break
    return step
