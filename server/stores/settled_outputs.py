"""What attempts printed, once they are over: blobs in a namespace of their own, and no file each.

A wrapper of `FileOutputs`, which has what is still growing. Knows run ids and no task; whether a run goes on is asked.
The invariants: output is in its file until its blob and its row are durable, and whoever reads looks for the file
first, so that it is there at every moment, byte for byte, whenever a process dies; no client can name the namespace;
nothing of it is evicted before `forget` says so; what does not fit keeps back nothing that does.
"""

from __future__ import annotations

import asyncio
import operator
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import aclosing
from functools import partial

from isolate.cas.block import Block
from isolate.cas.digest import Blob
from isolate.cas.packing import BlockBuilder
from isolate.clock import Clock
from isolate.errors import BlobsMissing, NoSpace, OutputLost
from server.stores.blobs import LocalBlobStores
from server.stores.held_outputs import HeldOutputs
from server.stores.outputs import FileOutputs, Quiet
from server.stores.records import OUTPUT_SPACE
from server.stores.task_rows import SQL
from server.stores.writer import Database
from swarming import ids

AFTER_S = 60.0  # without a word: by then no append that was under way when the run ended is still to come
ROUND_FILES = 2_000
CHUNK_BYTES = 4 << 20  # settled together; of a larger output, one is decoded for a reader of a few bytes
BLOCK_BYTES = 256 << 10  # of small ones together: a reader of one decodes them all, in less than a millisecond
LEVEL = 3
FORGOTTEN_ROWS = 500  # in one transaction
PAUSE_S = 0.1  # between those
REFUSALS = 50  # in one round: then nothing fits, and the rest of the round need not be tried to know


