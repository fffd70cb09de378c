"""What cancelling does: to a task, to those that share its run, and to its children."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from isolate.errors import NotFound
from swarming.bots import Sleep
from swarming.ledger import Canceled
from swarming.states import State
from tests.tasks import hello
from tests.unit.scheduling import KILLED, LONG, LONG_ONCE, ONCE, SUCCESS, house, refused


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
