"""The task store: what every place that keeps tasks, executions and bots can do.

Knows no policy and never reads a clock: what is due, who may run what and what follows is decided by the scheduler
family, and rules that every store applies are the pure functions of `sharing.py`. Every implementation passes
`tests/contract/tasks`. Unknown ids raise NotFound; every method may raise Unavailable (retry) or NoSpace.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Protocol

import msgspec
from msgspec import Struct

from swarming.bots import BotEvent, BotInfo
from swarming.model import Attempt, Execution, Task
from swarming.paging import Page, TaskQuery

CHILD_BYTES = 32  # an id of a child with what is around it


class How(Enum):
    """How a submission was answered."""

    CREATED = "created"  # it has an execution of its own, or none at all (NO_RESOURCE)
    JOINED = "joined"  # it shares a live execution
    REUSED = "reused"  # an earlier success answers it
    REPEATED = "repeated"  # it had been submitted before; the first answer
    COLLISION = "collision"  # its id is taken, nothing was stored: draw another


class Submission(Struct, frozen=True, kw_only=True):
    """A task to store, with the execution to make for it, unless one can be shared or reused."""

    task: Task
    execution: Execution | None  # None: the task is final already (NO_RESOURCE)
    reuse: tuple[tuple[int, str], ...] = ()  # (slice index, task hash): successes that may answer it, in this order
    reuse_since: float = 0.0  # only executions created at or after this
    repeat_since: float = 0.0  # a task with equal identity and request_uuid created at or after this is the answer
    secret: bytes | None = None  # kept apart, and only as long as the task is PENDING or RUNNING

    def __repr__(self) -> str:
        return f"Submission({self.task!r})"


@dataclass(frozen=True, slots=True)
class Submitted:
    """What became of a submission."""

    how: How
    task: Task
    execution: Execution | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Offer:
    """A bot's wish for work."""

    attempt: Attempt  # the bot's side of it; run id and try number are set by `sharing.offer`
    has_session: bool = True  # a bot of 2020 gets no execution that `needs_session`
    must_end_by: float | None = None  # epoch seconds: only executions with `offered_at + span_s` before it


@dataclass(frozen=True, slots=True)
class Change:
    """A new value for an execution; `old` None is an execution to insert."""

    old: Execution | None
    new: Execution


class Record(Struct, frozen=True):
    """A task, the execution it has or had a share in, and the ids of its children."""

    task: Task
    execution: Execution | None
    children: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class RunRecord:
    """An attempt, its execution, and a task that has or had a share in it: see `record_of_run`."""

    task: Task
    execution: Execution
    attempt: Attempt


def stored_bytes(record: Record | RunRecord) -> int:
    """Return what a record takes of a page."""
    execution = b"" if record.execution is None else msgspec.json.encode(record.execution)
    children = len(record.children) if isinstance(record, Record) else 0
    return len(msgspec.json.encode(record.task.request)) + len(execution) + CHILD_BYTES * children


class TaskStore(Protocol):
    """Tasks and executions: the operations that must be atomic, and look-ups by key.

    `submit`, `claim` and `replace` are each one transaction, and durable when they return. At most one live execution
    has a given `live_hash`, whoever submits at the same time.
    """

    async def submit(self, submission: Submission) -> Submitted:
        """Store a task; the first of these that applies, in one step.

        1. The identity submitted the same non-empty request_uuid since `repeat_since`: the stored task (REPEATED).
        2. The task id is in use, by a task or as the id of an execution: COLLISION.
        3. For each (index, hash) of `reuse` in order: the newest execution with that `reusable_hash` created since
           `reuse_since` answers it, as `sharing.answer` says (REUSED).
        4. A live execution with the same `live_hash`: joined as `sharing.attach` says (JOINED).
        5. Task and execution are inserted as given (CREATED); they have the same id.
        Idempotent by request_uuid only. The task returned is the one stored.
        """
        ...

    async def claim(self, queues: Sequence[str], offer: Offer) -> Execution | None:
        """Take the next execution of `queues` for a bot, as `sharing.offer` says, or return None.

        Eligible: `is_claimable`, `deadline_at` after the offer's `offered_at`, not attempted by this bot id before,
        and what the offer says of sessions and of the time to end. Order: lowest (priority, rank) of all the queues.
        An execution is given to one caller only. Not idempotent: a lost answer stays claimed.
        """
        ...

    async def replace(self, changes: Sequence[Change], tasks: Sequence[Task] = ()) -> list[Execution]:
        """Store new values of executions, all or nothing; returns them with their new versions.

        Raises Stale, changing nothing, when an `old` is not the stored version, an inserted id is taken or a
        `live_hash` is not unique any more. Then each task attached to a changed execution is stored as `sharing.follow`
        has it, except those in `tasks`, which are stored as given: they exist, and each is or was attached to one of
        the changed executions. Changes are applied in order. A final state thereby ends every attached task in the same
        transaction.
        """
        ...

    async def task(self, task_id: str) -> Task:
        """Return a task; raises NotFound."""
        ...

    async def execution(self, execution_id: str) -> Execution:
        """Return an execution; raises NotFound."""
        ...

    async def secret(self, execution_id: str) -> bytes | None:
        """Return the secret of the live tasks attached to an execution; those that share one have the same."""
        ...

    async def attached(self, execution_id: str) -> list[Task]:
        """Return the tasks attached to an execution, in the order of their ids; empty when nothing is."""
        ...

    async def overdue(self, now: float, limit: int) -> list[Task]:
        """Return up to `limit` attached PENDING tasks with `deadline_at` ≤ now, earliest deadline first."""
        ...


