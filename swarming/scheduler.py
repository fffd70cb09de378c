"""The scheduler: the one door to tasks and bots.

The only family of modules with policy: `submission` (what becomes of a request), `dispatch` (what bots get and say),
`reaping` (what time does), on top of `ledger` (every change and its consequences), `decisions` (pure), `fleet` and
`leases` (what is known in memory). Knows no HTTP and no SQL; errors are those of `isolate.errors`.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

from isolate.clock import Clock
from isolate.errors import NotFound
from swarming import ids
from swarming.bots import BotCount, BotEvent, BotHello, BotInfo, BotQuery, Command, TaskUpdate, Updated
from swarming.dispatch import Dispatcher
from swarming.doorbell import Doorbell
from swarming.ledger import Canceled, Ledger
from swarming.model import Attempt, Execution, Pairs, Task, TaskRequest
from swarming.overview import Aggregate, Overview
from swarming.paging import MAX_PAGE, Page, TaskQuery
from swarming.pending import Limits, Pending
from swarming.policy import Policy
from swarming.reaping import Reaper
from swarming.runs import as_it_was, as_left, is_before, is_wanted_run
from swarming.states import State
from swarming.store import OutputStore, Record, Store
from swarming.submission import Inputs, NoInputs, Submitter, terminate_request

__all__ = ["Canceled", "Inputs", "Scheduler", "TaskView"]


EVERYTHING = TaskQuery()


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskView:
    """A task, what it shares, and the attempt to show: the latest, or the one asked for by run id.

    An attempt that is only offered is not shown: the task waits. `execution.attempts` has every try.
    """

    task: Task
    execution: Execution | None
    attempt: Attempt | None
    is_run: bool = False  # asked for by run id
    children: tuple[str, ...] = ()

    @property
    def state(self) -> State:
        """The state of what was asked for."""
        return self.attempt.state if self.is_run and self.attempt is not None else self.task.state


class Scheduler:
    """Takes tasks from clients and gives them to bots; every call is for one event loop.

    Call `start` before anything else, `tick` about every second, `close` at the end. Unknown ids raise NotFound, ids
    that are none InvalidInput; any call may raise Unavailable or NoSpace.
    """

    def __init__(
        self,
        store: Store,
        outputs: OutputStore,
        doorbell: Doorbell,
        clock: Clock,
        policy: Policy | None = None,
        inputs: Inputs | None = None,
        rng: random.Random | None = None,
    ) -> None:
        self._store, self._outputs, self._clock = store, outputs, clock
        rng = rng or random.Random()  # for ids and pauses; nothing here is a secret
        self._ledger = Ledger(store, doorbell, clock, policy or Policy())
        self._submitter = Submitter(self._ledger, inputs or NoInputs(), rng)
        self._dispatcher = Dispatcher(self._ledger, outputs, rng)
        self._reaper = Reaper(self._ledger, self._dispatcher, self._submitter)
        self._overview = Overview(self._ledger)

    def configure(self, policy: Policy, limits: Limits) -> None:
        """Use other figures from now on; what was decided already stays. Whoever asks for bots keeps to `limits`."""
        self._ledger.policy = policy
        self._overview.configure(limits)

    @property
    def bot_death_s(self) -> float:
        """How long an idle bot may be silent before it counts as dead."""
        return self._ledger.policy.bot_death_s

    async def start(self) -> None:
        """Take up what the last process left; every lease gets its full time again."""
        await self._reaper.start()

    async def tick(self) -> None:
        """Do what is due: lapses, deaths, expirations, ends of long polls, heartbeats to the store."""
        await self._reaper.tick()

    async def release(self) -> None:
        """End long polls whose time has come; to be called much more often than `tick`, and cheap."""
        self._dispatcher.release()

    async def close(self) -> None:
        """Release all long polls and write what is only in memory; the stores stay open."""
        await self._dispatcher.close()
        await self._reaper.flush()

    # What clients ask.

    async def evaluate(self, request: TaskRequest) -> TaskRequest:
        """Return the request as it would be stored, with all tags; stores nothing. Raises as `submit` does."""
        return await self._submitter.checked(request)

    async def submit(self, request: TaskRequest, secret: bytes | None = None) -> TaskView:
        """Make a task of a request that obeys the rules of `wire_rules`; returns when it is durable.

        The view shows what became of it: PENDING or RUNNING (it joined an equal one), COMPLETED and `deduped`, or
        NO_RESOURCE. Equal request_uuid and identity within an hour: the task made first. Raises InvalidTask for inputs
        that are incomplete and for a parent that does not exist. `secret` is what the properties have the digest of.
        """
        submitted = await self._submitter.submit(request, secret)
        return self._view(Record(submitted.task, submitted.execution))

    async def terminate(self, bot_id: str, user: str = "", authenticated: str = "anonymous:anonymous") -> TaskView:
        """Make a task that asks a bot to leave once it is idle."""
        self._ledger.fleet.seat(bot_id)
        return await self.submit(terminate_request(bot_id, user, authenticated))

    async def cancel(self, task_id: str, kill_running: bool) -> Canceled:
        """Cancel a task that waits; kill one that runs if `kill_running`; may be repeated.

        A killed task stays RUNNING until its bot has stopped it, unless other tasks share the run: then it goes on
        for them, and this task is KILLED at once. The id of a run that is going on stops it for all who share it; any
        other run id means its task.
        """
        if ids.unpack(task_id)[1]:
            stopped = await self._ledger.kill_run(task_id, kill_running=kill_running)
            if stopped is not None:
                return stopped
        return await self._ledger.cancel(ids.task_id(task_id), kill_running=kill_running)

    async def view(self, task_id: str) -> TaskView:
        """Return a task, or one of its runs for a run id."""
        value, try_number = ids.unpack(task_id)
        if try_number == 0:
            return self._view(await self._store.record(task_id))
        record = await self._store.record_of_run(ids.pack(value))
        execution = self._ledger.leases.so_far(record.execution)
        attempts = () if execution is None else execution.attempts
        attempt = next((one for one in attempts if one.run_id == task_id and not one.is_offer), None)
        if attempt is None:
            raise NotFound(f"Run {task_id} not found")
        return TaskView(task=record.task, execution=execution, attempt=attempt, is_run=True, children=record.children)

    async def stdout(self, task_id: str, offset: int, length: int) -> tuple[bytes, State]:
        """Return up to `length` bytes of what a task (its latest try) or a run printed, and its state.

        Raises OutputLost.
        """
        view = await self.view(task_id)
        if view.attempt is None:
            return b"", view.state
        lease = self._ledger.leases.of_run(view.attempt.run_id)
        if lease is not None:
            lease.watched_s = self._clock.monotonic()
        return await self._outputs.read(view.attempt.run_id, offset, length), view.state

    def holds(self, run_id: str) -> bool:
        """Say whether a run goes on, so that its bot may still print."""
        return self._ledger.leases.of_run(run_id) is not None

    async def search(self, query: TaskQuery, cursor: str | None, limit: int) -> Page[TaskView]:
        """Return tasks, newest first."""
        page = await self._store.search(query, cursor, limit)
        return Page(tuple(self._view(record) for record in page.items), page.cursor)

    async def count(self, query: TaskQuery) -> int:
        """Return how many tasks match."""
        return await self._store.count(query)

    async def why_pending(self, view: TaskView) -> Pending | None:
        """Return why a task waits; None for one that does not."""
        execution = view.execution
        waits = view.task.state is State.PENDING and not view.is_run and execution is not None
        return await self._overview.pending(execution) if waits and execution is not None else None

    async def cancel_tagged(
        self, tags: tuple[str, ...], cursor: str | None, limit: int, *, kill_running: bool
    ) -> Page[str]:
        """Cancel a page of the waiting (and running) tasks that have all of `tags`; returns the ids that matched."""
        return await self._overview.cancel(tags, cursor, limit, kill_running=kill_running)

    async def tags(self) -> Aggregate:
        """Return the tags of recent tasks, as of the last minute."""
        return await self._overview.tags()

    async def queues(self, cursor: str | None, limit: int) -> Page[Pairs]:
        """Return the dimensions of the queues in use."""
        return self._overview.queues(cursor, limit)

    # What bots say; see `dispatch`.

    async def handshake(self, hello: BotHello) -> BotInfo:
        """Note a bot that started: capacity from now on. A new session under a known id ends its predecessor's run."""
        return await self._dispatcher.handshake(hello)

    async def poll(self, hello: BotHello, wait_until: float | None = None) -> Command:
        """Return what the bot shall do; wait for work until `wait_until` (monotonic time of the clock) if given.

        Asking again before the first update gives the same run. Raises LeaseLost for a session that was replaced.
        """
        return await self._dispatcher.poll(hello, wait_until)

    async def update(self, bot_id: str, session: str, run_id: str, update: TaskUpdate) -> Updated:
        """Take in a report; the first one accepts the offer. Returns when output and ending are durable.

        Repeating the same ending is fine. Raises LeaseLost when the run is not this session's any more (a bot of
        2020, session "", is told to stop instead), InvalidTask for a report that contradicts itself.
        """
        return await self._dispatcher.update(bot_id, session, run_id, update)

    async def fail(self, bot_id: str, session: str, run_id: str, message: str) -> None:
        """End a run that its bot could not bring to an end: BOT_DIED, without another try.

        Raises LeaseLost, and InvalidInput for the run of another bot.
        """
        await self._dispatcher.fail(bot_id, session, run_id, message)

    async def event(self, hello: BotHello, event_type: str, message: str) -> None:
        """Note something about a bot that is heard now, for people: what it says, or what it is told."""
        await self._dispatcher.event(hello, event_type, message)

    # What people ask about bots; answered from memory.

    async def bot(self, bot_id: str) -> BotInfo:
        """Return what is known of a bot."""
        return self._ledger.fleet.seat(bot_id).info

    async def bots(self, query: BotQuery, cursor: str | None, limit: int) -> Page[BotInfo]:
        """Return the bots that match, by id; raises InvalidInput for a cursor of something else."""
        return self._overview.bots(query, cursor, limit)

    async def count_bots(self, query: BotQuery) -> BotCount:
        """Return how many bots match, and what they are."""
        return self._overview.count_bots(query)

    async def dimensions(self, pool: str | None) -> Aggregate:
        """Return the dimensions of all bots, or those of one pool; raises NotFound where there are no bots."""
        return self._overview.dimensions(pool)

    async def past_bot(self, bot_id: str) -> BotInfo:
        """Return what was known of a bot that was forgotten, from its last events; raises NotFound."""
        page = await self._store.events(bot_id, None, None, None, MAX_PAGE)
        if not page.items:
            raise NotFound(f"Bot {bot_id!r} is not known")
        return as_it_was(page.items)

    async def bot_runs(
        self, bot_id: str, cursor: str | None, limit: int, query: TaskQuery = EVERYTHING
    ) -> Page[TaskView]:
        """Return the runs a bot had, newest first; of `query` the states and times count. Pages may have gaps."""
        page = await self._store.runs_of(bot_id, query, cursor, limit)
        found = [one for one in page.items if is_wanted_run(one, query)]
        is_last = bool(page.items) and is_before(page.items[-1], query)
        so_far = self._ledger.leases.attempt_so_far
        views = (TaskView(task=r.task, execution=r.execution, attempt=so_far(r.attempt), is_run=True) for r in found)
        return Page(tuple(views), None if is_last else page.cursor)

    async def bot_events(
        self, bot_id: str, start: float | None, end: float | None, cursor: str | None, limit: int
    ) -> Page[BotEvent]:
        """Return what happened to a bot, newest first; events of the last seconds may not be there yet.

        Raises NotFound for a bot of which nothing was ever heard.
        """
        page = await self._store.events(bot_id, start, end, cursor, limit)
        if not page.items and self._ledger.fleet.get(bot_id) is None:
            await self.past_bot(bot_id)
        return page

    async def forget_bot(self, bot_id: str) -> None:
        """Forget a bot; if it is alive it is back with its next poll."""
        self._ledger.fleet.seat(bot_id)
        await self._reaper.flush()  # its events are all that is left of it
        await self._store.forget_bot(bot_id)
        self._ledger.fleet.forget(bot_id)

    def _view(self, record: Record) -> TaskView:
        execution = as_left(record.task, self._ledger.leases.so_far(record.execution))
        shown = [] if execution is None else [attempt for attempt in execution.attempts if not attempt.is_offer]
        return TaskView(
            task=record.task, execution=execution, attempt=shown[-1] if shown else None, children=record.children
        )
