"""The records of a store, received while the ones before are handled by a thread.

Knows no cache and no manifest. The invariant: at most AHEAD + 2 records or one group wait for the thread, whatever the
store sends; a reading that ends early is closed.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager

from isolate.cas.block import Absent, Block, ChunkList
from isolate.cas.digest import Blob
from isolate.cas.store import BlobStore

AHEAD = 4  # records received before a thread has time for them: 64 MiB at worst, 4 MiB as a rule
GROUP_BYTES = 4 << 20  # content that is handled in one go

Record = Block | ChunkList | Absent


async def each(store: BlobStore, blobs: Sequence[Blob], handle: Callable[[Sequence[Record]], None]) -> None:
    """Read `blobs` and hand the records to `handle`, in groups and in a thread, while the next ones arrive."""
    received: asyncio.Queue[Record | None] = asyncio.Queue(AHEAD)

    async def receive() -> None:
        async with _closing(store.read(blobs)) as records:
            async for record in records:
                await received.put(record)
        await received.put(None)

    async def work() -> None:
        record = await received.get()
        while record is not None:
            group, size_bytes = [record], _plain_bytes(record)
            while size_bytes < GROUP_BYTES and not received.empty():
                record = received.get_nowait()
                if record is None:
                    break
                group.append(record)
                size_bytes += _plain_bytes(record)
            await asyncio.to_thread(handle, group)
            if record is not None:
                record = await received.get()

    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(receive())
        tasks.create_task(work())


def _plain_bytes(record: Record) -> int:
    return record.plain_size if isinstance(record, Block) else 0


@asynccontextmanager
async def _closing(records: AsyncIterator[Record]) -> AsyncIterator[AsyncIterator[Record]]:
    """Close a reading that is not read to its end, now rather than when it is collected."""
    try:
        yield records
    finally:
        close = getattr(records, "aclose", None)
        if close is not None:
            await close()
