"""What time does to offers and leases: they lapse, bots fall silent, servers pause and start again."""

from __future__ import annotations

import pytest

from isolate.errors import LeaseLost
from swarming import decisions
from swarming.bots import Run, Sleep, TaskUpdate
from swarming.paging import TaskQuery
from swarming.policy import Policy
from swarming.states import State
from swarming.store import Change
from tests.tasks import hello, one_slice, properties
from tests.unit.scheduling import LONG, LONG_ONCE, SUCCESS, House, house, refused, settle, waiting

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
    view = await home.submit()
    runs = []
    for _ in range(4):
        runs.append(await home.take())
        await home.pass_time(10)
    assert runs == runs[:1] * 4
    await home.report(runs[0])
    assert await home.state(view) is State.RUNNING


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


async def test_a_lease_lost_is_an_error_of_its_own() -> None:
    home = await house()
    with pytest.raises(LeaseLost, match="5cee488008811"):
        await home.scheduler.update("bot", "s", "5cee488008811", TaskUpdate())
