"""What time does: offers lapse, silent bots lose their runs, tasks expire or fall to their next slice.

Knows no message and no request. Silence is measured with the monotonic clock and counts only while this server could
hear: after a start, a pause of its own or a jump of the wall clock every lease gets its full time again.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Iterable, Iterator, Sequence
from itertools import islice
from typing import Any, TypeVar

from msgspec.structs import replace

from isolate.errors import Stale
from swarming import decisions, sharing
from swarming.dispatch import Dispatcher
from swarming.leases import Lease
from swarming.ledger import Ledger
from swarming.model import Execution, Task
from swarming.states import Event, State
from swarming.store import Change
from swarming.submission import Submitter

T = TypeVar("T")
SAVED_AT_ONCE = 500  # bots and events in one transaction: ~1 KiB each, so that it stays well under 50 ms
PRUNE_S = 600.0  # how often queues that nobody uses are forgotten


class Reaper:
    """Acts when nobody does."""

    def __init__(self, ledger: Ledger, dispatcher: Dispatcher, submitter: Submitter) -> None:
        self._ledger, self._dispatcher, self._submitter = ledger, dispatcher, submitter
        self._ticked: tuple[float, float] | None = None  # (monotonic, wall) of the last tick
        self._flushed_s = self._pruned_s = 0.0

    async def start(self) -> None:
        """Take up the work of the last process: bots, queues, and a lease with full time for everything taken."""
        ledger = self._ledger
        now_s = ledger.clock.monotonic()
        ledger.fleet.load(await ledger.store.bots(), now_s)
        for queue in await ledger.store.queues():
            ledger.fleet.open(queue)
        for execution in await ledger.store.taken():
            attempt = execution.attempts[-1]
            silence_s = (
                self._dispatcher.offer_s(attempt.session) if attempt.is_offer else self._dispatcher.silence_s(execution)
            )
            # Whether it was heard after its start is not stored; to believe so runs no command twice.
            ledger.leases.add(Lease(execution, now_s, silence_s, heard_again=True))
            seat = ledger.fleet.get(attempt.bot_id)
            if seat is not None:
                seat.info = replace(seat.info, run_id=attempt.run_id, task_name=execution.task_name)
        ledger.parents = set(await ledger.store.parents())
        await ledger.cancel_children([run_id for run_id in ledger.parents if ledger.leases.of_run(run_id) is None])
        self._ticked = None
        self._flushed_s = self._pruned_s = now_s

    async def tick(self) -> None:
        """Do what is due; to be called about every second. What fails keeps nothing else from being done."""
        ledger = self._ledger
        now_s, now = ledger.clock.monotonic(), ledger.clock.now()
        if self._was_deaf(now_s, now):
            ledger.leases.grant(now_s)
            ledger.fleet.grant(now_s)
        self._ticked = now_s, now
        self._dispatcher.release()
        errors = await _all(self._end(lease) for lease in ledger.leases.silent(now_s))
        late = await ledger.store.overdue(now, ledger.policy.expire_batch)
        errors += await _all(self._expire(task.task_id) for task in late)
        for seat in ledger.fleet.silent(now_s, ledger.policy.bot_death_s):
            seat.info = replace(seat.info, is_dead=True)
            seat.is_changed = True
            ledger.note(seat.info.bot_id, "bot_missing")
        if now_s - self._flushed_s >= ledger.policy.flush_s:
            errors += await _all([self.flush()])
        if now_s - self._pruned_s >= PRUNE_S:
            self._pruned_s = now_s
            ledger.fleet.retain(await ledger.store.queues())
        if errors:
            raise ExceptionGroup("What was due was not all done", errors)

    async def flush(self) -> None:
        """Write heartbeats, changed bots and events; what could not be written is tried again the next time."""
        ledger = self._ledger
        self._flushed_s = ledger.clock.monotonic()
        for part in _parts(seat for seat in ledger.fleet if seat.is_changed):
            await ledger.save(part)
        for part in _parts(seat for seat in ledger.fleet if seat.is_heard):
            for seat in part:
                seat.is_heard = False  # a time that is not written is written with the next one
            await ledger.store.heard({seat.info.bot_id: seat.info.last_seen_at for seat in part})
        while ledger.events:
            events = list(islice(ledger.events, SAVED_AT_ONCE))
            await ledger.store.save_bots([], events)
            for _ in events:
                ledger.events.popleft()

    async def _end(self, lease: Lease) -> None:
        """Take the run of a silent bot away, unless it is heard meanwhile."""
        ledger = self._ledger
        reason = f"Bot was not heard for {lease.silence_s:.0f} s"
        await ledger.end_lease(lease, reason, only_if=lambda: lease.is_silent(ledger.clock.monotonic()))

    def _was_deaf(self, now_s: float, now: float) -> bool:
        """Whether bots may have spoken without being heard since the last tick."""
        if self._ticked is None:
            return True
        pause_s, passed_s = now_s - self._ticked[0], now - self._ticked[1]
        limit_s = self._ledger.policy.pause_s
        return pause_s > limit_s or abs(passed_s - pause_s) > limit_s

    async def _expire(self, task_id: str) -> None:
        """Let an overdue task go to its next slice, or end."""
        ledger = self._ledger
        while True:
            task = await ledger.store.task(task_id)
            now = ledger.clock.now()
            if task.state is not State.PENDING or task.execution_id is None or task.deadline_at > now:
                return
            execution = await ledger.store.execution(task.execution_id)
            attached = await ledger.store.attached(task.execution_id)
            if task not in attached:
                continue
            if execution.attempt is not None and execution.attempt.is_offer:
                return  # a bot may be about to take it; if not, it is overdue again when the offer lapses
            try:
                await self._move(task, execution, attached, now)
            except Stale:
                continue
            return

    async def _move(self, task: Task, execution: Execution, attached: Sequence[Task], now: float) -> None:
        """Store what becomes of an overdue task; raises Stale."""
        ledger = self._ledger
        index = self._submitter.first_with_capacity(task.request.slices, task.slice_index + 1)
        if execution.attempts or index is None:
            event = Event.GIVE_UP if execution.attempts else Event.EXPIRE
            changed, tasks = decisions.without(execution, attached, task, event, now)
            await ledger.commit([Change(execution, changed)], tasks)
            return
        fresh = self._submitter.next_execution(task, index, now)
        moved = replace(task, slice_index=index, deadline_at=fresh.deadline_at, modified_at=now)
        others = [one for one in attached if one.task_id != task.task_id]
        source = await ledger.store.reusable(fresh.task_hash, self._reuse_since(now)) if fresh.task_hash else None
        equal = await ledger.store.live(fresh.task_hash) if fresh.task_hash else None
        left = decisions.left(execution, others, now) if others else decisions.abandoned(execution, now)
        if source is not None:
            answered = replace(sharing.answer(moved, source, index), modified_at=now)
            await ledger.commit([Change(execution, left)], [answered])
        elif equal is not None:
            joined, shared = sharing.attach(moved, equal)
            await ledger.commit([Change(execution, left), Change(equal, shared)], [joined])
        elif others:
            joined = replace(moved, execution_id=fresh.execution_id)
            await ledger.commit([Change(execution, left), Change(None, fresh)], [joined])
        else:
            same = replace(fresh, execution_id=execution.execution_id, created_at=execution.created_at)
            await ledger.commit([Change(execution, same)], [moved])

    def _reuse_since(self, now: float) -> float:
        return now - self._ledger.policy.reusable_task_age_s


async def _all(work: Iterable[Coroutine[Any, Any, None]]) -> list[Exception]:
    """Do it all side by side, so that the store commits it in groups; returns what went wrong."""
    results = await asyncio.gather(*work, return_exceptions=True)
    for result in results:
        if isinstance(result, BaseException) and not isinstance(result, Exception):
            raise result
    return [result for result in results if isinstance(result, Exception)]


def _parts(items: Iterable[T]) -> Iterator[list[T]]:
    """Cut `items` into parts that fit one transaction."""
    rest = iter(items)
    while part := list(islice(rest, SAVED_AT_ONCE)):
        yield part
