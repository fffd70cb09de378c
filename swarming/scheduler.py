"""The scheduler: the one door to tasks and bots.

The only family of modules with policy: `submission` (what becomes of a request), `dispatch` (what bots get and say),
`reaping` (what time does), on top of `decisions` (pure), `fleet` and `leases` (what is known in memory). Knows no HTTP
and no SQL; errors are those of `isolate.errors`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from swarming.bots import (
    BotCount,
    BotEvent,
    BotHello,
    BotInfo,
    BotQuery,
    Command,
    TaskUpdate,
    Updated,
)
from swarming.model import Attempt, Execution, FilesRef, Task, TaskRequest
from swarming.states import State
from swarming.store import Page, TaskQuery


class Doorbell(Protocol):
    """Wakes bots that wait for work; a hint, never the proof that there is some."""

    def ring(self, queue: str) -> None:
        """Wake the one that has waited longest among those listening to `queue`, if any."""
        ...


class Inputs(Protocol):
    """Whether trees are whole, asked of the blob store."""

    async def check(self, files: FilesRef) -> str | None:
        """Return None for a tree that is whole (and keep it so), else the first missing path.

        A tree on a server that is not ours is taken to be whole.
        """
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskView:
    """A task, what it shares, and the attempt to show: the latest, or the one asked for by run id."""

    task: Task
    execution: Execution | None
    attempt: Attempt | None
    is_run: bool = False  # asked for by run id
    children: tuple[str, ...] = ()

    @property
    def state(self) -> State:
        """The state of what was asked for."""
        return self.attempt.state if self.is_run and self.attempt is not None else self.task.state


@dataclass(frozen=True, slots=True)
class Canceled:
    """What became of a wish to cancel."""

    ok: bool
    was_running: bool


class SchedulerApi(Protocol):
    """What the REST API and the bot API call. The class `Scheduler` has exactly this."""

    async def start(self) -> None: ...
    async def evaluate(self, request: TaskRequest) -> TaskRequest: ...
    async def submit(self, request: TaskRequest) -> TaskView: ...
    async def cancel(self, task_id: str, kill_running: bool) -> Canceled: ...
    async def terminate(self, bot_id: str, user: str, authenticated: str) -> TaskView: ...
    async def view(self, task_id: str) -> TaskView: ...
    async def stdout(self, task_id: str, offset: int, length: int) -> tuple[bytes, State]: ...
    async def search(self, query: TaskQuery, cursor: str | None, limit: int) -> Page[TaskView]: ...
    async def handshake(self, hello: BotHello) -> BotInfo: ...
    async def poll(self, hello: BotHello, wait_until: float | None) -> Command: ...
    async def update(self, bot_id: str, session: str, run_id: str, update: TaskUpdate) -> Updated: ...
    async def fail(self, bot_id: str, session: str, run_id: str, message: str) -> None: ...
    async def event(self, hello: BotHello, event_type: str, message: str) -> None: ...
    async def bots(self, query: BotQuery, cursor: str | None, limit: int) -> Page[BotInfo]: ...
    async def count_bots(self, query: BotQuery) -> BotCount: ...
    async def bot(self, bot_id: str) -> BotInfo: ...
    async def bot_runs(self, bot_id: str, cursor: str | None, limit: int) -> Page[TaskView]: ...
    async def bot_events(
        self, bot_id: str, start: float | None, end: float | None, cursor: str | None, limit: int
    ) -> Page[BotEvent]: ...
    async def forget_bot(self, bot_id: str) -> None: ...
    async def tick(self) -> None: ...