class SettledOutputs:
    """Implements `swarming.store.OutputStore`; `settle` is for a schedule."""

    def __init__(self, files: FileOutputs, blobs: LocalBlobStores, tasks: Database, clock: Clock) -> None:
        self._files, self._blobs, self._tasks, self._clock = files, blobs, tasks, clock
        self._space = blobs.namespace(OUTPUT_SPACE)
        self._held = HeldOutputs(clock, blobs.monitor)

    async def append(self, run_id: str, start: int, data: bytes) -> None:
        await self._files.append(run_id, start, data)

    async def read(self, run_id: str, start: int, length: int) -> bytes:
        growing = await self._files.find(run_id, start, length)
        blob = await self._blob(run_id) if growing is None else None
        if blob is None:
            return growing or b""
        parts = []
        try:
            async with aclosing(self._space.pieces(blob.digest, start, min(start + length, blob.size))) as pieces:
                parts += [bytes(piece) async for piece in pieces]
        except BlobsMissing as error:
            raise OutputLost(f"What run {run_id} printed was damaged on the disk of the server") from error
        return b"".join(parts)

    async def size(self, run_id: str) -> int:
        if size_bytes := await self._files.size(run_id):
            return size_bytes
        blob = await self._blob(run_id)
        return 0 if blob is None else blob.size

    async def forget(self, before: float) -> int:
        count, key = await self._files.forget(before), ids.number(before, 0)
        while rows := await self._tasks.write(
            lambda db: db.execute(SQL["delete_old_outputs"], (key, FORGOTTEN_ROWS)).rowcount
        ):
            count += rows
            await self._clock.sleep(PAUSE_S)
        upkeep = self._blobs.upkeep
        for age in await upkeep.ages():
            # A blob was written, or said again, after the task of every run that printed it was made.
            while age.name == OUTPUT_SPACE.name and (await upkeep.evict(age.namespace, int(before // 3600))).blocks:
                await self._clock.sleep(PAUSE_S)
        return count

    async def settle(self, goes_on: Callable[[str], bool]) -> int:
        """Make blobs of what runs printed that are over, the smallest first; returns how many. Raises Unavailable.

        What does not fit is left alone for growing times. `goes_on` is asked in another thread.
        """
        rests = self._held.resting()
        over = await asyncio.to_thread(
            self._files.quiet,
            self._clock.now() - AFTER_S,
            ROUND_FILES,
            lambda run_id: run_id in rests or goes_on(run_id),
        )
        over.sort(key=operator.attrgetter("size_bytes"))
        batches, refusals, count = _batches(over), 0, 0
        batches.reverse()  # a stack, the smallest on top
        while batches:
            batch = batches.pop()
            try:
                if refusals == REFUSALS:
                    raise NoSpace("The blob store is full")
                await self._settle(batch)
                count += len(batch)
            except NoSpace as error:
                if len(batch) > 1 and refusals < REFUSALS:
                    batches += [batch[len(batch) // 2 :], batch[: len(batch) // 2]]
                else:
                    self._held.hold([one.run_id for one in batch], error)
                refusals = min(refusals + 1, REFUSALS)
        self._held.forget(one.run_id for one in over)
        return count

    async def close(self) -> None:
        """Finish what was asked for; later appends raise Unavailable."""
        await self._files.close()

    async def _settle(self, batch: Sequence[Quiet]) -> None:
        """Blobs first, then the rows that point to them, then the files may go."""
        if batch[0].size_bytes > CHUNK_BYTES:
            await self._want_room(batch[0])
            blobs = [await self._large(batch[0])]
        else:
            blobs, blocks = await self._blobs.run(partial(_packed, batch))
            await self._space.write(_each(blocks))
        rows = [(*ids.unpack(one.run_id), *blob) for one, blob in zip(batch, blobs, strict=True) if blob.size]
        await self._tasks.write(lambda db: db.executemany(SQL["save_output"], rows) and None)
        await asyncio.to_thread(self._files.remove, batch)

    async def _want_room(self, one: Quiet) -> None:
        """Raise NoSpace for an output that does not fit, before any chunk of it takes what room there is."""
        if await self._blobs.shortage(one.size_bytes) is None:
            return
        packed_bytes = 0  # text takes a fraction
        for start in range(0, one.size_bytes, CHUNK_BYTES):
            content = await asyncio.to_thread(one.content, start, CHUNK_BYTES)
            packed_bytes += len((await self._blobs.run(partial(_chunk, content)))[1].encode())
        await self._blobs.want_room(packed_bytes)

    async def _large(self, one: Quiet) -> Blob:
        """Store an output chunk by chunk; returns the blob that is composed of them."""
        whole, chunks = OUTPUT_SPACE.algorithm.hasher(), list[Blob]()

        async def blocks() -> AsyncIterator[Block]:
            while content := await asyncio.to_thread(one.content, CHUNK_BYTES * len(chunks), CHUNK_BYTES):
                whole.update(content)
                blob, block = await self._blobs.run(partial(_chunk, content))
                chunks.append(blob)
                yield block

        await self._space.write(blocks())
        blob = Blob(whole.digest(), sum(chunk.size for chunk in chunks))
        await self._space.compose(blob, chunks)
        return blob

    async def _blob(self, run_id: str) -> Blob | None:
        key = ids.unpack(run_id)
        row = await self._tasks.read(lambda db: db.execute(SQL["find_output"], key).fetchone())
        return None if row is None else Blob(*row)


def _batches(files: Sequence[Quiet]) -> list[Sequence[Quiet]]:
    """Return files in the same order, in groups of up to a chunk, and what is larger alone."""
    batches: list[Sequence[Quiet]] = []
    start = size_bytes = 0
    for end, one in enumerate(files):
        if end > start and size_bytes + one.size_bytes > CHUNK_BYTES:
            batches.append(files[start:end])
            start, size_bytes = end, 0
        size_bytes += one.size_bytes
    return [*batches, files[start:]] if files else batches


def _chunk(content: bytes) -> tuple[Blob, Block]:
    """Return a part of a large output as a blob, and the block of it."""
    blob = OUTPUT_SPACE.blob(content)
    return blob, Block.pack(OUTPUT_SPACE.algorithm, [(blob, content)], LEVEL)


def _packed(batch: Sequence[Quiet]) -> tuple[list[Blob], list[Block]]:
    """Return what each of some small files holds, and the blocks of all of it."""
    builder = BlockBuilder(OUTPUT_SPACE.algorithm, LEVEL, BLOCK_BYTES)
    blobs, seen = list[Blob](), set[Blob]()
    blocks: list[Block | None] = []
    for one in batch:
        content = one.content(0, one.size_bytes)
        blob = OUTPUT_SPACE.blob(content)
        if blob not in seen:
            seen.add(blob)
            blocks.append(builder.add(blob, content))
        blobs.append(blob)
    return blobs, [block for block in (*blocks, builder.flush()) if block is not None]


async def _each(blocks: Iterable[Block]) -> AsyncIterator[Block]:
    for block in blocks:
        yield block
