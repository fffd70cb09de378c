"""Group commit: items that arrive while a commit is running wait together and share the next one.

Knows nothing of what an item is or where it goes. The invariants: an item is answered only by the commit it was part
of, and a failed commit fails exactly its own items; an item that can wait does so only until one comes that cannot,
somebody presses, its caller is cancelled, or there is enough for a group.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import Generic, TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


class GroupCommitter(Generic[Item, Result]):
    """Calls `commit` with one group at a time, in the order of arrival.

    `weigh` says how heavy an item is; a group holds one item or at most `max_weight`, and items that can wait do so
    below `enough_weight`. The task that commits is owned here: it is alive only while there is something to do, it is
    not a caller's, so that a cancelled caller takes nobody along, and `close` waits for it.
    """

    def __init__(
        self,
        commit: Callable[[Sequence[Item]], Awaitable[Sequence[Result]]],
        weigh: Callable[[Item], int],
        max_weight: int,
        enough_weight: int = 0,
    ) -> None:
        self._commit, self._weigh = commit, weigh
        self._max_weight, self._enough_weight = max_weight, enough_weight
        self._waiting: deque[tuple[Item, asyncio.Future[Result]]] = deque()
        self._waiting_weight = 0
        self._due = 0  # how many of those who wait shall wait no longer than for their turn
        self._task: asyncio.Task[None] | None = None

    async def add(self, item: Item, *, can_wait: bool = False) -> Result:
        """Return what the commit that holds `item` says about it."""
        future: asyncio.Future[Result] = asyncio.get_running_loop().create_future()
        self._waiting.append((item, future))
        self._waiting_weight += self._weigh(item)
        if not can_wait or self._waiting_weight >= self._enough_weight:
            self.press()
        try:
            return await future
        except asyncio.CancelledError:
            self.press()  # nobody is left to do so for this item
            raise
        finally:
            del future  # an error that it holds knows this call, and would live on with all that was to be committed

    def press(self) -> None:
        """Have everything committed that was added so far."""
        self._due = len(self._waiting)
        if self._due and self._task is None:
            self._task = asyncio.get_running_loop().create_task(self._drain())

    async def close(self) -> None:
        """Return when everything that was added is committed."""
        self.press()
        if self._task is not None:
            await self._task

    async def _drain(self) -> None:
        while self._due > 0:
            await self._commit_group(self._next_group())
        self._task = None

    async def _commit_group(self, group: list[tuple[Item, asyncio.Future[Result]]]) -> None:
        try:
            results = await self._commit([item for item, _ in group])
        except Exception as error:  # noqa: BLE001 - every item of the group gets it; none may wait for ever
            while group:  # nothing of it may stay here, see `add`
                _fail(group.pop(0)[1], error)
        else:
            for (_, future), result in zip(group, results, strict=True):
                if not future.done():
                    future.set_result(result)

    def _next_group(self) -> list[tuple[Item, asyncio.Future[Result]]]:
        group = [self._waiting.popleft()]
        weight = self._weigh(group[0][0])
        while self._waiting and (weight := weight + self._weigh(self._waiting[0][0])) <= self._max_weight:
            group.append(self._waiting.popleft())
        self._due -= len(group)
        self._waiting_weight -= sum(self._weigh(item) for item, _ in group)
        return group


def _fail(future: asyncio.Future[Result], error: Exception) -> None:
    if not future.done():
        future.set_exception(error)
