"""What a task is: the request, its task, the execution it shares, and the attempts of that.

Knows no store, no clock and no JSON spelling of the API (`wire.py` does). Every value is frozen; a change is a new
value. Times ending in `_at` are epoch seconds, UTC.

These are structs and not dataclasses because each task passes through some twenty new values: `replace` of a dataclass
takes 9 µs, of a struct 0.8 µs, and a server has 1,000 µs for a task.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from msgspec import Struct, to_builtins

from isolate.cas.digest import SHA256
from swarming.states import State

Pairs = tuple[tuple[str, str], ...]
Lists = tuple[tuple[str, tuple[str, ...]], ...]


class FilesRef(Struct, frozen=True):
    """A tree: the hash of its `.isolated` (or None when only the place is known), the server and the namespace."""

    isolated: str | None
    server: str = ""
    namespace: str = ""


class NamedCache(Struct, frozen=True):
    """A directory that survives on the bot under `name` and is mapped at `path`."""

    name: str
    path: str


class Containment(Struct, frozen=True):
    """How strictly the bot shall contain the process; the type is 2020's number."""

    lower_priority: bool = False
    containment_type: int = 0
    limit_processes: int | None = None
    limit_total_committed_memory: int | None = None


class TaskProperties(Struct, frozen=True, kw_only=True):
    """What to run and where: everything that decides the result, and nothing else."""

    dimensions: Pairs  # sorted, the alternatives too; a value `a|b` is met by either
    command: tuple[str, ...] = ()
    extra_args: tuple[str, ...] = ()
    relative_cwd: str = ""
    env: Pairs = ()
    env_prefixes: Lists = ()
    execution_timeout_s: int = 0
    io_timeout_s: int = 0  # 0 is none
    grace_period_s: int = 30
    idempotent: bool = False
    inputs: FilesRef | None = None
    outputs: tuple[str, ...] = ()
    caches: tuple[NamedCache, ...] = ()
    containment: Containment = Containment()
    secret: str | None = None  # digest of the secret bytes, which are kept elsewhere and never shown

    @property
    def is_terminate(self) -> bool:
        """Whether this asks a bot to leave: only an id, nothing to run."""
        runs = self.command or self.extra_args or self.execution_timeout_s
        has_inputs = self.inputs is not None and self.inputs.isolated is not None
        return [key for key, _ in self.dimensions] == ["id"] and not runs and not has_inputs


def secret_digest(secret: bytes | None) -> str | None:
    """Return what stands for a secret in the properties of its task."""
    return None if secret is None else SHA256.digest(secret).hex()


def task_hash(properties: TaskProperties) -> str:
    """Return the idempotency key: SHA-256 hex of the canonical JSON of the properties, the secret by its digest."""
    text = json.dumps(to_builtins(properties), sort_keys=True, separators=(",", ":"))
    return SHA256.digest(text.encode()).hex()


class TaskSlice(Struct, frozen=True, kw_only=True):
    """One way to run a task, and how long to wait for it."""

    properties: TaskProperties
    expiration_s: int
    wait_for_capacity: bool = False


class TaskRequest(Struct, frozen=True, kw_only=True):
    """What one client asked for. `tags` are the client's own until the scheduler adds the automatic ones."""

    name: str
    priority: int
    slices: tuple[TaskSlice, ...]
    tags: tuple[str, ...] = ()
    server_tags: tuple[str, ...] = ()  # added by the server (pool configuration), not subject to the rules for clients
    user: str = ""
    authenticated: str = "anonymous:anonymous"  # the identity that asked, e.g. user:a@b
    parent_task_id: str | None = None  # a run id
    service_account: str = "none"
    realm: str = ""
    bot_ping_tolerance_s: int | None = None  # None is the default of the policy
    request_uuid: str = ""


