"""How every task store exchanges values: all of a change or nothing, and never over a newer one."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from isolate.errors import NotFound, Stale
from swarming import decisions, ids, sharing
from swarming.bots import TaskUpdate
from swarming.states import State
from swarming.store import Change, Store
from tests.contract.tasks.steps import ONCE, OTHER_QUEUE, claimed, ended, started
from tests.tasks import NOW, number, one_slice, request, submission


async def test_an_ending_ends_every_attached_task(store: Store) -> None:
    for serial in (1, 2, 3):
        await store.submit(submission(serial, request(f"{serial}", ONCE)))
    running = await started(store)
    members = await store.attached(running.execution_id)
    assert {task.state for task in members} == {State.RUNNING}
    over = await ended(store, running, TaskUpdate(exit_code=7, duration_s=1.0))
    for task in await store.attached(running.execution_id):
        assert task == sharing.follow(task, over)
        assert (task.state, task.failure, task.completed_at) == (State.COMPLETED, True, NOW + 3)
    assert await store.taken() == []


async def test_an_old_value_is_refused_and_nothing_changes(store: Store) -> None:
    await store.submit(submission(1))
    await store.submit(submission(2))
    first, second = await claimed(store), await claimed(store)
    await store.replace([Change(first, decisions.accepted(first, NOW))])
    with pytest.raises(Stale):
        await store.replace(
            [Change(second, decisions.accepted(second, NOW)), Change(first, decisions.lapsed(first, NOW))]
        )
    assert await store.execution(second.execution_id) == second
    assert (await store.task(second.execution_id)).state is State.PENDING


async def test_a_joiner_makes_older_values_stale(store: Store) -> None:
    await store.submit(submission(1, request("one", ONCE)))
    running = await started(store)
    await store.submit(submission(2, request("two", ONCE)))
    with pytest.raises(Stale):
        await ended(store, running)


async def test_a_second_live_equal_is_refused(store: Store) -> None:
    first = await store.submit(submission(1, request("one", ONCE)))
    assert first.execution is not None
    twin = replace(first.execution, execution_id=ids.pack(number(8)))
    with pytest.raises(Stale):
        await store.replace([Change(None, twin)])
    with pytest.raises(NotFound):
        await store.execution(twin.execution_id)


async def test_an_inserted_id_that_is_taken_is_refused(store: Store) -> None:
    first = await store.submit(submission(1))
    assert first.execution is not None
    with pytest.raises(Stale):
        await store.replace([Change(None, first.execution)])


async def test_a_task_can_leave_for_another_execution_in_one_step(store: Store) -> None:
    await store.submit(submission(1, request("one", ONCE)))
    joined = await store.submit(submission(2, request("two", ONCE)))
    shared = joined.execution
    assert shared is not None
    fresh = replace(shared, execution_id=ids.pack(number(8)), task_hash=None, queue=OTHER_QUEUE, attempts=())
    moved = replace(joined.task, execution_id=fresh.execution_id, slice_index=1, deadline_at=NOW + 500)
    stored = await store.replace([Change(shared, replace(shared, priority=100)), Change(None, fresh)], [moved])
    assert [one.version for one in stored] == [shared.version + 1, 0]
    assert [task.task_id for task in await store.attached(shared.execution_id)] != [moved.task_id]
    assert await store.attached(fresh.execution_id) == [moved]
    assert await store.task(moved.task_id) == moved


async def test_a_detached_task_stays_as_it_is(store: Store) -> None:
    await store.submit(submission(1, request("one", ONCE)))
    joined = await store.submit(submission(2, request("two", ONCE)))
    assert joined.execution is not None
    gone = replace(joined.task, state=State.CANCELED, attached=False, execution_id=None, completed_at=NOW)
    (left,) = await store.replace([Change(joined.execution, replace(joined.execution, priority=100))], [gone])
    offered = await claimed(store)
    await ended(store, (await store.replace([Change(offered, decisions.accepted(offered, NOW))]))[0])
    assert await store.task(gone.task_id) == gone
    assert left.version + 2 == (await store.execution(left.execution_id)).version - 1


async def test_overdue_tasks_come_earliest_first(store: Store) -> None:
    for serial, expiration_s in ((1, 30), (2, 10), (3, 20), (4, 40)):
        await store.submit(submission(serial, request(f"{serial}", one_slice(expiration_s=expiration_s))))
    assert [task.request.name for task in await store.overdue(NOW + 30, 10)] == ["2", "3", "1"]
    assert [task.request.name for task in await store.overdue(NOW + 30, 2)] == ["2", "3"]
    assert await store.overdue(NOW + 9.5, 10) == []
    await store.submit(submission(5, request("runs", one_slice(expiration_s=10), priority=1)))
    await started(store)
    assert "runs" not in [task.request.name for task in await store.overdue(NOW + 30, 10)]
