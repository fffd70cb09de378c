"""Brings what happens to one task to the server: in order, for as long as it takes, while the lease is ours.

Knows neither processes nor what a task is. The invariant: nothing is given up because the server is away for a while;
what was not acknowledged is sent again, which the protocol makes harmless.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Protocol, TypeVar

from isolate.clock import Clock
from isolate.errors import NoSpace, Unavailable, is_transient
from swarming.bot.output import Spool, encode_chunk
from swarming.bot.protocol import Updated
from swarming.bot.waiting import pause

GIVE_UP_S = 3600.0  # the server is then assumed to have given the task up long ago
MAX_PAUSE_S = 10.0  # how long after the return of a server a bot may notice it

T = TypeVar("T")


class TaskApi(Protocol):
    """The calls of `protocol.BotApi` that are about a task."""

    async def update(self, task_id: str, fields: Mapping[str, object]) -> Updated: ...

    async def fail(self, task_id: str, message: str) -> None: ...


class Courier:
    """Sends updates of one task. After `abandon` everything is tried once more and then given up."""

    def __init__(self, api: TaskApi, task_id: str, spool: Spool, clock: Clock) -> None:
        self._api, self._task_id, self._spool, self._clock = api, task_id, spool, clock
        self._abandoned = asyncio.Event()

    def abandon(self) -> None:
        """Stop waiting for a server that does not answer."""
        self._abandoned.set()

    async def update(self, fields: Mapping[str, object]) -> Updated:
        """Send `fields` and the next piece of output; raises LeaseLost, Refused, or Unavailable after an hour."""
        chunk = self._spool.chunk()
        fields = {**fields, **encode_chunk(self._spool.sent_bytes, chunk)}
        updated = await self._insist(lambda: self._api.update(self._task_id, fields))
        self._spool.sent(chunk)
        return updated

    async def flush(self, fields: Mapping[str, object], leave_bytes: int) -> None:
        """Send output until at most `leave_bytes` are left, with the same `fields` every time."""
        while self._spool.pending_bytes > leave_bytes:
            await self.update(fields)

    async def fail(self, message: str) -> None:
        """Report that the task could not be run; raises as `update` does."""
        await self._insist(lambda: self._api.fail(self._task_id, message))

    async def _insist(self, call: Callable[[], Awaitable[T]]) -> T:
        started_at, failures = self._clock.monotonic(), 0
        while True:
            try:
                return await call()
            except Exception as error:
                waited_s = self._clock.monotonic() - started_at
                may_pass = is_transient(error) or isinstance(error, NoSpace)  # space comes back, too
                if not may_pass or self._abandoned.is_set() or waited_s > GIVE_UP_S:
                    raise
                failures += 1
                asked_s = error.retry_after_s if isinstance(error, Unavailable) else None
            await pause(self._clock, max(pause_s(failures), asked_s or 0.0), self._abandoned)


def pause_s(failures: int) -> float:
    """Return how long to wait after so many failures in a row: 0.5 s, growing to MAX_PAUSE_S."""
    return min(MAX_PAUSE_S, 0.5 * 1.5 ** min(failures - 1, 20))
