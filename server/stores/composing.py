"""Compositions: long verifications that outlive the request that asked for them.

Knows no store: it is given the work. The invariant: one blob is verified once at a time, whoever and how many ask; what
a composition ended with is told to at least one of those who asked, unless none comes back.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from isolate.cas.digest import Blob
from isolate.errors import IsolateError, Unavailable

MAX_RUNNING = 2  # each reads and hashes at disk speed; more would only share it
MAX_WAITING = 64
MAX_FAILURES = 256  # errors kept for those who were told to come back

Key = tuple[str, bytes]


@dataclass(slots=True)
class _Composition:
    chunks: Sequence[Blob]
    task: asyncio.Task[IsolateError | None]


class Compositions:
    """Owns the tasks that verify large blobs; `close` ends them."""

    def __init__(self) -> None:
        self._turns = asyncio.Semaphore(MAX_RUNNING)
        self._compositions: dict[Key, _Composition] = {}

    async def run(
        self, key: Key, chunks: Sequence[Blob], work: Callable[[], Awaitable[None]], wait_s: float | None = None
    ) -> bool:
        """Run `work`, or join the run of the same key; False when it goes on after `wait_s`. Raises what it raises."""
        while True:
            composition = self._compositions.get(key)
            if composition is None:
                composition = self._start(key, chunks, work)
            joined = composition
            await asyncio.wait([joined.task], timeout=wait_s)
            if not joined.task.done():
                return False
            if self._compositions.get(key) is joined:
                del self._compositions[key]
            error = joined.task.result()
            if error is None:
                return True
            if joined.chunks == chunks:
                raise error
            # Somebody else's list of chunks was wrong, which says nothing about ours.

    async def close(self) -> None:
        """Stop all; nothing of an unfinished composition is visible."""
        tasks = [composition.task for composition in self._compositions.values()]
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)

    def _start(self, key: Key, chunks: Sequence[Blob], work: Callable[[], Awaitable[None]]) -> _Composition:
        running = sum(not composition.task.done() for composition in self._compositions.values())
        if running >= MAX_RUNNING + MAX_WAITING:
            raise Unavailable("Too many large blobs are being verified", retry_after_s=10.0)
        for old in list(self._compositions)[: max(0, len(self._compositions) - running - MAX_FAILURES)]:
            if self._compositions[old].task.done():
                del self._compositions[old]
        task = asyncio.get_running_loop().create_task(self._guarded(work))
        composition = self._compositions[key] = _Composition(chunks, task)
        return composition

    async def _guarded(self, work: Callable[[], Awaitable[None]]) -> IsolateError | None:
        """Run `work` in turn; what went wrong is a value, because perhaps nobody is waiting any more."""
        async with self._turns:
            try:
                await work()
            except IsolateError as error:
                return error
        return None