class Attempt(Struct, frozen=True, kw_only=True):
    """One try of an execution on one bot. PENDING while it is only an offer; offers that lapse leave no trace."""

    run_id: str
    try_number: int
    bot_id: str
    session: str = ""  # "" is a bot of 2020
    bot_version: str = ""
    bot_dimensions: Lists = ()
    state: State = State.PENDING
    offered_at: float
    started_at: float | None = None
    completed_at: float | None = None
    abandoned_at: float | None = None
    exit_code: int | None = None
    duration_s: float | None = None
    cost_usd: float = 0.0
    internal_failure: bool = False
    reason: str = ""  # why it died, for people
    outputs: FilesRef | None = None
    stats: Mapping[str, Any] | None = None  # bot_overhead, isolated_stats, … as the bot sent them
    cipd_pins: Mapping[str, Any] | None = None

    def __repr__(self) -> str:  # without the session, which is a credential
        return f"Attempt({self.run_id!r}, {self.state.name}, bot_id={self.bot_id!r})"

    @property
    def is_offer(self) -> bool:
        """Whether the bot has not answered yet."""
        return self.state is State.PENDING

    @property
    def failure(self) -> bool:
        """Whether the command itself failed."""
        return self.state is State.TIMED_OUT or bool(self.exit_code)


class Execution(Struct, frozen=True, kw_only=True):
    """One run of one set of properties, shared by every task that joined it.

    `version` grows with every stored change of it or of a task attached to it; a store refuses a change of an old one.
    """

    execution_id: str  # in the form of a task id; its run ids are made of it
    task_name: str  # of the task it was made for
    properties: TaskProperties
    task_hash: str | None  # only when idempotent
    queue: str  # matching.queue_key of the dimensions
    priority: int  # the most urgent of the attached tasks
    rank: int  # among equals, the lower goes first
    deadline_at: float  # no attempt is begun after this: the latest deadline of the attached tasks
    tolerance_s: float  # how long its bot may be silent
    created_at: float
    modified_at: float
    state: State = State.PENDING
    killing: bool = False
    completed_at: float | None = None
    abandoned_at: float | None = None
    reusable: bool = False  # a success that may answer equal tasks
    attempts: tuple[Attempt, ...] = ()
    version: int = 0

    @property
    def attempt(self) -> Attempt | None:
        """The latest attempt, which may be an offer."""
        return self.attempts[-1] if self.attempts else None

    @property
    def is_claimable(self) -> bool:
        """Whether it waits for a bot: pending and offered to nobody."""
        return self.state is State.PENDING and not (self.attempts and self.attempts[-1].is_offer)

    @property
    def live_hash(self) -> str | None:
        """The hash under which equal tasks join it: unique among all executions."""
        return self.task_hash if self.state in {State.PENDING, State.RUNNING} and not self.killing else None

    @property
    def reusable_hash(self) -> str | None:
        """The hash under which its result answers later tasks."""
        return self.task_hash if self.reusable else None

    @property
    def failure(self) -> bool:
        """Whether the command of the last attempt failed."""
        return self.attempts[-1].failure if self.attempts else False

    @property
    def started_at(self) -> float | None:
        """When the latest try that a bot accepted began."""
        return next((one.started_at for one in reversed(self.attempts) if one.started_at is not None), None)

    @property
    def needs_session(self) -> bool:
        """Whether only our own bots can run it: its inputs are in a namespace that those of 2020 do not know."""
        inputs = self.properties.inputs
        return inputs is not None and inputs.isolated is not None and inputs.namespace.startswith("blake3")

    @property
    def span_s(self) -> float | None:
        """Longest time a bot is busy with it (rule of 2020's leases), 0 for a termination, None when unlimited."""
        properties = self.properties
        if properties.is_terminate:
            return 0.0
        if not properties.execution_timeout_s:
            return None
        return properties.execution_timeout_s + 3 * (properties.grace_period_s or 30) + 300.0


class Task(Struct, frozen=True, kw_only=True):
    """What one client asked for and where it stands; while attached, state and times follow its execution."""

    task_id: str
    request: TaskRequest
    created_at: float
    modified_at: float
    state: State = State.PENDING
    slice_index: int = 0
    execution_id: str | None = None
    attached: bool = False
    deadline_at: float  # of the current slice; of the whole request once it was tried
    deduped: bool = False  # answered by the result of an earlier execution
    failure: bool = False
    started_at: float | None = None  # of the latest try
    completed_at: float | None = None
    abandoned_at: float | None = None

    @property
    def expires_at(self) -> float:
        """When the last slice is overdue."""
        return self.overdue_at(len(self.request.slices) - 1)

    def overdue_at(self, index: int) -> float:
        """Return when a slice is overdue: the times of those before it count, whether they were waited for or not."""
        return self.created_at + sum(part.expiration_s for part in self.request.slices[: index + 1])
