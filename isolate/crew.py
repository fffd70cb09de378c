"""Who works on an archive: the calling process at first, worker processes once the tree turns out to be large.

Knows no trees. A tree of ten files must not pay for a pool, and nobody knows the size of a tree before it is scanned:
so the pool is started when the work done without it has cost about as much as starting it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Self

from isolate.cas.digest import Blob
from isolate.cas.store import BlobStore, Written
from isolate.clock import Clock
from isolate.errors import InternalFailure
from isolate.hands import Batch, Crew, Hands, Remote, Target
from isolate.large import Stored, Told
from isolate.monitor import Monitor
from isolate.scan import Stamp
from isolate.upload import Wanted

if TYPE_CHECKING:
    from isolate.pool import Pool

JOB_FILES, JOB_BYTES = 512, 6 << 20  # of one hash or upload job: some 20 ms of work
LARGE_JOB_BYTES = 2 * JOB_BYTES  # what a large file counts for, whose size is not asked
START_AFTER_JOBS = 16  # full ones, of 20 ms: starting a pool and what it imports takes that long
THREADS = 2  # of this process: one hashes or compresses while another waits for the disk
OURSELVES = -1  # the hand that is this process


class GrowingCrew:
    """A `Crew` that grows when there is much to do; `workers` 0 keeps everything in this process."""

    def __init__(self, target: Target, store: BlobStore, workers: int | None, clock: Clock, monitor: Monitor) -> None:
        """`store` is `target` as opened by this process."""
        self._hands = Hands(store, THREADS, clock, monitor)
        self._workers = workers
        self._growing_for = target if isinstance(target, Remote) and workers != 0 else None
        self._pool: Pool | None = None
        self._monitor = monitor
        self._stack = AsyncExitStack()
        self._starting = asyncio.Lock()
        self._jobs = 0.0  # that were done, in full ones

    async def __aenter__(self) -> Self:
        await self._stack.enter_async_context(self._hands)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._stack.aclose()

    async def hash(self, paths: Sequence[str], stamps: Sequence[Stamp] = ()) -> Batch:
        crew = await self._next(len(paths), sum([stamp[0] for stamp in stamps]))
        batch = await crew.hash(paths, stamps)
        return Batch(batch.files, OURSELVES) if crew is self._hands else batch

    async def store_large(self, path: str, told: Told) -> Stored:
        return await (await self._next(0, LARGE_JOB_BYTES)).store_large(path, told)

    async def upload(self, files: Sequence[Wanted], hand: int | None = None) -> Written:
        crew = await self._next(len(files), sum([file.blob.size for file in files]))
        if hand == OURSELVES:
            crew, hand = self._hands, None
        return await crew.upload(files, hand)

    async def upload_content(self, blob: Blob, content: bytes) -> Written:
        """Send a content that is in memory, unless the store has it."""
        return await self._hands.upload_content(blob, content)

    async def _next(self, files: int, size_bytes: int) -> Crew:
        """Return who does the next job, which may be a small one."""
        self._jobs += max(files / JOB_FILES, size_bytes / JOB_BYTES)
        if self._jobs > START_AFTER_JOBS:
            async with self._starting:
                if self._growing_for is not None:
                    target, self._growing_for = self._growing_for, None
                    try:
                        self._pool = await self._stack.enter_async_context(self._new_pool(target))
                    except InternalFailure as error:
                        self._monitor.problem(f"{error}; going on without")
        return self._pool or self._hands

    def _new_pool(self, target: Remote) -> Pool:
        from isolate.pool import Pool, default_workers  # a tree of ten files does not pay for its import, either

        return Pool(target, self._workers or default_workers())
