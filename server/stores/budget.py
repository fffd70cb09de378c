"""A budget of bytes in flight: who wants to hold memory waits for its turn.

Knows nothing of what the bytes are; who may be able to give some back is told when somebody begins to wait. The
invariant: leases together never exceed the total, except that one larger than the total gets all of it. A lease is
taken once and whole; nobody may wait for a second one while holding a first of the same budget, or two of them could
wait for each other.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress

from isolate.errors import Unavailable


class ByteBudget:
    """At most `total_bytes` leased at a time, first come first served; used in one event loop."""

    def __init__(
        self,
        total_bytes: int,
        what: str,
        *,
        max_waiting: int = 1_000,
        patience_s: float = 30.0,
        when_short: Callable[[], object] | None = None,
    ) -> None:
        self._total_bytes = total_bytes
        self._what = what
        self._max_waiting = max_waiting
        self._patience_s = patience_s
        self._when_short = when_short
        self._used_bytes = 0
        self._leased_bytes = 0
        self._waiting: deque[tuple[int, asyncio.Future[None]]] = deque()

    @property
    def used_bytes(self) -> int:
        return self._used_bytes

    @property
    def is_short(self) -> bool:
        """Whether somebody waits."""
        return bool(self._waiting)

    @property
    def leased_bytes(self) -> int:
        """How much was ever leased, one after the other."""
        return self._leased_bytes

    @asynccontextmanager
    async def lease(self, size_bytes: int) -> AsyncIterator[None]:
        """Hold `size_bytes` of the budget; raises Unavailable when too many wait, or for too long."""
        size_bytes = await self.acquire(size_bytes)
        try:
            yield
        finally:
            self.release(size_bytes)

    async def acquire(self, size_bytes: int) -> int:
        """Wait for `size_bytes` and return how much was really taken: what `release` has to be given."""
        size_bytes = min(size_bytes, self._total_bytes)
        if not self._waiting and self._used_bytes + size_bytes <= self._total_bytes:
            self._take(size_bytes)
            return size_bytes
        if len(self._waiting) >= self._max_waiting:
            raise Unavailable(f"Too much in flight for {self._what}", retry_after_s=1.0)
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        place = (size_bytes, turn)
        self._waiting.append(place)
        if self._when_short is not None:
            self._when_short()
        try:
            async with asyncio.timeout(self._patience_s):
                await turn
        except BaseException as error:
            if turn.done() and not turn.cancelled():
                self.release(size_bytes)  # the turn came together with the cancellation
            else:
                with suppress(ValueError):  # taken off the list already, by somebody who saw it cancelled
                    self._waiting.remove(place)
                self._admit()
            if isinstance(error, TimeoutError):
                raise Unavailable(f"Too much in flight for {self._what}", retry_after_s=5.0) from error
            raise
        return size_bytes

    def release(self, size_bytes: int) -> None:
        """Give back what `acquire` returned."""
        self._used_bytes -= size_bytes
        self._admit()

    def _admit(self) -> None:
        while self._waiting and self._used_bytes + self._waiting[0][0] <= self._total_bytes:
            size_bytes, turn = self._waiting.popleft()
            if turn.cancelled():
                continue
            self._take(size_bytes)
            turn.set_result(None)

    def _take(self, size_bytes: int) -> None:
        self._used_bytes += size_bytes
        self._leased_bytes += size_bytes
