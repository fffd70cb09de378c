"""Files -> blocks -> store: the sending half of an archive, for the calling thread and the worker processes alike.

Knows no trees and no processes. The invariants: every content sent has the digest that was announced, else FileChanged;
when `upload` returns, the store has acknowledged every blob; memory is a few blocks, whatever the size of a file.
"""

from __future__ import annotations

import asyncio
import io
from collections.abc import AsyncIterator, Iterator, Sequence
from concurrent.futures import Executor
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, NamedTuple, TypeVar

from isolate.cas.block import Block
from isolate.cas.digest import Blob
from isolate.cas.packing import BlockBuilder
from isolate.cas.store import BlobStore, Written
from isolate.cas.wire import CHUNKED_ABOVE_BYTES, MAX_BLOB_BYTES
from isolate.errors import FileChanged, TooLarge, UploadCorrupt, first_cause
from isolate.hashing import FileReader

if TYPE_CHECKING:
    from isolate.cas.chunker import Readable

# Measured on source trees: the server, not the compression, is what a faster level would wait for, and slower ones cost
# more time than they save on a local network. Contents that do not shrink are sent as they are whatever the level.
LEVEL = 1
GROUP_BYTES = 16 << 20  # chunks of a large file that are asked for and sent together
GROUPS_IN_FLIGHT = 2  # one is sent while the next is cut

T = TypeVar("T")


class Wanted(NamedTuple):
    """A file whose content the store lacks."""

    path: str
    blob: Blob


class Uploader:
    """Sends files to `store`, reading and compressing them in the threads of `executor`."""

    def __init__(self, store: BlobStore, reader: FileReader, executor: Executor) -> None:
        self._store = store
        self._reader = reader
        self._executor = executor
        self._algorithm = store.namespace.algorithm

    async def upload(self, files: Sequence[Wanted]) -> Written:
        """Send `files`, in this order within blocks; raises FileChanged, TooLarge and what the store raises."""
        small = [file for file in files if file.blob.size <= CHUNKED_ABOVE_BYTES]
        written = [await self._store.write(self._from_thread(self._small_blocks(small)))] if small else []
        for path, blob in files:
            if blob.size > CHUNKED_ABOVE_BYTES:
                written += await self._upload_large(path, blob, self._reader.opened(path))
        return added(written)

    async def upload_content(self, blob: Blob, content: bytes) -> Written:
        """Send a content that is in memory, unless the store has it."""
        if not blob.size or not await self._store.missing([blob]):
            return Written(0, 1, 0)
        if blob.size > CHUNKED_ABOVE_BYTES:
            return added(await self._upload_large("the manifest", blob, nullcontext(io.BytesIO(content))))
        blocks = iter([Block.pack(self._algorithm, [(blob, content)], LEVEL)])
        return await self._store.write(self._from_thread(blocks))

    def _small_blocks(self, files: Sequence[Wanted]) -> Iterator[Block]:
        builder = BlockBuilder(self._algorithm, LEVEL)
        for path, blob in files:
            block = builder.add(blob, self._reader.read_small(path, blob))
            if block is not None:
                yield block
        last = builder.flush()
        if last is not None:
            yield last

    async def _upload_large(self, path: str, blob: Blob, source: AbstractContextManager[Readable]) -> list[Written]:
        if blob.size > MAX_BLOB_BYTES:
            raise TooLarge(f"File {path!r} of {blob.size} bytes is larger than {MAX_BLOB_BYTES}")
        chunks: list[Blob] = []
        sending: list[asyncio.Task[Written]] = []
        sent: set[bytes] = set()
        room = asyncio.Semaphore(GROUPS_IN_FLIGHT)
        groups = self._from_thread(self._chunk_groups(source))
        try:
            async with asyncio.TaskGroup() as tasks:
                while True:
                    await room.acquire()
                    group = await anext(groups, None)
                    if group is None:
                        break
                    chunks += [chunk for chunk, _ in group]
                    fresh = {chunk: content for chunk, content in group if chunk.digest not in sent}
                    sent |= {chunk.digest for chunk in fresh}
                    sending.append(tasks.create_task(self._send_chunks(fresh, room)))
        except BaseExceptionGroup as group:
            raise first_cause(group) from group
        if sum(size for _, size in chunks) != blob.size:
            raise FileChanged(path)
        try:
            await self._store.compose(blob, chunks)
        except UploadCorrupt as error:
            raise FileChanged(path) from error  # each chunk was sent as it was read
        return [task.result() for task in sending] + [Written(1, 0, 0)]

    def _chunk_groups(self, source: AbstractContextManager[Readable]) -> Iterator[list[tuple[Blob, bytes]]]:
        from isolate.cas.chunker import chunks  # only large files pay for its import

        group: list[tuple[Blob, bytes]] = []
        group_bytes = 0
        with source as stream:
            for chunk in chunks(stream):
                content = bytes(chunk)
                group.append((Blob(self._algorithm.digest(content), len(content)), content))
                group_bytes += len(content)
                if group_bytes >= GROUP_BYTES:
                    yield group
                    group, group_bytes = [], 0
        if group:
            yield group

    async def _send_chunks(self, contents: dict[Blob, bytes], room: asyncio.Semaphore) -> Written:
        try:
            missing = await self._store.missing(list(contents))
            if not missing:
                return Written(0, 0, 0)
            return await self._store.write(self._from_thread(self._chunk_blocks(missing, contents)))
        finally:
            room.release()

    def _chunk_blocks(self, blobs: Sequence[Blob], contents: dict[Blob, bytes]) -> Iterator[Block]:
        for blob in blobs:
            yield Block.pack(self._algorithm, [(blob, contents.pop(blob))], LEVEL)

    async def _from_thread(self, items: Iterator[T]) -> AsyncIterator[T]:
        """Yield what `items` yields, computing each in a thread."""
        loop = asyncio.get_running_loop()
        while (item := await loop.run_in_executor(self._executor, next, items, None)) is not None:
            yield item


def added(written: Sequence[Written]) -> Written:
    """Return what several writes did together."""
    return Written(
        sum(one.stored for one in written),
        sum(one.present for one in written),
        sum(one.size_bytes for one in written),
    )
