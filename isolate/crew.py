"""Who works on an archive: the calling process at first, worker processes once the tree turns out to be large.

Knows no trees. A tree of ten files must not pay for a pool, and nobody knows the size of a tree before it is scanned:
so the pool is started when the work done without it has cost about as much as starting it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import AsyncExitStack
from typing import Self

from isolate.cas.digest import Blob
from isolate.cas.store import BlobStore, Written
from isolate.clock import Clock
from isolate.errors import InternalFailure
from isolate.hands import Batch, Crew, Hands, Remote, Target
from isolate.monitor import Monitor
from isolate.pool import Pool, default_workers
from isolate.scan import Stamp
from isolate.upload import Wanted

START_AFTER_JOBS = 8
THREADS = 2  # of this process: one hashes or compresses while another waits for the disk
OURSELVES = -1  # the hand that is this process


class GrowingCrew:
    """A `Crew` that grows when there is much to do; `workers` 0 keeps everything in this process."""

    def __init__(self, target: Target, store: BlobStore, workers: int | None, clock: Clock, monitor: Monitor) -> None:
        """`store` is `target` as opened by this process."""
        self._hands = Hands(store, THREADS, clock, monitor)
        self._workers = default_workers() if workers is None else workers
        self._pool: Pool | None = None
        if isinstance(target, Remote) and self._workers:
            self._pool = Pool(target, self._workers)
        self._monitor = monitor
        self._stack = AsyncExitStack()
        self._starting = asyncio.Lock()
        self._started = False
        self._jobs = 0

    async def __aenter__(self) -> Self:
        await self._stack.enter_async_context(self._hands)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._stack.aclose()

    async def hash(self, paths: Sequence[str], stamps: Sequence[Stamp] = ()) -> Batch:
        crew = await self._next()
        batch = await crew.hash(paths, stamps)
        return Batch(batch.files, OURSELVES) if crew is self._hands else batch

    async def cut(self, path: str) -> list[Blob]:
        return await (await self._next()).cut(path)

    async def upload(self, files: Sequence[Wanted], hand: int | None = None) -> Written:
        crew = await self._next()
        if hand == OURSELVES:
            crew, hand = self._hands, None
        return await crew.upload(files, hand)

    async def upload_content(self, blob: Blob, content: bytes) -> Written:
        """Send a content that is in memory, unless the store has it."""
        return await self._hands.upload_content(blob, content)

    async def _next(self) -> Crew:
        """Return who does the next job."""
        self._jobs += 1
        if self._pool is None or self._jobs <= START_AFTER_JOBS:
            return self._hands
        async with self._starting:
            if self._pool is not None and not self._started:
                try:
                    await self._stack.enter_async_context(self._pool)
                    self._started = True
                except InternalFailure as error:
                    self._monitor.problem(f"{error}; going on without")
                    self._pool = None
        return self._pool or self._hands
