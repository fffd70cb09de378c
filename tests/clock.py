"""A clock that moves only when a test says so."""

from __future__ import annotations

import asyncio
import heapq
import itertools


class ManualClock:
    """Implements `isolate.clock.Clock`; sleepers wake when `advance` passes their time."""

    def __init__(self, now_s: float = 1_700_000_000.0) -> None:
        self._start_s = now_s
        self._passed_s = 0.0
        self._order = itertools.count()
        self._sleepers: list[tuple[float, int, asyncio.Future[None]]] = []

    def now(self) -> float:
        return self._start_s + self._passed_s

    def monotonic(self) -> float:
        return self._passed_s

    async def sleep(self, delay_s: float) -> None:
        future = asyncio.get_running_loop().create_future()
        heapq.heappush(self._sleepers, (self._passed_s + delay_s, next(self._order), future))
        await future

    def advance(self, by_s: float) -> None:
        """Let `by_s` seconds pass and wake everyone whose time has come."""
        self._passed_s += by_s
        while self._sleepers and self._sleepers[0][0] <= self._passed_s:
            future = heapq.heappop(self._sleepers)[2]
            if not future.done():
                future.set_result(None)
