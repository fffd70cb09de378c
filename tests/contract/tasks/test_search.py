"""What every task store finds: by name, relation and time, page by page."""

from __future__ import annotations

from typing import Any

import pytest

from isolate.errors import InvalidInput
from swarming import decisions, ids
from swarming.bots import TaskUpdate
from swarming.paging import MAX_PAGE_BYTES, Sort, TaskQuery
from swarming.states import State
from swarming.store import Change, Store
from tests.contract.tasks.steps import ONCE, QUEUE, claimed, ended, started
from tests.tasks import NOW, request, submission


async def test_queues_parents_and_children(store: Store) -> None:
    assert (await store.queues(), await store.parents()) == ([], [])
    parent = (await store.submit(submission(1))).task
    run_id = ids.run_id(parent.task_id, 1)
    child = (await store.submit(submission(2, request("child", parent_task_id=run_id)))).task
    assert (await store.queues(), await store.parents()) == ([QUEUE], [run_id])
    await started(store)
    assert await store.children([run_id, "other"]) == [child]
    assert (await store.record(parent.task_id)).children == (child.task_id,)
    await ended(store, await started(store))
    assert await store.parents() == []
    assert len(await store.children([run_id])) == 1
    assert await store.children([]) == []


async def test_a_run_is_looked_up_by_its_execution(store: Store) -> None:
    await store.submit(submission(1, request("one", ONCE)))
    second = await store.submit(submission(2, request("two", ONCE)))
    running = await started(store)
    record = await store.record_of_run(running.execution_id)
    assert (record.task.request.name, record.execution) == ("one", running)
    record = await store.record(second.task.task_id)
    assert (record.task.request.name, record.execution) == ("two", running)


async def test_the_runs_of_a_bot_newest_first(store: Store) -> None:
    for serial in range(5):
        await store.submit(submission(serial, request(f"{serial}"), now=NOW + serial))
        await started(store, "bot" if serial != 2 else "other")
    page = await store.runs_of("bot", TaskQuery(), None, 3)
    assert [run.task.request.name for run in page.items] == ["4", "3", "1"]
    rest = await store.runs_of("bot", TaskQuery(), page.cursor, 3)
    assert [(run.execution.task_name, run.attempt.bot_id) for run in rest.items] == [("0", "bot")]
    assert rest.cursor is None
    until = await store.runs_of("bot", TaskQuery(created_to=NOW + 3), None, 1)
    assert [run.task.request.name for run in until.items] == ["3"]
    for bot_id, query in (("bot", TaskQuery()), ("other", TaskQuery(created_to=NOW + 3))):
        with pytest.raises(InvalidInput, match="Invalid cursor"):
            await store.runs_of(bot_id, query, until.cursor, 1)


async def searched(store: Store, limit: int = 100, **fields: Any) -> list[str]:
    """Return the names of all tasks that match, page by page."""
    names: list[str] = []
    cursor: str | None = None
    while True:
        page = await store.search(TaskQuery(**fields), cursor, limit)
        assert len(page.items) <= limit
        names += [record.task.request.name for record in page.items]
        if (cursor := page.cursor) is None:
            return names


async def ten_tasks(store: Store) -> None:
    """Store tasks 0..9, a second apart: 0 failed, 1 succeeded, 2 runs, 3 waits, 4 waits and so on; odd ones are odd."""
    for serial in range(10):
        tags = (f"parity:{'odd' if serial % 2 else 'even'}", "all:1", f"serial:{serial}")
        await store.submit(submission(serial, request(f"{serial}", tags=tags), now=NOW + serial))
    await ended(store, await started(store), TaskUpdate(exit_code=1, duration_s=1.0))
    await ended(store, await started(store))
    await started(store)


async def test_search_finds_by_state_tags_and_name(store: Store) -> None:
    await ten_tasks(store)
    assert await searched(store) == list("9876543210")
    assert await searched(store, tags=("parity:odd", "all:1")) == list("97531")
    assert await searched(store, tags=("parity:odd", "parity:even")) == []
    assert await searched(store, name="4") == ["4"]
    assert await searched(store, name="4", tags=("parity:odd",)) == []
    assert await searched(store, states=frozenset({State.COMPLETED})) == list("10")
    assert await searched(store, states=frozenset({State.COMPLETED, State.RUNNING})) == list("210")
    assert await searched(store, states=frozenset({State.COMPLETED}), failure=True) == ["0"]
    assert await searched(store, states=frozenset({State.PENDING}), tags=("parity:even",)) == list("864")
    assert await searched(store, deduped=True) == []
    assert await searched(store, created_from=NOW + 3, created_to=NOW + 5) == list("543")


@pytest.mark.parametrize("limit", [1, 3, 4, 10])
async def test_search_goes_on_where_it_stopped(store: Store, limit: int) -> None:
    await ten_tasks(store)
    assert await searched(store, limit) == list("9876543210")
    assert await searched(store, limit, tags=("all:1",)) == list("9876543210")
    assert await searched(store, limit, states=frozenset({State.PENDING})) == list("9876543")


