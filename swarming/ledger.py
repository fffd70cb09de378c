"""Every change of an execution, and what follows from it: leases end, bots become free, waiting bots hear the bell.

The only module that writes executions (after they were submitted or claimed). Knows no request and no message of a
bot; decisions come from `decisions`. A change that somebody else was faster with is decided again on fresh facts.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

from msgspec.structs import replace

from isolate.clock import Clock
from isolate.errors import Stale
from swarming import decisions
from swarming.bots import BotEvent
from swarming.cache_hints import CacheHints
from swarming.doorbell import Doorbell
from swarming.fleet import Fleet, Seat, must_end_by
from swarming.leases import Lease, Leases
from swarming.model import Execution, Task
from swarming.policy import Policy
from swarming.states import LIVE, Event, State
from swarming.store import Change, Store

_EVENT_OF_END = {State.BOT_DIED: "task_error", State.KILLED: "task_killed", State.CANCELED: "task_killed"}
MAX_EVENTS = 50_000  # a few seconds' worth; they are for people, so beyond that the oldest are dropped


@dataclass(frozen=True, slots=True)
class Canceled:
    """What became of a wish to cancel."""

    ok: bool
    was_running: bool


class Ledger:
    """Executions and tasks as they are stored, together with the memory of this server."""

    def __init__(self, store: Store, doorbell: Doorbell, clock: Clock, policy: Policy) -> None:
        self.store, self.doorbell, self.clock, self.policy = store, doorbell, clock, policy
        self.fleet = Fleet()
        self.hints = CacheHints(self.fleet, clock)
        self.leases = Leases()
        self.parents: set[str] = set()  # runs that may have live children
        self.events: deque[BotEvent] = deque(maxlen=MAX_EVENTS)  # not written yet

    async def commit(self, changes: Sequence[Change], tasks: Sequence[Task] = ()) -> list[Execution]:
        """Store the changes and see to what follows; raises Stale."""
        stored = await self.store.replace(changes, tasks)
        ended: set[str] = set()
        for change, execution in zip(changes, stored, strict=True):
            ended |= self._settle(change.old, execution)
        await self.cancel_children(ended & self.parents)
        return stored

    async def change(self, execution: Execution, decide: Callable[[Execution], Execution | None]) -> Execution:
        """Store what `decide` makes of an execution (None: leave it), again whenever somebody else was faster."""
        while True:
            wanted = decide(execution)
            if wanted is None or wanted is execution:
                return execution
            try:
                return (await self.commit([Change(execution, wanted)]))[0]
            except Stale:
                execution = await self.store.execution(execution.execution_id)
                self.leases.refresh(execution)

    async def change_shared(
        self,
        execution_id: str,
        decide: Callable[[Execution, Sequence[Task]], tuple[Execution, Sequence[Task]] | None],
    ) -> Execution:
        """Do the same for a decision about the tasks attached too."""
        while True:
            execution = await self.store.execution(execution_id)
            decided = decide(execution, await self.store.attached(execution_id))
            if decided is None:
                return execution
            try:
                return (await self.commit([Change(execution, decided[0])], decided[1]))[0]
            except Stale:
                continue

    def announce(self, execution: Execution) -> None:
        """Ring for an execution that anybody may claim."""
        self.fleet.open(execution.queue)
        lost_by = {attempt.bot_id for attempt in execution.attempts}
        self.doorbell.ring(execution.queue, lambda bot_id: bot_id not in lost_by and self._may_have(bot_id, execution))

    async def cancel(self, task_id: str, *, kill_running: bool) -> Canceled:
        """Withdraw a task; raises NotFound. Repeating it changes nothing."""
        while True:
            task = await self.store.task(task_id)
            if task.state not in LIVE or task.execution_id is None:
                return Canceled(ok=False, was_running=False)
            running = task.state is State.RUNNING
            if running and not kill_running:
                return Canceled(ok=False, was_running=True)
            execution = await self.store.execution(task.execution_id)
            attached = await self.store.attached(task.execution_id)
            members = [one for one in attached if one.task_id == task_id]
            if not members or members[0].state is not task.state or execution.state is not task.state:
                continue
            now = self.clock.now()
            if running and len(attached) == 1:
                decided: tuple[Execution, list[Task]] = (decisions.killing(execution, now), [])
            else:
                event = Event.KILLED if running else Event.CANCEL
                decided = decisions.without(execution, attached, members[0], event, now)
            try:
                if decided[0] is not execution:
                    await self.commit([Change(execution, decided[0])], decided[1])
            except Stale:
                continue
            return Canceled(ok=True, was_running=running)

    async def kill_run(self, run_id: str, *, kill_running: bool) -> Canceled | None:
        """Stop a run for all who share it, and not only for whom it was made; None when it does not run."""
        lease, now = self.leases.of_run(run_id), self.clock.now()
        if lease is None or lease.attempt.state is not State.RUNNING:
            return None
        if not kill_running:
            return Canceled(ok=False, was_running=True)

        def decide(execution: Execution) -> Execution | None:
            attempt = execution.attempt
            runs = attempt is not None and attempt.run_id == run_id and execution.state is State.RUNNING
            return decisions.killing(execution, now) if runs else None

        stopped = await self.change(lease.execution, decide)
        return Canceled(ok=True, was_running=True) if stopped.killing else None

    async def cancel_children(self, run_ids: Collection[str]) -> None:
        """Cancel and kill the live tasks whose parent run is over."""
        if not run_ids:
            return
        self.parents -= set(run_ids)
        for child in await self.store.children(run_ids):
            if child.state in LIVE:
                await self.cancel(child.task_id, kill_running=True)

    async def end_lease(
        self, lease: Lease, reason: str, *, final: bool = False, only_if: Callable[[], bool] = lambda: True
    ) -> None:
        """Take an execution from a bot that is gone: an offer goes back, a run is retried or has died.

        `final` says that there shall be no other try; `only_if` is asked again at the last moment.
        """
        run_id = lease.run_id
        now, cost_usd, heard_again = self.clock.now(), lease.cost_usd, lease.heard_again

        def decide(execution: Execution, attached: Sequence[Task]) -> tuple[Execution, Sequence[Task]] | None:
            attempt = execution.attempt
            if attempt is None or attempt.run_id != run_id or self.leases.of_run(run_id) is not lease:
                return None
            if not only_if():
                return None
            if attempt.is_offer and not final:
                return decisions.lapsed(execution, now), ()
            if attempt.is_offer:
                execution = decisions.accepted(execution, now)
            elif attempt.state is not State.RUNNING:
                return None
            again = self.policy.retry_dead and not final
            if again and decisions.may_retry(execution, attached, now, heard_again=heard_again):
                return decisions.retried(execution, attached, reason, now, cost_usd)
            return decisions.died(execution, reason, now, cost_usd), ()

        await self.change_shared(lease.execution.execution_id, decide)
        if self.leases.of_run(run_id) is lease and only_if():  # the store knew already that it was over
            self.leases.remove(run_id)
            self._free(lease.attempt.bot_id, run_id)

    async def save(self, seats: Sequence[Seat]) -> None:
        """Write bots as they are now."""
        for seat in seats:
            seat.is_changed = seat.is_heard = False
        try:
            await self.store.save_bots([seat.info for seat in seats])
        except BaseException:
            for seat in seats:
                seat.is_changed = True
            raise

    def note(self, bot_id: str, event_type: str, message: str = "", run_id: str | None = None) -> None:
        """Remember an event of a bot, to be written with the next heartbeats."""
        seat = self.fleet.get(bot_id)
        if seat is None:
            return
        info = seat.info
        event = BotEvent(
            bot_id=bot_id,
            event_type=event_type,
            at=self.clock.now(),
            message=message,
            run_id=run_id,
            version=info.version,
            quarantined=info.quarantined,
            maintenance=info.maintenance,
            dimensions=info.dimensions if run_id is None else (),  # two events for each task: they have to be small
            state=info.state if run_id is None else {},
            external_ip=info.external_ip,
            authenticated_as=info.authenticated_as,
        )
        self.events.append(event)

    def _settle(self, old: Execution | None, new: Execution) -> set[str]:
        """Bring the memory of this server in line with a stored change; returns the runs that ended by it."""
        run = None if old is None else old.attempt
        is_held = new.state in LIVE and not new.is_claimable
        if run is not None and run.state in LIVE and not (is_held and new.attempts[-1].run_id == run.run_id):
            self.leases.remove(run.run_id)
            self._free(run.bot_id, run.run_id)
            end = next((one for one in new.attempts if one.run_id == run.run_id), None)
            if end is not None:  # an offer that lapsed left no trace
                self.note(run.bot_id, _EVENT_OF_END.get(end.state, "task_completed"), end.reason, run.run_id)
        self.leases.refresh(new)
        if new.is_claimable and (old is None or not old.is_claimable or old.queue != new.queue):
            self.announce(new)
        return {run.run_id} if run is not None and (new.state not in LIVE or new.is_claimable) else set()

    def _free(self, bot_id: str, run_id: str) -> None:
        seat = self.fleet.get(bot_id)
        if seat is not None and seat.info.run_id == run_id:
            seat.info = replace(seat.info, run_id=None, task_name="")

    def _may_have(self, bot_id: str, execution: Execution) -> bool:
        """Whether a waiting bot could be given `execution`, as far as is known without asking the store."""
        seat = self.fleet.get(bot_id)
        if seat is None or (execution.needs_session and not seat.info.session):
            return False
        end_at, span_s = must_end_by(seat.info), execution.span_s
        return end_at is None or (span_s is not None and self.clock.now() + span_s < end_at)
