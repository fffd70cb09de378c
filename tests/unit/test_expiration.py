"""What becomes of a task that nobody takes in time."""

from __future__ import annotations

from swarming.states import State
from tests.tasks import WINDOWS, one_slice, properties
from tests.unit.scheduling import LONG_ONCE, SUCCESS, house, settle, waiting


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
