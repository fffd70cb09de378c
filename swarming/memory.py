"""A task store in memory: the reference the contract is debugged on, and the store of tests.

Knows no policy. No method waits for anything, so each is atomic; everything is lost with the process.
"""

from __future__ import annotations

from bisect import insort
from collections.abc import Callable, Collection, Sequence

from msgspec.structs import replace

from isolate.errors import NotFound, Stale
from swarming import ids, sharing
from swarming.memory_bots import MemoryBots, page_of
from swarming.model import Execution, Task
from swarming.paging import Page, Sort, TaskQuery
from swarming.states import LIVE, State
from swarming.store import Change, How, Offer, Record, RunRecord, Submission, Submitted, stored_bytes

SORTED_BY: dict[Sort, Callable[[Task], float | None]] = {
    Sort.CREATED: lambda task: task.created_at,
    Sort.MODIFIED: lambda task: task.modified_at,
    Sort.COMPLETED: lambda task: task.completed_at,
    Sort.ABANDONED: lambda task: task.abandoned_at,
    Sort.STARTED: lambda task: task.started_at,
}


class MemoryTaskStore(MemoryBots):
    """Dictionaries; implements `store.Store`."""

    def __init__(self) -> None:
        super().__init__()
        self._tasks: dict[str, Task] = {}
        self._executions: dict[str, Execution] = {}
        self._secrets: dict[str, bytes] = {}  # by task id
        self._members: dict[str, set[str]] = {}  # execution id -> ids of the tasks attached to it
        self._live: dict[str, str] = {}  # live hash -> execution id
        self._waiting: dict[str, list[tuple[int, int, str]]] = {}  # queue -> sorted (priority, rank, execution id)

    async def submit(self, submission: Submission) -> Submitted:
        task, execution = submission.task, submission.execution
        asked = task.request
        earlier = await self.repeated(asked.authenticated, asked.request_uuid, submission.repeat_since)
        if earlier is not None:
            return earlier
        if task.task_id in self._tasks or task.task_id in self._executions:
            return Submitted(How.COLLISION, task, None)
        for index, wanted in submission.reuse:
            source = await self.reusable(wanted, submission.reuse_since)
            if source is not None:
                answered = sharing.answer(task, source, index)
                self._put_task(answered)
                return Submitted(How.REUSED, answered, source)
        how = How.CREATED
        if execution is not None:
            shared_id = self._live.get(execution.live_hash or "")
            if shared_id is not None:
                shared = self._executions[shared_id]
                task, execution = sharing.attach(task, shared)
                execution = replace(execution, version=shared.version + 1)
                how = How.JOINED
            self._put(execution)
        if submission.secret is not None:
            self._secrets[task.task_id] = submission.secret
        self._put_task(task)
        return Submitted(how, task, execution)

    async def claim(self, queues: Sequence[str], offer: Offer) -> Execution | None:
        best: tuple[int, int, str] | None = None
        for queue in queues:
            for entry in self._waiting.get(queue, ()):
                if best is not None and entry >= best:
                    break
                if _suits(self._executions[entry[2]], offer):
                    best = entry
                    break
        if best is None:
            return None
        taken = sharing.offer(self._executions[best[2]], offer.attempt)
        taken = replace(taken, version=taken.version + 1)
        self._put(taken)
        return taken

    async def replace(self, changes: Sequence[Change], tasks: Sequence[Task] = ()) -> list[Execution]:
        self._check(changes)
        stored = [replace(one.new, version=0 if one.old is None else one.old.version + 1) for one in changes]
        for execution in stored:
            self._put(execution)
            for task in await self.attached(execution.execution_id):
                self._put_task(sharing.follow(task, execution))
        for task in tasks:
            self._put_task(task)
        return stored

    async def task(self, task_id: str) -> Task:
        if task_id not in self._tasks:
            raise NotFound(f"Task {task_id} not found")
        return self._tasks[task_id]

    async def execution(self, execution_id: str) -> Execution:
        if execution_id not in self._executions:
            raise NotFound(f"Task {execution_id} not found")
        return self._executions[execution_id]

    async def secret(self, execution_id: str) -> bytes | None:
        found = (self._secrets.get(one) for one in self._members.get(execution_id, ()))
        return next((secret for secret in found if secret is not None), None)

    async def attached(self, execution_id: str) -> list[Task]:
        return sorted((self._tasks[one] for one in self._members.get(execution_id, ())), key=_age)

    async def overdue(self, now: float, limit: int) -> list[Task]:
        late = [t for t in self._tasks.values() if t.attached and t.state is State.PENDING and t.deadline_at <= now]
        return sorted(late, key=lambda task: (task.deadline_at, _age(task)))[:limit]

    async def record(self, task_id: str) -> Record:
        return self._record(await self.task(task_id))

    async def record_of_run(self, execution_id: str) -> Record:
        execution = await self.execution(execution_id)
        members = await self.attached(execution_id)
        task = members[0] if members else await self.task(execution_id)
        return replace(self._record(task), execution=execution, children=self._children(execution))

    async def repeated(self, identity: str, request_uuid: str, since: float) -> Submitted | None:
        found = [
            task
            for task in self._tasks.values()
            if task.request.request_uuid == request_uuid != ""
            and task.request.authenticated == identity
            and task.created_at >= since
        ]
        if not found:
            return None
        earlier = max(found, key=_age)
        return Submitted(How.REPEATED, earlier, self._executions.get(earlier.execution_id or ""))

    async def reusable(self, task_hash: str, since: float) -> Execution | None:
        found = [e for e in self._executions.values() if e.reusable_hash == task_hash and e.created_at >= since]
        return max(found, key=lambda one: (one.created_at, _number(one.execution_id)), default=None)

    async def live(self, task_hash: str) -> Execution | None:
        return self._executions.get(self._live.get(task_hash, ""))

    async def taken(self) -> list[Execution]:
        found = [e for e in self._executions.values() if e.state in LIVE and not e.is_claimable]
        return sorted(found, key=lambda one: _number(one.execution_id))

    async def queues(self) -> list[str]:
        return sorted({one.queue for one in self._executions.values() if one.state in LIVE})

    async def parents(self) -> list[str]:
        live = (task.request.parent_task_id for task in self._tasks.values() if task.state in LIVE)
        return sorted({parent for parent in live if parent})

    async def children(self, run_ids: Collection[str]) -> list[Task]:
        wanted = set(run_ids)
        return sorted((t for t in self._tasks.values() if t.request.parent_task_id in wanted), key=_age)

    async def search(self, query: TaskQuery, cursor: str | None, limit: int) -> Page[Record]:
        key = SORTED_BY[query.sort]
        found = [
            ((time, _age(task)), self._record(task))
            for task in self._tasks.values()
            if (time := key(task)) is not None and _matches(task, query)
        ]
        return page_of(found, query.listing, cursor, limit, stored_bytes)

    async def count(self, query: TaskQuery) -> int:
        key = SORTED_BY[query.sort]
        return sum(key(task) is not None and _matches(task, query) for task in self._tasks.values())

    async def ahead(self, execution: Execution, limit: int) -> int:
        line = self._waiting.get(execution.queue, [])
        return min(limit, sum(entry < _place(execution) for entry in line))

    async def runs_of(self, bot_id: str, query: TaskQuery, cursor: str | None, limit: int) -> Page[RunRecord]:
        found = []
        for one in self._executions.values():
            for attempt in one.attempts:
                if attempt.bot_id == bot_id and (query.created_to is None or one.created_at <= query.created_to):
                    task = (await self.record_of_run(one.execution_id)).task
                    found.append(((one.created_at, _number(one.execution_id)), RunRecord(task, one, attempt)))
        return page_of(found, query.listing_of_runs(bot_id), cursor, limit, stored_bytes)

    async def forget_tasks(self, before: float, limit: int) -> int:
        old = sorted((t for t in self._tasks.values() if t.created_at < before and t.state not in LIVE), key=_age)
        for task in old[:limit]:
            self._members.get(task.execution_id or "", set()).discard(task.task_id)
            del self._tasks[task.task_id]
        used = {task.execution_id for task in self._tasks.values()}
        unused = [e for e in self._executions.values() if e.created_at < before and e.state not in LIVE]
        unused = sorted((e for e in unused if e.execution_id not in used), key=lambda one: _number(one.execution_id))
        for execution in unused[:limit]:
            del self._executions[execution.execution_id]
        return len(old[:limit]) + len(unused[:limit])

    def _put(self, execution: Execution) -> None:
        """Store an execution, and keep the line of its queue and the live hashes right."""
        old = self._executions.get(execution.execution_id)
        if old is not None:
            if old.live_hash is not None and self._live.get(old.live_hash) == old.execution_id:
                del self._live[old.live_hash]
            if old.is_claimable:
                self._waiting[old.queue].remove(_place(old))
        if execution.live_hash is not None:
            self._live[execution.live_hash] = execution.execution_id
        if execution.is_claimable:
            insort(self._waiting.setdefault(execution.queue, []), _place(execution))
        self._executions[execution.execution_id] = execution

    def _put_task(self, task: Task) -> None:
        """Store a task, and keep the list of those attached right."""
        old = self._tasks.get(task.task_id)
        if old is not None and old.attached:
            self._members[old.execution_id or ""].discard(task.task_id)
        if task.attached:
            self._members.setdefault(task.execution_id or "", set()).add(task.task_id)
        self._tasks[task.task_id] = task
        if task.state not in LIVE:
            self._secrets.pop(task.task_id, None)

    def _check(self, changes: Sequence[Change]) -> None:
        """Raise Stale when one of the changes cannot be made any more."""
        owners: dict[str, str | None] = {}
        for change in changes:
            execution_id, wanted = change.new.execution_id, change.new.live_hash
            stored = self._executions.get(execution_id)
            if (stored and stored.version) != (change.old and change.old.version):
                raise Stale(f"Task {execution_id} was changed by somebody else")
            if stored is not None and stored.live_hash is not None:
                owners[stored.live_hash] = None
            if wanted is not None:
                if owners.get(wanted, self._live.get(wanted)) not in {None, execution_id}:
                    raise Stale(f"Task {execution_id} has a live equal")
                owners[wanted] = execution_id

    def _children(self, execution: Execution | None) -> tuple[str, ...]:
        runs = {attempt.run_id for attempt in execution.attempts} if execution is not None else set()
        found = [task for task in self._tasks.values() if task.request.parent_task_id in runs]
        return tuple(task.task_id for task in sorted(found, key=_age))

    def _record(self, task: Task) -> Record:
        execution = self._executions.get(task.execution_id or "")
        return Record(task, execution, self._children(execution))


def _number(task_id: str) -> int:
    return ids.unpack(task_id)[0]


def _age(task: Task) -> int:
    return _number(task.task_id)


def _place(execution: Execution) -> tuple[int, int, str]:
    return execution.priority, execution.rank, execution.execution_id


def _suits(execution: Execution, offer: Offer) -> bool:
    """Whether an execution in line is for this bot."""
    if execution.deadline_at <= offer.attempt.offered_at or (execution.needs_session and not offer.has_session):
        return False
    if offer.must_end_by is not None:
        span_s = execution.span_s
        if span_s is None or offer.attempt.offered_at + span_s >= offer.must_end_by:
            return False
    return all(attempt.bot_id != offer.attempt.bot_id for attempt in execution.attempts)


def _matches(task: Task, query: TaskQuery) -> bool:
    return (
        (not query.states or task.state in query.states)
        and (query.failure is None or task.failure is query.failure)
        and (query.deduped is None or task.deduped is query.deduped)
        and (query.name is None or task.request.name == query.name)
        and set(query.tags) <= set(task.request.tags)
        and (query.created_from is None or task.created_at >= query.created_from)
        and (query.created_to is None or task.created_at <= query.created_to)
    )
