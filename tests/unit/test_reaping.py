"""What time does, and what cancelling does."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from isolate.errors import LeaseLost, NotFound, Unavailable
from swarming import decisions
from swarming.bots import BotQuery, Run, Sleep, TaskUpdate
from swarming.ledger import Canceled
from swarming.paging import TaskQuery
from swarming.policy import Policy
from swarming.states import State
from swarming.store import Change
from tests.tasks import WINDOWS, hello, one_slice, properties
from tests.unit.scheduling import ONCE, SUCCESS, House, house
from tests.unit.test_dispatch import refused, settle, waiting

KILLED = TaskUpdate(exit_code=-15, duration_s=1.0)
LONG = one_slice(expiration_s=10_000)
LONG_ONCE = one_slice(properties("build", idempotent=True), 10_000)


# offers


@pytest.mark.parametrize(("session", "after_s"), [("s", 15), ("", 60)])
async def test_an_offer_lapses_and_costs_no_try(session: str, after_s: int) -> None:
    home = await house()
    await home.bot("slow", session)
    await home.submit()
    run = await home.take("slow", session)
    await home.pass_time(after_s)
    assert isinstance(await home.scheduler.poll(hello()), Sleep)
    await home.pass_time(1)
    again = await home.take()
    assert again.attempt.run_id == run.attempt.run_id
    assert again.attempt.try_number == 1
    if session:
        assert await refused(home.report(run))
    else:
        assert (await home.report(run)).must_stop
    await home.report(again, SUCCESS)


async def test_an_offer_that_lapses_wakes_somebody_else() -> None:
    home = await house()
    await home.bot("slow")
    await home.submit()
    await home.take("slow")
    async with waiting(home) as poll:
        await home.pass_time(16)
        await settle()
        assert isinstance(poll.result(), Run)


async def test_a_lapsed_second_try_does_not_wake_the_bot_that_lost_the_first() -> None:
    home = await house()
    await home.bot("second")
    await home.bot("third")
    await home.submit("n", LONG_ONCE)
    await home.start()
    await home.pass_time(61)
    await home.take("second")
    async with waiting(home) as loser, waiting(home, "third") as third:
        await home.pass_time(16)
        await settle()
        assert (loser.done(), third.done()) == (False, True)


async def test_polling_again_renews_an_offer() -> None:
    home = await house()
    await home.submit()
    for _ in range(4):
        run = await home.take()
        await home.pass_time(10)
    await home.report(run)


# silence


async def died(home: House, updates: int) -> State:
    """Let a bot report that often after its start and then be silent; return the state of its task."""
    view = await home.submit("n", LONG)
    run = await home.start()
    for _ in range(updates):
        await home.report(run)
    await home.pass_time(60)
    assert await home.state(view) is State.RUNNING
    await home.pass_time(1)
    return await home.state(view)


async def test_a_bot_that_dies_before_its_first_heartbeat_costs_a_try_only() -> None:
    assert await died(await house(), 0) is State.PENDING


async def test_a_bot_that_dies_later_ends_its_task() -> None:
    home = await house()
    assert await died(home, 1) is State.BOT_DIED
    record = (await home.scheduler.search(TaskQuery(), None, 1)).items[0]
    assert record.attempt is not None
    assert record.attempt.internal_failure
    assert record.attempt.reason == "Bot was not heard for 60 s"
    assert record.task.abandoned_at == record.task.completed_at == home.clock.now()


@pytest.mark.parametrize(("asked_s", "kept_s"), [(None, 52), (30, 30), (60, 60)])
@pytest.mark.parametrize(("more_s", "state"), [(0, State.RUNNING), (1, State.BOT_DIED)])
async def test_a_death_can_be_told_within_the_default_and_a_tolerance_that_was_asked_for_is_kept(
    asked_s: int | None, kept_s: int, more_s: int, state: State
) -> None:
    home = await house(telling_s=Policy().telling_s)
    silent_s = kept_s + more_s
    view = await home.submit("n", bot_ping_tolerance_s=asked_s)
    first = await home.start()
    await home.report(first)
    await home.pass_time(silent_s)
    assert await home.state(view) is state


async def test_an_idempotent_task_is_retried_once_on_another_bot() -> None:
    home = await house()
    view = await home.submit("n", LONG_ONCE)
    first = await home.start()
    await home.report(first, TaskUpdate(cost_usd=0.5, output=b"first"))
    await home.report(first)
    await home.pass_time(61)
    assert await home.state(view) is State.PENDING
    assert isinstance(await home.scheduler.poll(hello()), Sleep)
    await home.bot("second")
    second = await home.start("second")
    assert second.attempt.run_id[-1] == "2"
    await home.report(second, TaskUpdate(cost_usd=0.25))
    await home.pass_time(61)
    found = await home.scheduler.view(view.task.task_id)
    assert found.execution is not None
    assert found.state is State.BOT_DIED
    assert [attempt.cost_usd for attempt in found.execution.attempts] == [0.5, 0.25]
    assert (await home.scheduler.view(first.attempt.run_id)).state is State.BOT_DIED
    assert await home.scheduler.stdout(first.attempt.run_id, 0, 9) == (b"first", State.BOT_DIED)


async def test_retrying_is_an_option() -> None:
    home = await house(retry_dead=False)
    view = await home.submit("n", LONG_ONCE)
    await home.start()
    await home.pass_time(61)
    assert await home.state(view) is State.BOT_DIED


async def test_what_expired_meanwhile_is_not_retried() -> None:
    home = await house()
    view = await home.submit("n", one_slice(properties(idempotent=True), 30))
    await home.start()
    await home.pass_time(61)
    assert await home.state(view) is State.BOT_DIED


async def test_a_retry_that_nobody_takes_stays_a_death() -> None:
    home = await house()
    view = await home.submit("n", one_slice(properties(idempotent=True), 90), one_slice(properties("other"), 90))
    await home.start()
    await home.pass_time(61)
    assert await home.state(view) is State.PENDING
    await home.pass_time(118)
    assert await home.state(view) is State.PENDING
    await home.pass_time(1)
    found = await home.scheduler.view(view.task.task_id)
    assert found.state is State.BOT_DIED
    assert found.attempt is not None


async def test_any_report_is_a_sign_of_life() -> None:
    home = await house()
    view = await home.submit("n", LONG)
    run = await home.start()
    for _ in range(4):
        await home.pass_time(59)
        await home.report(run)
    assert await home.state(view) is State.RUNNING


async def test_the_tolerance_of_a_task_counts_and_2020_has_at_least_five_minutes() -> None:
    home = await house()
    await home.bot("old", "")
    slow = await home.submit("n", LONG, bot_ping_tolerance_s=100)
    await home.start()
    legacy = await home.submit("n", one_slice(properties(dimensions=(("id", "old"),)), 10_000))
    await home.start("old", "")
    await home.pass_time(100)
    assert await home.state(slow) is State.RUNNING
    await home.pass_time(1)
    assert await home.state(slow) is State.PENDING
    await home.pass_time(199)
    assert await home.state(legacy) is State.RUNNING
    await home.pass_time(1)
    assert await home.state(legacy) is State.PENDING


async def test_a_pause_of_the_server_counts_for_nobody() -> None:
    home = await house()
    view = await home.submit("n", LONG)
    await home.start()
    await home.pass_time(50)
    home.clock.advance(3600)
    await home.scheduler.tick()
    await home.pass_time(60)
    assert await home.state(view) is State.RUNNING
    await home.pass_time(1)
    assert await home.state(view) is State.PENDING


async def test_a_leap_of_the_wall_clock_counts_for_nobody() -> None:
    home = await house()
    view = await home.submit("n", LONG)
    await home.start()
    await home.pass_time(50)
    home.clock.leap(-120.0)
    await home.pass_time(60)
    assert await home.state(view) is State.RUNNING
    await home.pass_time(2)
    assert await home.state(view) is State.PENDING


async def test_no_bot_is_dead_because_the_server_paused() -> None:
    home = await house()
    home.clock.advance(3600)
    await home.scheduler.tick()
    assert not (await home.scheduler.bot("bot")).is_dead


async def test_a_bot_heard_while_others_are_dealt_with_lives() -> None:
    home = await house()
    await home.bot("second")
    views = [await home.submit(name, LONG) for name in "12"]
    await home.start()
    second = await home.start("second")
    await home.pass_time(60)
    home.store.before_execution.append(lambda: home.report(second))
    await home.pass_time(1)
    assert await home.states(views) == [State.PENDING, State.RUNNING]


async def test_a_lease_whose_run_is_over_is_given_up() -> None:
    home = await house()
    view = await home.submit("n", LONG)
    run = await home.start()
    stored = await home.store.execution(view.task.task_id)
    await home.store.replace([Change(stored, decisions.finished(stored, SUCCESS, home.clock.now(), 0.0))])
    await home.pass_time(61)
    assert await home.state(view) is State.COMPLETED
    assert (await home.scheduler.bot("bot")).run_id is None
    assert not (await home.report(run, SUCCESS)).must_stop


@pytest.mark.parametrize(("pause_s", "state"), [(5.0, State.PENDING), (5.5, State.RUNNING)])
async def test_how_long_a_pause_is_one(pause_s: float, state: State) -> None:
    home = await house()
    view = await home.submit("n", LONG)
    await home.start()
    await home.pass_time(58)
    home.clock.advance(pause_s)
    await home.scheduler.tick()
    assert await home.state(view) is state


async def test_a_restart_gives_every_lease_its_full_time() -> None:
    home = await house()
    view = await home.submit("n", LONG)
    run = await home.start()
    await home.pass_time(50)
    home.clock.advance(3600)
    await home.restart()
    await home.pass_time(60)
    assert await home.state(view) is State.RUNNING
    await home.report(run)
    await home.pass_time(60)
    assert not (await home.report(run, SUCCESS)).must_stop
    assert await home.state(view) is State.COMPLETED


async def test_after_a_restart_nothing_is_run_twice_by_guess() -> None:
    home = await house()
    view = await home.submit("n", LONG)
    await home.start()
    await home.restart()
    await home.pass_time(61)
    assert await home.state(view) is State.BOT_DIED


async def test_a_restart_knows_offers_bots_and_queues() -> None:
    home = await house()
    await home.submit()
    run = await home.take()
    await home.submit()
    await home.restart()
    assert await home.take() == Run(run.execution, run.attempt)
    assert (await home.scheduler.bot("bot")).run_id == run.attempt.run_id
    await home.pass_time(16)
    assert (await home.scheduler.bot("bot")).run_id is None
    assert (await home.take()).attempt.run_id == run.attempt.run_id


# expiration


async def test_a_task_expires_when_nobody_takes_it() -> None:
    home = await house()
    view = await home.submit("n", one_slice(properties(dimensions=WINDOWS), 20))
    await home.pass_time(19)
    assert await home.state(view) is State.PENDING
    await home.pass_time(1)
    task = (await home.scheduler.view(view.task.task_id)).task
    assert task.state is State.EXPIRED
    assert task.abandoned_at == task.completed_at == home.clock.now()


async def test_an_overdue_slice_gives_way_to_the_next_that_has_capacity() -> None:
    home = await house()
    slices = [
        one_slice(properties("first", dimensions=WINDOWS), 20),
        one_slice(properties("nowhere", dimensions=(("os", "mac"), ("pool", "default"))), 20, wait=False),
        one_slice(properties("last"), 20, wait=False),
    ]
    view = await home.submit("n", *slices)
    async with waiting(home) as poll:
        await home.pass_time(20)
        await settle()
        assert poll.result().execution.properties.command == ("last",)
    await home.report(poll.result(), SUCCESS)
    found = await home.scheduler.view(view.task.task_id)
    assert found.attempt is not None
    assert (found.state, found.task.slice_index) == (State.COMPLETED, 2)
    assert found.attempt.run_id[:-1] == view.task.task_id[:-1]


async def test_the_last_slice_is_overdue_when_all_times_are_over() -> None:
    home = await house()
    slices = [one_slice(properties(name, dimensions=WINDOWS), 20) for name in "ab"]
    view = await home.submit("n", *slices)
    await home.pass_time(39)
    assert await home.state(view) is State.PENDING
    await home.pass_time(1)
    assert await home.state(view) is State.EXPIRED


async def test_a_task_that_shares_expires_alone() -> None:
    home = await house()
    what = properties("build", idempotent=True, dimensions=WINDOWS)
    patient = await home.submit("patient", one_slice(what, 50), priority=100)
    hasty = await home.submit("hasty", one_slice(what, 20), priority=10)
    await home.pass_time(20)
    assert await home.states([patient, hasty]) == [State.PENDING, State.EXPIRED]
    execution = await home.store.execution(patient.task.task_id)
    assert execution.priority == 100
    await home.pass_time(30)
    assert await home.state(patient) is State.EXPIRED


async def test_the_next_slice_joins_an_equal_task_or_takes_its_result() -> None:
    home = await house()
    elsewhere = [one_slice(properties(name, dimensions=WINDOWS), 20) for name in "ab"]
    joining = await home.submit("joining", elsewhere[0], LONG_ONCE)
    late = await home.submit("late", one_slice(properties("c", dimensions=WINDOWS), 30), LONG_ONCE)
    await home.submit("first", LONG_ONCE)
    run = await home.start()
    await home.pass_time(20)
    assert await home.states([joining, late]) == [State.RUNNING, State.PENDING]
    await home.report(run, SUCCESS)
    await home.pass_time(10)
    assert await home.states([joining, late]) == [State.COMPLETED] * 2
    assert (await home.scheduler.view(late.task.task_id)).task.deduped


async def test_who_leaves_a_shared_slice_gets_an_execution_of_its_own() -> None:
    home = await house()
    shared = properties("build", idempotent=True, dimensions=WINDOWS)
    stays = await home.submit("stays", one_slice(shared, 100))
    goes = await home.submit("goes", one_slice(shared, 20), one_slice(properties("plain"), 100))
    await home.pass_time(20)
    run = await home.take()
    assert run.execution.properties.command == ("plain",)
    await home.report(run, SUCCESS)
    assert await home.states([stays, goes]) == [State.PENDING, State.COMPLETED]
    by_run = await home.scheduler.view(run.attempt.run_id)
    assert by_run.task.task_id == goes.task.task_id


async def test_a_task_canceled_while_it_expires_stays_canceled() -> None:
    home = await house()
    view = await home.submit("n", one_slice(properties(dimensions=WINDOWS), 20))
    await home.pass_time(19)
    home.store.before_execution.append(lambda: home.scheduler.cancel(view.task.task_id, False))
    await home.pass_time(1)
    assert await home.state(view) is State.CANCELED


async def test_an_offered_task_is_not_expired_under_its_bot() -> None:
    home = await house()
    view = await home.submit("n", one_slice(expiration_s=20))
    await home.pass_time(15)
    run = await home.take()
    await home.pass_time(10)
    assert await home.state(view) is State.PENDING
    await home.report(run, SUCCESS)
    assert await home.state(view) is State.COMPLETED


# cancelling


async def test_a_waiting_task_is_canceled_at_once() -> None:
    home = await house()
    view = await home.submit()
    assert await home.scheduler.cancel(view.task.task_id, False) == Canceled(ok=True, was_running=False)
    task = (await home.scheduler.view(view.task.task_id)).task
    assert (task.state, task.abandoned_at) == (State.CANCELED, home.clock.now())
    assert await home.scheduler.cancel(view.task.task_id, True) == Canceled(ok=False, was_running=False)
    assert isinstance(await home.scheduler.poll(hello()), Sleep)
    with pytest.raises(NotFound):
        await home.scheduler.cancel("5cee488008810", False)


async def test_an_offered_task_is_canceled_and_its_bot_learns_so() -> None:
    home = await house()
    view = await home.submit()
    run = await home.take()
    await home.scheduler.cancel(view.task.task_id, False)
    assert await refused(home.report(run))
    assert await home.state(view) is State.CANCELED
    assert (await home.scheduler.bot("bot")).run_id is None


async def test_a_running_task_is_killed_in_two_steps() -> None:
    home = await house()
    view = await home.submit()
    run = await home.start()
    assert await home.scheduler.cancel(view.task.task_id, False) == Canceled(ok=False, was_running=True)
    assert not (await home.report(run)).must_stop
    home.clock.advance(1)
    for _ in range(2):
        done = await home.scheduler.cancel(run.attempt.run_id, True)
        assert done == Canceled(ok=True, was_running=True)
    asked_at = home.clock.now()
    task = (await home.scheduler.view(view.task.task_id)).task
    assert (task.state, task.abandoned_at, task.completed_at) == (State.RUNNING, asked_at, asked_at)
    assert (await home.report(run)).must_stop
    home.clock.advance(1)
    await home.report(run, KILLED)
    found = await home.scheduler.view(view.task.task_id)
    assert found.attempt is not None
    assert (found.state, found.attempt.exit_code, found.task.abandoned_at) == (State.KILLED, -15, asked_at)
    assert not (await home.report(run, KILLED)).must_stop


async def test_the_id_of_a_run_stops_it_for_all_who_share_it() -> None:
    home = await house()
    first, second = await home.submit("first", ONCE), await home.submit("second", ONCE)
    run = await home.start()
    run_id = run.attempt.run_id
    await home.scheduler.cancel(first.task.task_id, kill_running=True)
    assert await home.states([first, second]) == [State.KILLED, State.RUNNING]
    assert await home.scheduler.cancel(run_id, kill_running=False) == Canceled(ok=False, was_running=True)
    for _ in range(2):  # also when it is repeated
        assert await home.scheduler.cancel(run_id, kill_running=True) == Canceled(ok=True, was_running=True)
    assert (await home.report(run)).must_stop
    await home.report(run, SUCCESS)
    assert await home.states([first, second]) == [State.KILLED, State.KILLED]
    assert await home.scheduler.cancel(run_id, kill_running=True) == Canceled(ok=False, was_running=False)


async def test_who_left_a_shared_run_keeps_it_as_it_was() -> None:
    home = await house()
    first, second = await home.submit("first", ONCE), await home.submit("second", ONCE)
    run = await home.start()
    ran = (await home.scheduler.view(second.task.task_id)).attempt
    assert ran is not None
    home.clock.advance(1)
    await home.scheduler.cancel(second.task.task_id, kill_running=True)
    home.clock.advance(1)
    for ending in (None, SUCCESS):
        if ending is not None:
            await home.report(run, ending)
        left = await home.scheduler.view(second.task.task_id)
        assert (left.state, left.attempt) == (State.KILLED, replace(ran, cost_usd=0.0))
        assert left.execution is not None
        assert left.execution.attempts == (left.attempt,)
    stayed = (await home.scheduler.view(first.task.task_id)).attempt
    assert stayed is not None
    assert (stayed.run_id, stayed.exit_code) == (ran.run_id, 0)


async def test_who_left_before_a_bot_came_has_no_run() -> None:
    home = await house()
    _, second = await home.submit("first", ONCE), await home.submit("second", ONCE)
    await home.scheduler.cancel(second.task.task_id, kill_running=True)
    home.clock.advance(1)
    await home.start()
    left = await home.scheduler.view(second.task.task_id)
    assert (left.state, left.attempt) == (State.CANCELED, None)


async def test_a_task_being_killed_whose_bot_dies_is_killed() -> None:
    home = await house()
    view = await home.submit("n", LONG_ONCE)
    await home.start()
    await home.scheduler.cancel(view.task.task_id, True)
    await home.pass_time(61)
    found = await home.scheduler.view(view.task.task_id)
    assert found.attempt is not None
    assert (found.state, found.attempt.exit_code, found.attempt.internal_failure) == (State.KILLED, -1, False)


async def test_one_who_shares_a_run_leaves_it_running() -> None:
    home = await house()
    first, second = await home.submit("1", ONCE, priority=10), await home.submit("2", ONCE, priority=90)
    run = await home.start()
    assert await home.scheduler.cancel(first.task.task_id, True) == Canceled(ok=True, was_running=True)
    assert await home.states([first, second]) == [State.KILLED, State.RUNNING]
    assert not (await home.report(run)).must_stop
    await home.report(run, SUCCESS)
    assert await home.states([first, second]) == [State.KILLED, State.COMPLETED]
    third = await home.submit("3", ONCE)
    assert third.task.deduped


async def test_the_last_who_shares_a_run_ends_it() -> None:
    home = await house()
    views = [await home.submit(name, ONCE) for name in "12"]
    run = await home.start()
    for view in views:
        await home.scheduler.cancel(view.task.task_id, True)
    assert (await home.report(run)).must_stop
    assert (await home.submit("3", ONCE)).state is State.PENDING


async def test_children_end_with_their_parent() -> None:
    home = await house()
    for name in ("b1", "b2"):
        await home.bot(name)
    await home.submit("parent")
    parent = await home.start()
    waits = await home.submit("waits", LONG, parent_task_id=parent.attempt.run_id)
    runs = await home.submit("runs", LONG, parent_task_id=parent.attempt.run_id, priority=1)
    child = await home.start("b1")
    grandchild = await home.submit("grandchild", LONG, parent_task_id=child.attempt.run_id, priority=1)
    await home.report(parent, SUCCESS)
    assert await home.states([waits, runs]) == [State.CANCELED, State.RUNNING]
    assert (await home.report(child)).must_stop
    assert await home.state(grandchild) is State.PENDING
    await home.report(child, KILLED)
    assert await home.states([runs, grandchild]) == [State.KILLED, State.CANCELED]


async def test_children_end_when_the_server_was_away_as_their_parent_ended() -> None:
    home = await house()
    await home.submit("parent")
    parent = await home.start()
    child = await home.submit("child", LONG, parent_task_id=parent.attempt.run_id)
    home.scheduler._ledger.parents.clear()  # as if the server had died between the two transactions
    await home.report(parent, SUCCESS)
    assert await home.state(child) is State.PENDING
    await home.restart()
    assert await home.state(child) is State.CANCELED


# heartbeats and bots


async def test_heartbeats_are_written_together_every_ten_seconds() -> None:
    home = await house()
    for name in ("b1", "b2", "b3"):
        await home.bot(name)
    for _ in range(10):
        for name in ("b1", "b2", "b3"):
            await home.scheduler.poll(hello(name))
        await home.pass_time(1)
    assert home.store.heard_calls == [{"b1", "b2", "b3"}]


async def test_what_fails_keeps_nothing_else_from_being_done() -> None:
    home = await house()
    await home.bot("second")
    views = [await home.submit(name, LONG) for name in "12"]
    await home.start()
    await home.start("second")
    late = await home.submit("late", one_slice(properties(dimensions=WINDOWS), 61))
    await home.pass_time(60)

    async def fail() -> None:
        raise Unavailable("not now")

    home.store.before_execution.append(fail)
    home.clock.advance(1)
    with pytest.raises(ExceptionGroup) as caught:
        await home.scheduler.tick()
    assert [type(error) for error in caught.value.exceptions] == [Unavailable]
    assert sorted(await home.states([*views, late])) == [State.RUNNING, State.PENDING, State.EXPIRED]
    await home.pass_time(1)
    assert await home.states(views) == [State.PENDING] * 2


async def test_events_that_could_not_be_written_are_written_later() -> None:
    home = await house()
    await home.submit("n", LONG)
    run = await home.start()
    await home.scheduler.fail("bot", run.attempt.session, run.attempt.run_id, "inputs are gone")
    home.store.is_full = True
    with pytest.raises(ExceptionGroup):
        await home.pass_time(11)
    home.store.is_full = False
    await home.pass_time(20)
    events = (await home.scheduler.bot_events("bot", None, None, None, 9)).items
    kinds = [(event.event_type, event.message, event.run_id) for event in events]
    assert kinds == [
        ("task_error", "inputs are gone", run.attempt.run_id),
        ("request_task", "", run.attempt.run_id),
        ("bot_connected", "", None),
    ]


async def test_a_silent_bot_is_dead_until_it_speaks() -> None:
    home = await house()
    await home.pass_time(600)
    assert not (await home.scheduler.bot("bot")).is_dead
    await home.pass_time(1)
    assert (await home.scheduler.bot("bot")).is_dead
    count = await home.scheduler.count_bots(BotQuery(is_dead=True))
    assert (count.total, count.dead, count.busy) == (1, 1, 0)
    await home.scheduler.poll(hello())
    assert not (await home.scheduler.bot("bot")).is_dead


async def test_bots_are_listed_page_by_page() -> None:
    home = await house()
    for name in ("b3", "b1", "b2"):
        await home.bot(name)
    await home.bot(
        "m", dimensions=(("id", ("m",)), ("os", ("mac",)), ("pool", ("default",))), state={"maintenance": "x"}
    )
    page = await home.scheduler.bots(BotQuery(), None, 2)
    assert [bot.bot_id for bot in page.items] == ["b1", "b2"]
    page = await home.scheduler.bots(BotQuery(), page.cursor, 3)
    assert ([bot.bot_id for bot in page.items], page.cursor) == (["b3", "bot", "m"], None)
    mac = await home.scheduler.bots(BotQuery(dimensions=(("os", "mac"),), in_maintenance=True), None, 9)
    assert [bot.bot_id for bot in mac.items] == ["m"]
    await home.submit()
    await home.start("b1")
    busy = await home.scheduler.bots(BotQuery(is_busy=True), None, 9)
    assert [(bot.bot_id, bot.task_name) for bot in busy.items] == [("b1", "a task")]
    runs = await home.scheduler.bot_runs("b1", None, 9)
    assert [run.state for run in runs.items] == [State.RUNNING]
    with pytest.raises(NotFound):
        await home.scheduler.bot("nobody")


async def test_queues_that_nobody_uses_are_forgotten_and_come_back() -> None:
    home = await house()
    await home.submit()
    await home.report(await home.take(), SUCCESS)
    await home.pass_time(601)
    assert home.scheduler._ledger.fleet.seat("bot").queues == {}
    await home.submit()
    assert isinstance(await home.scheduler.poll(hello()), Run)


async def test_a_lease_lost_is_an_error_of_its_own() -> None:
    home = await house()
    with pytest.raises(LeaseLost, match="5cee488008811"):
        await home.scheduler.update("bot", "s", "5cee488008811", TaskUpdate())