class TaskHistory(Protocol):
    """Look-ups that serve people and recovery, not the hot path."""

    async def record(self, task_id: str) -> Record:
        """Return a task with its execution, and the tasks whose parent is one of its runs; raises NotFound."""
        ...

    async def record_of_run(self, execution_id: str) -> Record:
        """Return the same for an execution, with the oldest task attached to it, else the task of its own id."""
        ...

    async def repeated(self, identity: str, request_uuid: str, since: float) -> Submitted | None:
        """Return the answer of rule 1 of `submit`, if it applies."""
        ...

    async def reusable(self, task_hash: str, since: float) -> Execution | None:
        """Return the newest execution with that `reusable_hash` created at or after `since`."""
        ...

    async def live(self, task_hash: str) -> Execution | None:
        """Return the execution with that `live_hash`."""
        ...

    async def taken(self) -> list[Execution]:
        """Return every execution that is RUNNING or offered: what leases there are after a restart."""
        ...

    async def queues(self) -> list[str]:
        """Return the distinct queues that have a live execution."""
        ...

    async def parents(self) -> list[str]:
        """Return the distinct parent run ids of tasks that are PENDING or RUNNING."""
        ...

    async def children(self, run_ids: Collection[str]) -> list[Task]:
        """Return the tasks whose parent is one of `run_ids`, in any state, in the order of their ids."""
        ...

    async def search(self, query: TaskQuery, cursor: str | None, limit: int) -> Page[Record]:
        """Return up to `limit` (at most MAX_PAGE) tasks, newest first by `query.sort`, then by id.

        Tasks without the time sorted by (never completed, say) are left out. Cursors are opaque and stay valid while
        tasks are added; raises InvalidInput for one that this method did not make for the same query. A page may have
        fewer than `limit` items, or none, and a cursor all the same: so much was looked at without finding more, or
        they would be too large for one answer (`paging.fitting` by `stored_bytes`).
        """
        ...

    async def count(self, query: TaskQuery) -> int:
        """Return how many tasks `search` would find."""
        ...

    async def ahead(self, execution: Execution, limit: int) -> int:
        """Return how many executions of the same queue are claimed before this one that waits; at most `limit`."""
        ...

    async def runs_of(self, bot_id: str, query: TaskQuery, cursor: str | None, limit: int) -> Page[RunRecord]:
        """Return the attempts of a bot, newest execution first, cursors as for `search`; offers are included.

        Of `query` only `created_to` is followed, and cursors are of it.
        """
        ...


class BotStore(Protocol):
    """What is known of bots, and what happened to them."""

    async def bots(self) -> list[BotInfo]:
        """Return every bot, in the order of their ids."""
        ...

    async def save_bots(self, bots: Sequence[BotInfo], events: Sequence[BotEvent] = ()) -> None:
        """Insert or overwrite bots and append events, in one transaction."""
        ...

    async def heard(self, seen_at: Mapping[str, float]) -> None:
        """Note when bots were last seen, in one transaction; unknown ones are passed over."""
        ...

    async def forget_bot(self, bot_id: str) -> None:
        """Remove a bot; its events and attempts stay. Raises NotFound."""
        ...

    async def events(
        self, bot_id: str, start: float | None, end: float | None, cursor: str | None, limit: int
    ) -> Page[BotEvent]:
        """Return events with start ≤ at < end, newest first, cursors as for `search`; empty for an unknown bot."""
        ...


class Retention(Protocol):
    """What makes room; each call is one small step, to be repeated until it returns 0."""

    async def forget_tasks(self, before: float, limit: int) -> int:
        """Delete up to `limit` final tasks created before `before`, then executions that no task refers to any more.

        Returns how many of both were deleted. The oldest go first; a result that answered a younger task stays.
        """
        ...

    async def forget_events(self, before: float, limit: int) -> int:
        """Delete up to `limit` events of bots that happened before `before`; returns how many."""
        ...


class Store(TaskStore, TaskHistory, BotStore, Retention, Protocol):
    """All of it: what the scheduler is given."""


class OutputStore(Protocol):
    """What attempts print: one growing byte string for each run id."""

    async def append(self, run_id: str, start: int, data: bytes) -> None:
        """Put `data` at byte `start`; returns when it is durable. Repeating it changes nothing.

        A hole before `start` reads as NULs. What lies past MAX_OUTPUT_BYTES is dropped.
        """
        ...

    async def read(self, run_id: str, start: int, length: int) -> bytes:
        """Return up to `length` bytes from `start`; empty past the end and for a run that printed nothing.

        Raises OutputLost where the store finds that what was printed is damaged or gone.
        """
        ...

    async def size(self, run_id: str) -> int:
        """Return how many bytes there are, holes included."""
        ...

    async def forget(self, before: float) -> int:
        """Delete what runs of tasks created well before `before` printed; returns how many runs lost it."""
        ...


MAX_OUTPUT_BYTES = 100 * 2**20  # 1,024 chunks of 102,400 bytes in 2020
