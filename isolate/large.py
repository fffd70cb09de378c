"""One large file -> a store, read once: cut, hashed and sent while its chunks are in memory.

Knows no trees and no processes. The invariants: what is composed is what was read between two looks that found the same
stamp, chunk digests and the digest of the whole taken from the same bytes; memory is two readings and as much of blocks
whatever the size of the file; nothing is sent that the store has.
"""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import AsyncIterator, Callable, Sequence
from typing import NamedTuple

from isolate.cas.block import Block
from isolate.cas.digest import Blob, Codec
from isolate.cas.store import BlobStore, Written
from isolate.cas.wire import MAX_BLOB_BYTES
from isolate.effort import Threads
from isolate.errors import TooLarge, first_cause
from isolate.hashing import FileReader, Hashed, Stream, open_regular
from isolate.scan import stamp_of, unreadable

BLOCKS_AHEAD = 2  # of those that are made, while one is sent

Told = Callable[[int, int], object]  # how much more was read, and how much of it is being sent, in bytes


def size_of(path: str) -> int:
    """Return the size of a file in bytes, 0 when it cannot be looked at."""
    try:
        return os.stat(path).st_size
    except OSError:
        return 0  # whoever reads it says why


class Stored(NamedTuple):
    """A large file that was read; it is in the store unless its stamp is None, because it changed meanwhile."""

    file: Hashed
    written: Written


class LargeFile:
    """Sends the file at `path` to `store`; used once."""

    def __init__(self, path: str, store: BlobStore, reader: FileReader, threads: Threads, told: Told) -> None:
        self._store, self._algorithm, self._threads, self._told = store, reader.algorithm, threads, told
        self._cutting = _Cutting(path, reader)
        self._ready: asyncio.Queue[Block | None] = asyncio.Queue(BLOCKS_AHEAD)
        self._writes: list[asyncio.Task[Written]] = []
        self._is_writing = False
        self._asked: set[bytes] = set()  # chunks, each of which is looked up and sent once
        self._shrank = True  # the block before; what comes next is probably of the same kind

    async def store(self) -> Stored:
        """Return when the store has acknowledged the whole; raises Unreadable, TooLarge, and what the store raises."""
        try:
            with self._threads.uploading():
                await self._send()
        except BaseExceptionGroup as group:
            raise first_cause(group) from group
        finally:
            self._cutting.close()
        writes = [write.result() for write in self._writes]
        file, chunks = self._cutting.found, self._cutting.chunks
        is_new = bool(chunks and file.stamp and await self._store.missing([file.blob]))
        if is_new:
            await self._store.compose(file.blob, chunks)
        stored, present = sum(one.stored for one in writes), sum(one.present for one in writes)
        return Stored(file, Written(stored + is_new, present, sum(one.size_bytes for one in writes)))

    async def _send(self) -> None:
        async with asyncio.TaskGroup() as tasks:
            ahead = tasks.create_task(self._threads.run(self._cutting.next))
            while window := await ahead:
                ahead = tasks.create_task(self._threads.run(self._cutting.next))
                await self._take(window, tasks)
            await self._end_write()

    async def _take(self, window: Sequence[tuple[Blob, memoryview]], tasks: asyncio.TaskGroup) -> None:
        """Have what the store lacks of one reading sent; on return its memory is free."""
        fresh = {blob: content for blob, content in window if blob.digest not in self._asked}
        self._asked.update([blob.digest for blob in fresh])
        missing = await self._store.missing(list(fresh)) if fresh else []
        self._told(sum([blob.size for blob, _ in window]), sum([blob.size for blob in missing]))
        if not missing:
            await self._end_write()  # nobody knows how much of the file is there: a server waits for no silent sender
            return
        if not self._is_writing:
            self._is_writing = True
            self._writes.append(tasks.create_task(self._store.write(self._blocks())))
        packing = [tasks.create_task(self._threads.run(self._pack, blob, fresh[blob])) for blob in missing]
        while packing:
            await self._ready.put(await packing.pop(0))

    async def _end_write(self) -> None:
        if self._is_writing:
            self._is_writing = False
            await self._ready.put(None)
            await self._writes[-1]  # the queue is the next one's

    async def _blocks(self) -> AsyncIterator[Block]:
        while (block := await self._ready.get()) is not None:
            yield block

    def _pack(self, blob: Blob, content: memoryview) -> Block:
        pack = Block.squeezed if self._shrank else Block.pack
        block = pack(self._algorithm, [(blob, content)], self._threads.effort.level)
        self._shrank = block.codec is not Codec.IDENTITY
        return block


class _Cutting:
    """The reading half; `next` blocks, and runs once at a time."""

    def __init__(self, path: str, reader: FileReader) -> None:
        self.chunks: list[Blob] = []
        self.found = Hashed(Blob(b"", 0), None)  # once `next` has returned nothing
        self._path, self._reader, self._algorithm = path, reader, reader.algorithm
        self._hasher = reader.algorithm.hasher()
        self._size_bytes = 0
        self._descriptor: int | None = None
        self._turn = threading.Lock()
        self._is_over = False

    def next(self) -> list[tuple[Blob, memoryview]]:
        """Return the chunks of the next reading, with their contents until the next but one; nothing at the end.

        Raises FileChanged for what is no regular file any more, Unreadable, TooLarge, Stopped.
        """
        try:
            with self._turn:
                return self._next()
        except OSError as error:
            raise unreadable(error, self._path) from error
        finally:
            self._close_if_over()

    def close(self) -> None:
        """Read no more; whoever is in `next` closes the file behind itself."""
        self._is_over = True
        self._close_if_over()

    def _next(self) -> list[tuple[Blob, memoryview]]:
        if self._descriptor is None:
            self._descriptor, status = open_regular(self._path)
            self._stamp = stamp_of(status)
            from isolate.cas.chunker import windows  # only large files pay for its import

            self._windows = windows(Stream(self._descriptor, self._reader.check_stopped))
        window = [(self._name(content), content) for content in next(self._windows, [])]
        if not window:
            stamp = stamp_of(os.fstat(self._descriptor))
            is_same = stamp == self._stamp and stamp[0] == self._size_bytes
            self.found = Hashed(Blob(self._hasher.digest(), self._size_bytes), stamp if is_same else None)
        self.chunks += [blob for blob, _ in window]
        return window

    def _name(self, content: memoryview) -> Blob:
        self._hasher.update(content)
        self._size_bytes += len(content)
        if self._size_bytes > MAX_BLOB_BYTES:
            raise TooLarge(f"File {self._path!r} is larger than {MAX_BLOB_BYTES} bytes")
        return Blob(self._algorithm.digest(content), len(content))

    def _close_if_over(self) -> None:
        is_last = self._is_over and self._turn.acquire(blocking=False)  # for good: nobody reads any more
        if is_last and self._descriptor is not None:
            os.close(self._descriptor)
