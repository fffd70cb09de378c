"""What becomes of a request: tagged, checked against the blob store, then reused, joined, queued or refused.

Knows no bot and no message. The store decides in one step whether an equal task is there already; what is decided
before that is which slice to queue and whether the inputs (and the outputs of a reusable result) are whole.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Protocol

from msgspec.structs import replace

from isolate.errors import InvalidTask, NotFound
from swarming import ids, matching
from swarming.ledger import Ledger
from swarming.model import Execution, FilesRef, Task, TaskProperties, TaskRequest, TaskSlice, task_hash
from swarming.states import LIVE, Event, State, after
from swarming.store import How, Submission, Submitted

TERMINATE_EXPIRATION_S = 86_400
TEMPLATE_TAG = "swarming.pool.template:"  # and which version of the template of its pool a task got


class Inputs(Protocol):
    """Whether trees are whole, asked of the blob store."""

    async def check(self, files: FilesRef) -> str | None:
        """Return None for a tree that is whole (and keep it so), else the first missing path.

        A tree on a server that is not ours is taken to be whole.
        """
        ...


class NoInputs:
    """For a scheduler without a blob store: every tree is somebody else's."""

    async def check(self, files: FilesRef) -> str | None:  # noqa: ARG002  -- there is nowhere to look
        return None


def tagged(request: TaskRequest) -> TaskRequest:
    """Return the request with the automatic tags: one for each of its facts and alternatives of dimensions."""
    tags = {
        *request.tags,
        *request.server_tags,
        f"priority:{request.priority}",
        f"realm:{request.realm or 'none'}",
        f"service_account:{request.service_account or 'none'}",
        f"user:{request.user or 'none'}",
    }
    for part in request.slices:
        for key, value in part.properties.dimensions:
            tags.update(f"{key}:{one}" for one in value.split("|"))
    return replace(request, tags=tuple(sorted(tags)))


def terminate_request(bot_id: str, user: str, authenticated: str) -> TaskRequest:
    """Return the request that asks a bot to leave once it is idle."""
    properties = TaskProperties(dimensions=(("id", bot_id),), grace_period_s=0)
    part = TaskSlice(properties=properties, expiration_s=TERMINATE_EXPIRATION_S, wait_for_capacity=True)
    return TaskRequest(
        name=f"Terminate {bot_id}",
        priority=0,
        slices=(part,),
        tags=("terminate:1",),
        server_tags=(f"{TEMPLATE_TAG}no_pool",),
        user=user,
        authenticated=authenticated,
    )