async def test_a_cursor_of_another_filter_is_refused(store: Store) -> None:
    for serial in range(3):
        await store.submit(submission(serial, request("n", tags=("a:b", "c:d"))))
    page = await store.search(TaskQuery(tags=("a:b", "c:d")), None, 1)
    assert len((await store.search(TaskQuery(tags=("c:d", "a:b")), page.cursor, 9)).items) == 2
    for query in (TaskQuery(), TaskQuery(tags=("a:b", "c:d"), states=frozenset({State.PENDING}))):
        with pytest.raises(InvalidInput, match="cursor"):
            await store.search(query, page.cursor, 9)


async def test_a_page_ends_early_where_its_tasks_are_large(store: Store) -> None:
    for serial in range(5):  # an execution has the name too
        await store.submit(submission(serial, request("n" * (MAX_PAGE_BYTES // 5)), NOW + serial))
    sizes: list[int] = []
    found: list[float] = []
    cursor = None
    while not sizes or cursor is not None:
        page = await store.search(TaskQuery(), cursor, 1000)
        sizes.append(len(page.items))
        found += [record.task.created_at for record in page.items]
        cursor = page.cursor
    assert (sizes, found) == ([2, 2, 1], [NOW + serial for serial in (4, 3, 2, 1, 0)])


async def test_search_sorts_by_other_times(store: Store) -> None:
    await ten_tasks(store)
    assert await searched(store, 1, sort=Sort.COMPLETED) == list("10")
    assert await searched(store, 1, sort=Sort.ABANDONED) == []
    assert (await searched(store, 3, sort=Sort.MODIFIED))[:2] == ["9", "8"]


async def test_tasks_of_one_moment_are_all_found(store: Store) -> None:
    for serial in range(7):
        await store.submit(submission(serial, request(f"{serial}")))
    assert await searched(store, 2) == list("6543210")


async def test_a_page_has_the_execution_of_each_task(store: Store) -> None:
    await store.submit(submission(1))
    running = await started(store)
    (record,) = (await store.search(TaskQuery(), None, 10)).items
    assert record.execution == running


@pytest.mark.parametrize("cursor", ["", "x", "é", "bm9wZQ", "Y3JlYXRlZCBuYW4gMQ", "Y3JlYXRlZCAxLjAgLTE", "A" * 5000])
async def test_a_cursor_of_nobody_is_refused(store: Store, cursor: str) -> None:
    with pytest.raises(InvalidInput):
        await store.search(TaskQuery(), cursor, 10)


async def test_a_cursor_of_another_order_is_refused(store: Store) -> None:
    await ten_tasks(store)
    cursor = (await store.search(TaskQuery(), None, 1)).cursor
    with pytest.raises(InvalidInput):
        await store.search(TaskQuery(sort=Sort.COMPLETED), cursor, 1)


async def test_tasks_are_listed_by_when_they_started(store: Store) -> None:
    for serial in (1, 2, 3):
        await store.submit(submission(serial))
    for bot_id, at in (("first", NOW + 5), ("second", NOW + 9)):
        offered = await claimed(store, bot_id)
        await store.replace([Change(offered, decisions.accepted(offered, at))])
    page = await store.search(TaskQuery(sort=Sort.STARTED), None, 10)
    assert [record.task.started_at for record in page.items] == [NOW + 9, NOW + 5]
    first = await store.search(TaskQuery(sort=Sort.STARTED), None, 1)
    rest = await store.search(TaskQuery(sort=Sort.STARTED), first.cursor, 1)
    assert [record.task.task_id for record in (*first.items, *rest.items)] == [r.task.task_id for r in page.items]


async def test_counts_are_what_a_search_finds(store: Store) -> None:
    for serial in range(7):
        await store.submit(submission(serial, request("n", tags=("odd:1",) if serial % 2 else ()), NOW + serial))
    assert await store.count(TaskQuery()) == 7
    assert await store.count(TaskQuery(tags=("odd:1",))) == 3
    assert await store.count(TaskQuery(created_from=NOW + 2, created_to=NOW + 4)) == 3
    assert await store.count(TaskQuery(states=frozenset({State.RUNNING}))) == 0
    assert await store.count(TaskQuery(sort=Sort.STARTED)) == 0


async def test_a_place_in_line_counts_those_that_go_first(store: Store) -> None:
    made = [await store.submit(submission(serial, request(priority=100 - serial // 2))) for serial in range(6)]
    places = [await store.ahead(one.execution, 100) for one in made if one.execution is not None]
    assert places == [4, 5, 2, 3, 0, 1]
    assert made[1].execution is not None
    assert await store.ahead(made[1].execution, 3) == 3
    await claimed(store)
    assert await store.ahead(made[1].execution, 100) == 4
