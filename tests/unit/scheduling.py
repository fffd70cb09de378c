"""One scheduler over memory with a manual clock, and the bots and clients that talk to it."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

from isolate.errors import LeaseLost, NoSpace
from swarming.bots import BotEvent, BotInfo, Run, TaskUpdate, Updated
from swarming.doorbell import LocalDoorbell
from swarming.memory import MemoryTaskStore
from swarming.model import Execution, FilesRef, TaskSlice
from swarming.policy import Policy
from swarming.scheduler import Scheduler, TaskView
from swarming.states import State
from swarming.store import Offer
from tests.clock import ManualClock
from tests.tasks import MemoryOutputs, hello, one_slice, properties, request

ONCE = one_slice(properties("build", idempotent=True))
SUCCESS = TaskUpdate(exit_code=0, duration_s=2.0)
KILLED = TaskUpdate(exit_code=-15, duration_s=1.0)
LONG = one_slice(expiration_s=10_000)
LONG_ONCE = one_slice(properties("build", idempotent=True), 10_000)


class LeapingClock(ManualClock):
    """A clock whose wall can be moved without time passing."""

    leap_s = 0.0

    def now(self) -> float:
        return super().now() + self.leap_s

    def leap(self, by_s: float) -> None:
        self.leap_s += by_s


class CountingStore(MemoryTaskStore):
    """Counts what is written, keeps the answers of claims while `gate` is closed, and lets things happen in between."""

    def __init__(self) -> None:
        super().__init__()
        self.replaced = 0
        self.heard_calls: list[set[str]] = []
        self.gate = asyncio.Event()
        self.gate.set()
        self.is_full = False
        self.before_execution: list[Callable[[], Awaitable[object]]] = []

    async def claim(self, queues: Sequence[str], offer: Offer) -> Execution | None:
        execution = await super().claim(queues, offer)
        await self.gate.wait()
        return execution

    async def execution(self, execution_id: str) -> Execution:
        while self.before_execution:
            await self.before_execution.pop()()
        return await super().execution(execution_id)

    async def save_bots(self, bots: Sequence[BotInfo], events: Sequence[BotEvent] = ()) -> None:
        if self.is_full:
            raise NoSpace("No space left")
        await super().save_bots(bots, events)

    async def heard(self, seen_at: Mapping[str, float]) -> None:
        self.heard_calls.append(set(seen_at))
        await super().heard(seen_at)

    async def replace(self, *args: Any) -> Any:
        self.replaced += 1
        return await super().replace(*args)


class Trees:
    """Inputs of which some paths are gone; remembers what was asked."""

    def __init__(self) -> None:
        self.gone: dict[str | None, str] = {}
        self.asked: list[str | None] = []

    async def check(self, files: FilesRef) -> str | None:
        self.asked.append(files.isolated)
        return self.gone.get(files.isolated)


class House:
    """A scheduler with everything around it."""

    def __init__(self, **policy: Any) -> None:
        self.clock, self.store, self.outputs, self.trees = LeapingClock(), CountingStore(), MemoryOutputs(), Trees()
        self.policy = Policy(**{"telling_s": 0.0, **policy})
        self.scheduler = self.new_scheduler()

    def new_scheduler(self) -> Scheduler:
        """Return a scheduler on the same stores: what a restart makes."""
        return Scheduler(
            self.store, self.outputs, LocalDoorbell(), self.clock, self.policy, self.trees, random.Random(1)
        )

    async def restart(self) -> None:
        self.scheduler = self.new_scheduler()
        await self.scheduler.start()
        await self.scheduler.tick()

    async def pass_time(self, seconds: float) -> None:
        """Let time pass as the server sees it: a tick each second."""
        for _ in range(int(seconds)):
            self.clock.advance(1.0)
            await self.scheduler.tick()

    async def submit(self, name: str = "a task", *slices: TaskSlice, **fields: Any) -> TaskView:
        return await self.scheduler.submit(request(name, *slices, **fields))

    async def bot(self, bot_id: str = "bot", session: str | None = None, **fields: Any) -> None:
        """Let a bot come."""
        await self.scheduler.handshake(hello(bot_id, session, **fields))

    async def take(self, bot_id: str = "bot", session: str | None = None) -> Run:
        """Let a bot poll and get work."""
        command = await self.scheduler.poll(hello(bot_id, session))
        assert isinstance(command, Run), command
        return command

    async def report(self, run: Run, update: TaskUpdate | None = None) -> Updated:
        """Let the bot that has `run` report."""
        attempt = run.attempt
        return await self.scheduler.update(attempt.bot_id, attempt.session, attempt.run_id, update or TaskUpdate())

    async def start(self, bot_id: str = "bot", session: str | None = None) -> Run:
        """Let a bot poll, get work and accept it."""
        run = await self.take(bot_id, session)
        await self.report(run)
        return run

    async def state(self, view: TaskView) -> State:
        return (await self.scheduler.view(view.task.task_id)).state

    async def states(self, views: Sequence[TaskView]) -> list[State]:
        return [await self.state(view) for view in views]


async def house(**policy: Any) -> House:
    """Return a started house with one Linux bot."""
    made = House(**policy)
    await made.scheduler.start()
    await made.scheduler.tick()
    await made.bot()
    return made


async def settle() -> None:
    """Let every task that can run do so."""
    for _ in range(20):
        await asyncio.sleep(0)


@contextlib.asynccontextmanager
async def waiting(home: House, bot_id: str = "bot", session: str | None = None, wait_s: float = 30.0) -> Any:
    """A long poll that is under way."""
    until = home.clock.monotonic() + wait_s
    async with asyncio.TaskGroup() as group:
        poll = group.create_task(home.scheduler.poll(hello(bot_id, session), until))
        await settle()
        yield poll
        poll.cancel()


async def refused(call: Awaitable[object]) -> bool:
    """Say whether a call is told that its lease is lost."""
    try:
        await call
    except LeaseLost:
        return True
    return False