class Submitter:
    """Turns requests into tasks."""

    def __init__(self, ledger: Ledger, inputs: Inputs, rng: random.Random) -> None:
        self._ledger, self._inputs, self._rng = ledger, inputs, rng
        self._last_rank = 0

    async def checked(self, request: TaskRequest) -> TaskRequest:
        """Return the request as it is stored; raises InvalidTask for inputs that are incomplete, or no such parent."""
        request = tagged(await self._with_parent(request))
        await self._check_inputs(request)
        return request

    async def submit(self, request: TaskRequest, secret: bytes | None = None) -> Submitted:
        """Store a task for the request and see that a bot hears of it; raises InvalidTask."""
        ledger = self._ledger
        now = ledger.clock.now()
        if request.request_uuid:
            # Before any look at the inputs: they may be gone by now, and the answer is what it was.
            repeat_since = now - ledger.policy.repeat_s
            earlier = await ledger.store.repeated(request.authenticated, request.request_uuid, repeat_since)
            if earlier is not None:
                return earlier
        request = await self.checked(request)
        now = ledger.clock.now()
        since = now - ledger.policy.reusable_task_age_s
        hashes = [task_hash(one.properties) if one.properties.idempotent else None for one in request.slices]
        reuse = tuple((index, one) for index, one in enumerate(hashes) if one is not None)
        for _, wanted in reuse:
            await self._drop_broken(wanted, since)
        index = self.first_with_capacity(request.slices, 0)
        while True:
            number = ids.number(now, self._rng.getrandbits(16))
            task, execution = self._make(ids.pack(number), request, index, hashes, now)
            submission = Submission(
                task=task,
                execution=execution,
                reuse=reuse,
                reuse_since=since,
                repeat_since=now - ledger.policy.repeat_s,
                secret=secret,
            )
            submitted = await ledger.store.submit(submission)
            if submitted.how is not How.COLLISION:
                break
            now = ledger.clock.now()
        await self._follow_up(submitted)
        return submitted

    def next_execution(self, task: Task, index: int, now: float) -> Execution:
        """Return a new execution of one of a task's slices, under an id of its own."""
        properties = task.request.slices[index].properties
        digest = task_hash(properties) if properties.idempotent else None
        execution_id = ids.pack(ids.number(now, self._rng.getrandbits(16)))
        return self._execution(execution_id, task.request, index, digest, now, task.overdue_at(index))

    def first_with_capacity(self, slices: Sequence[TaskSlice], start: int) -> int | None:
        """Return the first slice from `start` on that waits for capacity or has it."""
        for index in range(start, len(slices)):
            queue = matching.queue_key(slices[index].properties.dimensions)
            if slices[index].wait_for_capacity or self._ledger.fleet.has_capacity(queue):
                return index
        return None

    def _make(
        self, task_id: str, request: TaskRequest, index: int | None, hashes: Sequence[str | None], now: float
    ) -> tuple[Task, Execution | None]:
        """Return the task, and its execution unless no bot could run it."""
        task = Task(task_id=task_id, request=request, created_at=now, modified_at=now, deadline_at=now)
        if index is None:
            state = after(State.PENDING, Event.NO_CAPACITY)
            return replace(task, state=state, completed_at=now, abandoned_at=now), None
        deadline_at = task.overdue_at(index)
        task = replace(task, deadline_at=deadline_at, slice_index=index, execution_id=task_id, attached=True)
        return task, self._execution(task_id, request, index, hashes[index], now, deadline_at)

    def _execution(
        self, execution_id: str, request: TaskRequest, index: int, digest: str | None, now: float, deadline_at: float
    ) -> Execution:
        policy, properties = self._ledger.policy, request.slices[index].properties
        asked_s = request.bot_ping_tolerance_s
        tolerance_s = policy.ping_tolerance_s - policy.telling_s if asked_s is None else float(asked_s)
        return Execution(
            execution_id=execution_id,
            task_name=request.name,
            properties=properties,
            task_hash=digest,
            queue=matching.queue_key(properties.dimensions),
            priority=request.priority,
            rank=self._rank(now),
            deadline_at=deadline_at,
            tolerance_s=min(max(tolerance_s, policy.min_ping_tolerance_s), policy.max_ping_tolerance_s),
            created_at=now,
            modified_at=now,
        )

    def _rank(self, now: float) -> int:
        """Return a place in line: microseconds, but never the same twice; counted down for last in, first out."""
        self._last_rank = max(self._last_rank + 1, int(now * 1e6))
        return -self._last_rank if self._ledger.policy.use_lifo else self._last_rank

    async def _check_inputs(self, request: TaskRequest) -> None:
        trees = dict.fromkeys(part.properties.inputs for part in request.slices)
        for files in trees:
            if files is None or files.isolated is None:
                continue
            missing = await self._inputs.check(files)
            if missing is not None:
                raise InvalidTask(f"Inputs {files.isolated} are incomplete: {missing} is missing from the store")

    async def _drop_broken(self, digest: str, since: float) -> None:
        """See that no result whose outputs are incomplete can be reused."""
        ledger = self._ledger
        while (source := await ledger.store.reusable(digest, since)) is not None:
            outputs = source.attempts[-1].outputs
            if outputs is None or outputs.isolated is None or await self._inputs.check(outputs) is None:
                return
            await ledger.change(source, lambda found: replace(found, reusable=False) if found.reusable else None)

    async def _with_parent(self, request: TaskRequest) -> TaskRequest:
        """Return a child with its parent's user; raises InvalidTask for a parent that does not exist."""
        if not request.parent_task_id:
            return replace(request, parent_task_id=None)
        parent_id, try_number = ids.unpack(request.parent_task_id)
        if try_number == 0:
            raise InvalidTask(f"parent_task_id {request.parent_task_id} is not the id of a run")
        try:
            parent = await self._ledger.store.record_of_run(ids.pack(parent_id))
        except NotFound as error:
            raise InvalidTask(f"parent_task_id {request.parent_task_id} is not the id of a task") from error
        if parent.execution is not None and parent.execution.properties.is_terminate:
            raise InvalidTask("A termination has no children")
        self._ledger.parents.add(request.parent_task_id)
        return replace(request, user=parent.task.request.user)

    async def _follow_up(self, submitted: Submitted) -> None:
        ledger, execution = self._ledger, submitted.execution
        if execution is not None:
            ledger.leases.refresh(execution)
            if submitted.how is How.CREATED:
                ledger.announce(execution)
        parent_id = submitted.task.request.parent_task_id
        if parent_id is not None and submitted.task.state in LIVE and ledger.leases.of_run(parent_id) is None:
            await ledger.cancel_children([parent_id])  # it ended while its child was being made
