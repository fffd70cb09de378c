"""Random histories of clients, bots, lost replies and clocks against one scheduler.

What must hold whatever happens: states move only along the table; every acknowledged task reaches one final state and
keeps it; a bot has one run at a time and a run one bot; a run ends once; equal idempotent tasks run once.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections import Counter
from collections.abc import Coroutine
from dataclasses import dataclass
from typing import Any, TypeVar

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from isolate.errors import LeaseLost
from swarming.bots import Run, TaskUpdate
from swarming.doorbell import LocalDoorbell
from swarming.memory import MemoryTaskStore
from swarming.paging import TaskQuery
from swarming.scheduler import Scheduler
from swarming.states import LIVE, TRANSITIONS, State
from tests.tasks import WINDOWS, MemoryOutputs, hello, one_slice, properties, request
from tests.unit.scheduling import LeapingClock

T = TypeVar("T")
MOVES = {(before, after) for (before, _), after in TRANSITIONS.items()} | {(state, state) for state in State}
BOTS = ("a", "b", "c")
EXPIRATION_S = 200


@dataclass
class Bot:
    """What a bot believes."""

    name: str
    session: str
    run_id: str | None = None
    is_started: bool = False


class Histories(RuleBasedStateMachine):
    """One scheduler on a memory store; a restart is a new scheduler on the same store."""

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.clock, self.store, self.outputs = LeapingClock(), MemoryTaskStore(), MemoryOutputs()
        self.bots: dict[str, Bot] = {}
        self.seen: dict[str, State] = {}
        self.sessions = 0
        self.endings: Counter[str] = Counter()

    def do(self, work: Coroutine[Any, Any, T]) -> T:
        return self.loop.run_until_complete(work)

    def teardown(self) -> None:
        try:
            self.everything_ends()
        finally:
            self.loop.close()

    @initialize()
    def start(self) -> None:
        self.scheduler = Scheduler(
            self.store, self.outputs, LocalDoorbell(), self.clock, rng=random.Random(len(self.seen))
        )
        self.do(self.scheduler.start())
        self.do(self.scheduler.tick())

    # clients

    @rule(
        priority=st.integers(1, 3),
        command=st.sampled_from(["x", "y"]),
        idempotent=st.booleans(),
        slices=st.integers(1, 2),
        uuid=st.sampled_from(["", "", "u1", "u2"]),
    )
    def submit(self, priority: int, command: str, idempotent: bool, slices: int, uuid: str) -> None:
        what = properties(command, idempotent=idempotent)
        parts = [one_slice(what, EXPIRATION_S)]
        if slices == 2:
            elsewhere = properties(command, idempotent=idempotent, dimensions=WINDOWS)
            parts.insert(0, one_slice(elsewhere, EXPIRATION_S))
        wanted = request(f"{command}", *parts, priority=priority, request_uuid=uuid)
        view = self.do(self.scheduler.submit(wanted))
        self.seen.setdefault(view.task.task_id, State.PENDING)

    @precondition(lambda self: self.seen)
    @rule(data=st.data(), kill=st.booleans())
    def cancel(self, data: st.DataObject, kill: bool) -> None:
        task_id = data.draw(st.sampled_from(sorted(self.seen)))
        before = self.do(self.scheduler.view(task_id)).task.state
        canceled = self.do(self.scheduler.cancel(task_id, kill))
        assert canceled.was_running == (before is State.RUNNING)
        assert canceled.ok == (before is State.PENDING or (before is State.RUNNING and kill))

    # bots

    @rule(name=st.sampled_from(BOTS))
    def bot_starts(self, name: str) -> None:
        self.sessions += 1
        self.bots[name] = Bot(name, f"session {self.sessions}")
        self.do(self.scheduler.handshake(hello(name, self.bots[name].session)))

    @precondition(lambda self: self.bots)
    @rule(data=st.data(), is_lost=st.booleans())
    def bot_polls(self, data: st.DataObject, is_lost: bool) -> None:
        bot = self.bots[data.draw(st.sampled_from(sorted(self.bots)))]
        if bot.run_id is not None:
            return
        command = self.do(self.scheduler.poll(hello(bot.name, bot.session)))
        if isinstance(command, Run) and not is_lost:
            assert command.attempt.bot_id == bot.name
            bot.run_id, bot.is_started = command.attempt.run_id, False

    @precondition(lambda self: any(bot.run_id for bot in self.bots.values()))
    @rule(data=st.data(), ends=st.booleans(), exit_code=st.sampled_from([0, 0, 1]), is_lost=st.booleans())
    def bot_reports(self, data: st.DataObject, ends: bool, exit_code: int, is_lost: bool) -> None:
        bot = self.bots[data.draw(st.sampled_from([name for name, bot in sorted(self.bots.items()) if bot.run_id]))]
        run_id = bot.run_id or ""
        update = TaskUpdate(exit_code=exit_code, duration_s=1.0) if ends and bot.is_started else TaskUpdate()
        try:
            done = self.do(self.scheduler.update(bot.name, bot.session, run_id, update))
        except LeaseLost:
            bot.run_id = None
            return
        if update.is_final:
            self.endings[run_id] += 1
            assert self.endings[run_id] == 1
            if is_lost:
                self.do(self.scheduler.update(bot.name, bot.session, run_id, update))
            bot.run_id = None
        elif not is_lost:
            bot.is_started = True
            if done.must_stop:
                killed = TaskUpdate(exit_code=-15, duration_s=1.0)
                self.do(self.scheduler.update(bot.name, bot.session, run_id, killed))
                bot.run_id = None

    @precondition(lambda self: any(bot.run_id for bot in self.bots.values()))
    @rule(data=st.data())
    def bot_fails(self, data: st.DataObject) -> None:
        bot = self.bots[data.draw(st.sampled_from([name for name, bot in sorted(self.bots.items()) if bot.run_id]))]
        with contextlib.suppress(LeaseLost):
            self.do(self.scheduler.fail(bot.name, bot.session, bot.run_id or "", "inputs are gone"))
        bot.run_id = None

    # time

    @rule(seconds=st.sampled_from([1, 4, 16, 31, 70]))
    def time_passes(self, seconds: int) -> None:
        for _ in range(seconds):
            self.clock.advance(1.0)
            self.do(self.scheduler.tick())

    @rule(by_s=st.sampled_from([-3600.0, 30.0, 90.0]), pause_s=st.sampled_from([0.0, 20.0]))
    def clock_leaps(self, by_s: float, pause_s: float) -> None:
        self.clock.leap(by_s)
        self.clock.advance(pause_s)
        held = self.held()
        self.do(self.scheduler.tick())
        assert self.held() == held, "silence counts only while the server could hear"

    @rule()
    def server_restarts(self) -> None:
        held = self.held()
        self.start()
        assert self.held() == held

    # what holds

    def held(self) -> dict[str, str]:
        """Return run -> bot of every lease in the store."""
        taken = self.do(self.store.taken())
        return {one.attempts[-1].run_id: one.attempts[-1].bot_id for one in taken}

    @invariant()
    def states_follow_the_table(self) -> None:
        for task_id, before in self.seen.items():
            task = self.do(self.store.task(task_id))
            assert (before, task.state) in MOVES or before in LIVE
            assert not (before.is_final and task.state is not before), "a final state is for ever"
            self.seen[task_id] = task.state
            assert (task.completed_at is not None) >= task.state.is_final

    @invariant()
    def bots_have_one_run(self) -> None:
        counts = Counter(self.held().values())
        assert all(count == 1 for count in counts.values())

    @invariant()
    def tasks_agree_with_their_executions(self) -> None:
        for task_id in self.seen:
            record = self.do(self.store.record(task_id))
            if record.task.attached:
                assert record.execution is not None
                assert record.task.state is record.execution.state
            if record.task.deduped:
                assert record.execution is not None
                assert record.execution.reusable

    @invariant()
    def equal_idempotent_tasks_run_once(self) -> None:
        runs: Counter[str] = Counter()
        for task_id in self.seen:
            execution = self.do(self.store.record(task_id)).execution
            if execution is not None and execution.execution_id == task_id and execution.reusable:
                runs[execution.task_hash or ""] += 1
        assert all(count == 1 for count in runs.values())

    def everything_ends(self) -> None:
        """With no bot left, every task is over within its expirations and one tolerance."""
        if not hasattr(self, "scheduler"):
            return
        self.clock.leap_s = max(self.clock.leap_s, 0.0)
        self.do(self.scheduler.tick())
        for _ in range(0, 2 * EXPIRATION_S + 4000, 4):
            self.clock.advance(4.0)
            self.do(self.scheduler.tick())
        states = {self.do(self.store.task(task_id)).state for task_id in self.seen}
        assert all(state.is_final for state in states), states
        assert self.held() == {}
        self.states_follow_the_table()
        assert len(self.do(self.store.search(TaskQuery(), None, 1000)).items) == len(self.seen)


Histories.TestCase.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
TestHistories = Histories.TestCase
