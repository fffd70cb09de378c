"""Wait for tasks to end, and bring back what they printed and left behind.

Knows no flags and prints nothing. Waiting asks for the states of all unfinished tasks in one request per hundred, with
a back-off; a task's result, stdout and outputs are then brought a few tasks at a time, so that a thousand shards take
few connections. The invariants: each task is shown once, when everything asked for is there; what a task printed is
held no longer than that; a server that is away for a while delays and changes nothing; a task that cannot be collected
keeps back no other; a time limit is kept whatever the servers do.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, TypeVar

from isolate.clock import Clock
from isolate.errors import IsolateError, NotFound, OutputLost, Unavailable
from isolate.urls import normalize_url
from swarming.client import UNFINISHED, OutputsRef, ShardResult, SwarmingClient
from swarming.patience import Patience

T = TypeVar("T")

FIRST_WAIT_S = 0.05  # a trivial task ends within a tenth of a second
BACK_OFF = 1.25
LONGEST_WAIT_S = 5.0
AT_ONCE = 8  # shards whose results, stdout and outputs are being brought
FOREVER_S = 0.0
NOW_S = -1.0  # "report the current state once"
ENDED_BY_ITSELF = "COMPLETED"

OutputFetcher = Callable[[int, OutputsRef], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Shard:
    """One collected task: its place in the request, its result, and what it printed when that was asked for."""

    index: int
    result: ShardResult
    stdout: str | None
    problem: str | None = None  # why its outputs could not be brought
    lost: str | None = None  # why what it printed could not be: the server has it no more


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """What to bring of each task."""

    timeout_s: float = FOREVER_S
    all_in_time: bool = True  # else the time is for tasks to end, and bringing what they left takes as long as it does
    stdout: bool = True
    performance: bool = False
    outputs: OutputFetcher | None = None
    server: str | None = None  # the scheduler's URL: outputs that are there wait with it

    @property
    def limit_s(self) -> float | None:
        """The time for everything; None without such a limit."""
        return self.timeout_s if self.all_in_time and self.timeout_s > 0 else None


@dataclass(frozen=True, slots=True)
class Watch:
    """Who is told while tasks are awaited: of states by index, tasks that ended, interruptions, tasks that are lost."""

    states: Callable[[Mapping[int, str]], None]
    shard: Callable[[Shard], None]
    trouble: Callable[[str], None]
    lost: Callable[[str], None]


async def collect(
    client: SwarmingClient, task_ids: Sequence[str], wanted: Wanted, clock: Clock, watch: Watch
) -> list[Shard]:
    """Show each task once, as they end; return those that ended within `timeout_s`, in the order of `task_ids`.

    What is returned has no stdout any more. A task whose result the server does not give is told as lost; raises
    NotFound when the server knows none of them, Unavailable when it is gone for good.
    """
    patience = _PatienceByServer(clock, watch.trouble, wanted.server)
    shards: list[Shard] = []
    unknown: list[NotFound] = []
    slots = asyncio.Semaphore(AT_ONCE)

    async def bring(index: int) -> None:
        try:
            shard = await _bring(client, index, task_ids[index], wanted, patience)
            watch.shard(shard)
            shards.append(replace(shard, stdout=None))
        except Unavailable:
            raise
        except NotFound as error:
            unknown.append(error)
        except IsolateError as error:
            watch.lost(f"Shard {index} (task {task_ids[index]}) cannot be collected: {error}")
        finally:
            slots.release()

    async def bring_all() -> None:
        async with asyncio.TaskGroup() as group:
            async for index in _ended(client, task_ids, wanted.timeout_s, clock, patience.scheduler, watch):
                await slots.acquire()
                group.create_task(bring(index))

    with suppress(TimeoutError):
        await in_time(clock, wanted.limit_s, bring_all())
    if unknown and len(unknown) == len(task_ids):
        raise unknown[0]
    for error in unknown:
        watch.lost(str(error))
    return sorted(shards, key=lambda shard: shard.index)


async def in_time(clock: Clock, limit_s: float | None, work: Coroutine[Any, Any, T]) -> T:
    """Return what `work` returns; cancels it and raises TimeoutError when that takes longer than `limit_s`."""
    if limit_s is None:
        return await work
    doing, over = asyncio.create_task(work), asyncio.ensure_future(clock.sleep(limit_s))
    try:
        await asyncio.wait({doing, over}, return_when=asyncio.FIRST_COMPLETED)
        if doing.done():
            return doing.result()
        raise TimeoutError
    finally:
        doing.cancel()
        over.cancel()
        await asyncio.gather(doing, over, return_exceptions=True)


class _PatienceByServer:
    """The patience with the scheduler, and with each server that holds outputs."""

    def __init__(self, clock: Clock, tell: Callable[[str], None], scheduler: str | None) -> None:
        self._clock, self._tell = clock, tell
        self.scheduler = Patience(clock, tell)
        self._by_url = {normalize_url(scheduler): self.scheduler} if scheduler else {}

    def of(self, server: str) -> Patience:
        """Return that with a server of outputs: a bot has talked to it. Raises InvalidInput for what is no URL."""
        url = normalize_url(server)
        if url not in self._by_url:
            self._by_url[url] = Patience(self._clock, self._tell, known=True)
        return self._by_url[url]


async def _ended(
    client: SwarmingClient, task_ids: Sequence[str], timeout_s: float, clock: Clock, patience: Patience, watch: Watch
) -> AsyncIterator[int]:
    """Yield the index of each task when it has ended, or is not known; with NOW_S, of every task at once."""
    if timeout_s == NOW_S:
        for index in range(len(task_ids)):
            yield index
        return
    waiting = dict(enumerate(task_ids))
    started_s, wait_s = clock.monotonic(), FIRST_WAIT_S
    while waiting:
        left_s = started_s + timeout_s - clock.monotonic() if timeout_s else None
        try:
            states = await in_time(clock, left_s, patience(partial(client.states, list(waiting.values()))))
        except TimeoutError:
            return
        watch.states({index: states[task_id] for index, task_id in waiting.items() if task_id in states})
        ended = [index for index, task_id in waiting.items() if states.get(task_id) not in UNFINISHED]
        for index in ended:
            del waiting[index]
            yield index
        if not waiting or (timeout_s and clock.monotonic() - started_s >= timeout_s):
            return
        wait_s = FIRST_WAIT_S if ended else min(wait_s * BACK_OFF, LONGEST_WAIT_S)
        await clock.sleep(min(wait_s, timeout_s) if timeout_s else wait_s)


async def _bring(
    client: SwarmingClient, index: int, task_id: str, wanted: Wanted, patience: _PatienceByServer
) -> Shard:
    result = await patience.scheduler(lambda: client.result(task_id, performance=wanted.performance))
    stdout = problem = lost = None
    if wanted.stdout:
        try:
            stdout = await patience.scheduler(lambda: client.stdout(task_id))
        except OutputLost as error:  # the same: how the task ended and its files are there
            lost = str(error)
    fetch, outputs = wanted.outputs, result.outputs
    if fetch and outputs:
        try:
            await patience.of(outputs.server)(lambda: fetch(index, outputs))
        except IsolateError as error:  # the result itself is good: report it, and fail at the end
            problem = str(error)
    return Shard(index, result, stdout, problem, lost)


def exit_status(shards: Sequence[Shard], expected: int) -> int:
    """Return the status of the whole: the last non-zero exit code, which is 1 for a shard without a good end.

    That is one that is missing, or whose task did not end by itself: a command that was told to stop may well exit
    with 0, having tested half of what it should. One whose text was lost is 1, too, unless its own code says more:
    whoever reads the text must not take what is left of it for all.
    """
    status = 0
    for shard in shards:
        code = shard.result.exit_code
        if shard.problem:
            status = 1
        elif code:
            status = code
        elif code is None or shard.lost or shard.result.state != ENDED_BY_ITSELF:
            status = 1
    return status if len(shards) == expected else 1
