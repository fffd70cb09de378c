"""What every task store does: one body, all backends, and two writers on the same data."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from isolate.errors import InvalidInput, NotFound, Stale
from swarming import decisions, ids, matching, sharing
from swarming.bots import BotEvent, BotInfo, TaskUpdate
from swarming.model import Execution, FilesRef
from swarming.paging import MAX_PAGE_BYTES, Sort, TaskQuery
from swarming.states import State
from swarming.store import Change, How, Store
from tests.contract.task_backends import BACKENDS, Opened
from tests.tasks import LINUX, NOW, WINDOWS, number, offer, one_slice, properties, request, submission

QUEUE = matching.queue_key(LINUX)
OTHER_QUEUE = matching.queue_key(WINDOWS)
ONCE = one_slice(properties("build", idempotent=True))
SUCCESS = TaskUpdate(exit_code=0, duration_s=2.0)


@pytest.fixture(params=BACKENDS)
async def pair(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Opened]:
    async with BACKENDS[request.param](tmp_path) as opened:
        yield opened


@pytest.fixture
def store(pair: Opened) -> Store:
    return pair[0]


async def claimed(store: Store, bot_id: str = "bot", now: float = NOW) -> Execution:
    execution = await store.claim([QUEUE], offer(bot_id, now))
    assert execution is not None
    return execution


async def started(store: Store, bot_id: str = "bot") -> Execution:
    offered = await claimed(store, bot_id)
    return (await store.replace([Change(offered, decisions.accepted(offered, NOW + 1))]))[0]


async def ended(store: Store, running: Execution, update: TaskUpdate = SUCCESS) -> Execution:
    return (await store.replace([Change(running, decisions.finished(running, update, NOW + 3, 0.5))]))[0]


# submit


async def test_a_submitted_task_is_there_with_its_execution(store: Store) -> None:
    wanted = submission(1, request("first", tags=("a:b", "c:d"), user="me"))
    submitted = await store.submit(wanted)
    assert submitted.how is How.CREATED
    assert (submitted.task, submitted.execution) == (wanted.task, wanted.execution)
    assert await store.task(wanted.task.task_id) == wanted.task
    assert await store.execution(wanted.task.task_id) == wanted.execution
    assert await store.attached(wanted.task.task_id) == [wanted.task]


async def test_every_field_of_a_request_survives(store: Store) -> None:
    what = properties(
        "a",
        "b",
        env=(("K", "ü\u2028"),),
        env_prefixes=(("PATH", ("x", "y")),),
        inputs=FilesRef("a" * 64, "http://x", "blake3-zstd"),
        outputs=("o",),
        secret="a digest",
        io_timeout_s=3,
    )
    wanted = submission(1, request("n", one_slice(what), one_slice(properties("other")), request_uuid="u"))
    await store.submit(wanted)
    assert await store.task(wanted.task.task_id) == wanted.task
    assert (await claimed(store)).properties == what


async def test_a_secret_is_kept_while_its_task_may_need_it(store: Store) -> None:
    idempotent = properties(secret="a digest", idempotent=True)
    wanted = replace(submission(1, request("n", one_slice(idempotent))), secret=b"\0\xff")
    plain = await store.submit(submission(2))
    assert (await store.submit(wanted)).execution is not None
    execution_id = wanted.task.task_id
    assert await store.secret(execution_id) == b"\0\xff"
    assert await store.secret(plain.task.task_id) is None
    joined = await store.submit(replace(submission(3, request("n", one_slice(idempotent))), secret=b"\0\xff"))
    assert joined.how is How.JOINED
    assert joined.execution is not None
    gone = replace(wanted.task, state=State.CANCELED, attached=False, completed_at=NOW)
    await store.replace([Change(joined.execution, joined.execution)], [gone])
    assert await store.secret(execution_id) == b"\0\xff"
    taken = await claimed(store)
    while taken.execution_id != execution_id:
        taken = await claimed(store, "another")
    await ended(store, (await store.replace([Change(taken, decisions.accepted(taken, NOW))]))[0])
    assert await store.secret(execution_id) is None


async def test_what_is_not_there_is_not_found(store: Store) -> None:
    unknown = ids.pack(number(77))
    for look_up in (store.task, store.execution, store.record, store.record_of_run):
        with pytest.raises(NotFound):
            await look_up(unknown)
    assert await store.attached(unknown) == []


async def test_the_same_request_uuid_of_the_same_identity_gives_the_first_answer(store: Store) -> None:
    first = submission(1, request("n", request_uuid="u", authenticated="user:a"))
    await store.submit(first)
    again = await store.submit(submission(2, request("n", request_uuid="u", authenticated="user:a")))
    assert (again.how, again.task, again.execution) == (How.REPEATED, first.task, first.execution)
    other = await store.submit(submission(3, request("n", request_uuid="u", authenticated="user:b")))
    none = [await store.submit(submission(serial, request("n", request_uuid=""))) for serial in (4, 5)]
    assert [other.how, *(one.how for one in none)] == [How.CREATED] * 3


@pytest.mark.parametrize(("age_s", "how"), [(1000.0, How.REPEATED), (1000.5, How.CREATED)])
async def test_a_request_uuid_is_forgotten_in_time(store: Store, age_s: float, how: How) -> None:
    await store.submit(submission(1, request("n", request_uuid="u")))
    assert (await store.submit(submission(2, request("n", request_uuid="u"), now=NOW + age_s))).how is how


async def test_a_taken_id_is_a_collision_and_stores_nothing(store: Store) -> None:
    first = submission(1, request("first"))
    await store.submit(first)
    assert (await store.submit(submission(1, request("second")))).how is How.COLLISION
    assert (await store.task(first.task.task_id)).request.name == "first"


async def test_the_id_of_an_execution_is_taken_too(store: Store) -> None:
    first = submission(1)
    await store.submit(first)
    assert first.execution is not None
    await store.replace([Change(None, replace(first.execution, execution_id=ids.pack(number(9))))])
    assert (await store.submit(submission(9))).how is How.COLLISION


async def test_a_task_without_resources_has_no_execution(store: Store) -> None:
    wanted = submission(1)
    final = replace(wanted.task, state=State.NO_RESOURCE, execution_id=None, attached=False, completed_at=NOW)
    submitted = await store.submit(replace(wanted, task=final, execution=None))
    assert (submitted.how, submitted.execution) == (How.CREATED, None)
    record = await store.record(final.task_id)
    assert (record.task, record.execution, record.children) == (final, None, ())
    assert await store.claim([QUEUE], offer()) is None


async def test_equal_idempotent_tasks_share_one_execution(store: Store) -> None:
    first = await store.submit(submission(1, request("one", ONCE, priority=50)))
    urgent = replace(ONCE, expiration_s=200)
    second = await store.submit(submission(2, request("two", urgent, priority=20)))
    assert second.how is How.JOINED
    assert second.execution is not None
    assert first.execution is not None
    assert second.execution.execution_id == first.execution.execution_id == second.task.execution_id
    assert (second.execution.priority, second.execution.deadline_at) == (20, NOW + 200)
    assert second.execution.version > first.execution.version
    attached = await store.attached(first.task.task_id)
    assert [task.request.name for task in attached] == ["one", "two"]


async def test_a_task_joins_one_that_runs_but_not_one_that_is_killed(store: Store) -> None:
    await store.submit(submission(1, request("one", ONCE)))
    running = await started(store)
    joined = await store.submit(submission(2, request("two", ONCE)))
    assert (joined.how, joined.task.state) == (How.JOINED, State.RUNNING)
    assert joined.execution is not None
    (killed,) = await store.replace([Change(joined.execution, decisions.killing(joined.execution, NOW + 2))])
    apart = await store.submit(submission(3, request("three", ONCE)))
    assert apart.how is How.CREATED
    assert (await store.live(running.task_hash or "")) == apart.execution
    assert killed.killing


async def test_tasks_that_are_not_idempotent_share_nothing(store: Store) -> None:
    hows = [(await store.submit(submission(serial))).how for serial in (1, 2)]
    assert hows == [How.CREATED, How.CREATED]


async def test_a_success_answers_equal_tasks(store: Store) -> None:
    await store.submit(submission(1, request("one", ONCE)))
    source = await ended(store, await started(store))
    again = await store.submit(submission(2, request("two", ONCE), now=NOW + 900))
    assert again.how is How.REUSED
    assert again.task.deduped
    assert (again.task.state, again.task.execution_id, again.task.attached) == (
        State.COMPLETED,
        source.execution_id,
        False,
    )
    assert again.task == await store.task(again.task.task_id)
    assert again.task.completed_at == source.completed_at
    assert len(await store.attached(source.execution_id)) == 1


@pytest.mark.parametrize(("age_s", "how"), [(1000.0, How.REUSED), (1000.5, How.CREATED)])
async def test_only_a_success_that_is_young_enough_answers(store: Store, age_s: float, how: How) -> None:
    await store.submit(submission(1, request("one", ONCE)))
    await ended(store, await started(store))
    assert (await store.submit(submission(2, request("two", ONCE), now=NOW + age_s))).how is how


async def test_a_failure_answers_nothing(store: Store) -> None:
    await store.submit(submission(1, request("one", ONCE)))
    failed = await ended(store, await started(store), TaskUpdate(exit_code=1, duration_s=1.0))
    assert failed.failure
    assert (await store.submit(submission(2, request("two", ONCE)))).how is How.CREATED


async def test_the_newest_success_is_reused_and_the_order_of_slices_counts(store: Store) -> None:
    other = one_slice(properties("other", idempotent=True))
    made: list[Execution] = []
    for serial, part in enumerate((other, ONCE, ONCE)):
        wanted = submission(serial, request("n", part), now=NOW + serial)
        await store.submit(replace(wanted, reuse=()))
        made.append(await ended(store, await started(store)))
    assert await store.reusable(made[1].task_hash or "", NOW) == made[2]
    assert await store.reusable(made[1].task_hash or "", NOW + 2.5) is None
    both = submission(9, request("n", ONCE, other), now=NOW + 9)
    reuse = ((0, "unknown"), (1, made[0].task_hash or ""), (0, made[1].task_hash or ""))
    answered = await store.submit(replace(both, reuse=reuse))
    assert (answered.task.execution_id, answered.task.slice_index) == (made[0].execution_id, 1)


# claim


async def test_the_most_urgent_goes_first_and_then_the_lowest_rank(store: Store) -> None:
    for serial, priority in enumerate((100, 50, 100, 50, 200)):
        await store.submit(submission(serial, request(f"{serial}", priority=priority)))
    order = [(await claimed(store)).task_name for _ in range(5)]
    assert order == ["1", "3", "0", "2", "4"]
    assert await store.claim([QUEUE], offer()) is None


async def test_the_order_holds_across_queues(store: Store) -> None:
    windows = one_slice(properties(dimensions=WINDOWS))
    await store.submit(submission(1, request("linux 1", priority=90)))
    await store.submit(submission(2, request("windows", windows, priority=80)))
    await store.submit(submission(3, request("linux 2", priority=70)))
    names = []
    for _ in range(3):
        execution = await store.claim([OTHER_QUEUE, QUEUE, "unknown"], offer())
        assert execution is not None
        names.append(execution.task_name)
    assert names == ["linux 2", "windows", "linux 1"]
    assert await store.claim([], offer()) is None


async def test_a_claim_is_an_offer(store: Store) -> None:
    await store.submit(submission(1))
    execution = await claimed(store)
    attempt = execution.attempts[0]
    assert (attempt.run_id, attempt.try_number, attempt.bot_id) == (ids.run_id(execution.execution_id, 1), 1, "bot")
    assert attempt.is_offer
    assert (execution.state, execution.version) == (State.PENDING, 1)
    assert await store.execution(execution.execution_id) == execution
    assert (await store.task(execution.execution_id)).state is State.PENDING
    assert await store.taken() == [execution]


@pytest.mark.parametrize(("now", "found"), [(NOW + 99.5, True), (NOW + 100.0, False)])
async def test_what_is_overdue_is_not_offered(store: Store, now: float, found: bool) -> None:
    await store.submit(submission(1))
    assert (await store.claim([QUEUE], offer(now=now)) is not None) is found


async def test_one_that_is_overdue_does_not_hide_the_next(store: Store) -> None:
    await store.submit(submission(1, request("overdue", one_slice(expiration_s=10), priority=1)))
    await store.submit(submission(2, request("waiting")))
    assert (await claimed(store, now=NOW + 50)).task_name == "waiting"


async def test_a_bot_does_not_get_again_what_it_lost(store: Store) -> None:
    await store.submit(submission(1))
    running = await started(store, "unlucky")
    again, tasks = decisions.retried(running, await store.attached(running.execution_id), "gone", NOW + 9, 0.0)
    await store.replace([Change(running, again)], tasks)
    assert await store.claim([QUEUE], offer("unlucky")) is None
    second = await claimed(store, "other")
    assert [attempt.run_id[-1] for attempt in second.attempts] == ["1", "2"]


async def test_a_bot_may_get_again_what_lapsed(store: Store) -> None:
    await store.submit(submission(1))
    offered = await claimed(store)
    await store.replace([Change(offered, decisions.lapsed(offered, NOW + 16))])
    assert (await store.runs_of("bot", TaskQuery(), None, 10)).items == ()
    assert (await claimed(store)).attempts[0].try_number == 1


async def test_a_bot_of_2020_gets_only_inputs_it_knows(store: Store) -> None:
    ours = one_slice(properties(inputs=FilesRef("a" * 64, "", "blake3-zstd")))
    theirs = one_slice(properties(inputs=FilesRef("a" * 40, "", "default-gzip")))
    await store.submit(submission(1, request("ours", ours)))
    await store.submit(submission(2, request("theirs", theirs)))
    old = await store.claim([QUEUE], offer("old", has_session=False))
    assert old is not None
    assert old.task_name == "theirs"
    assert await store.claim([QUEUE], offer("old", has_session=False)) is None
    assert (await claimed(store)).task_name == "ours"


@pytest.mark.parametrize(("left_s", "found"), [(450.0, False), (450.5, True)])
async def test_a_bot_that_vanishes_gets_only_what_it_can_end(store: Store, left_s: float, found: bool) -> None:
    await store.submit(submission(1))  # 60 s, three times 30 s of grace, and 300 s
    execution = await store.claim([QUEUE], offer(must_end_by=NOW + left_s))
    assert (execution is not None) is found


async def test_a_bot_that_vanishes_gets_nothing_unlimited_but_may_terminate(store: Store) -> None:
    await store.submit(submission(1, request("unlimited", one_slice(properties(execution_timeout_s=0)))))
    assert await store.claim([QUEUE], offer(must_end_by=NOW + 10**6)) is None
    leave = properties(dimensions=(("id", "bot"),), command=(), execution_timeout_s=0)
    await store.submit(submission(2, request("leave", one_slice(leave), priority=0)))
    assert await store.claim([matching.queue_key(leave.dimensions)], offer(must_end_by=NOW + 1)) is not None


async def test_what_runs_or_is_over_is_not_offered(store: Store) -> None:
    await store.submit(submission(1))
    running = await started(store)
    assert await store.claim([QUEUE], offer("other")) is None
    await ended(store, running)
    assert await store.claim([QUEUE], offer("other")) is None


# replace


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


# history


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


# bots


async def test_bots_are_kept_heard_and_forgotten(store: Store) -> None:
    bots = [
        BotInfo(
            bot_id=name,
            session="s",
            former_sessions=("r",),
            dimensions=(("id", (name,)),),
            state={"a": [1, {"b": None}]},
            last_seen_at=NOW,
        )
        for name in ("b", "a")
    ]
    await store.save_bots(bots)
    assert await store.bots() == bots[::-1]
    await store.heard({"a": NOW + 5, "unknown": NOW})
    assert [bot.last_seen_at for bot in await store.bots()] == [NOW + 5, NOW]
    await store.save_bots([replace(bots[0], version="2")])
    assert (await store.bots())[1].version == "2"
    await store.forget_bot("a")
    assert [bot.bot_id for bot in await store.bots()] == ["b"]
    with pytest.raises(NotFound):
        await store.forget_bot("a")


async def test_events_newest_first(store: Store) -> None:
    events = [BotEvent(bot_id="a", event_type=f"e{n}", at=NOW + n // 2, message="m", state={"n": n}) for n in range(6)]
    await store.save_bots([], events[:3])
    await store.save_bots([], [*events[3:], replace(events[0], bot_id="b")])
    page = await store.events("a", None, None, None, 4)
    assert page.items == tuple(events[:1:-1])
    assert (await store.events("a", None, None, page.cursor, 4)).items == (events[1], events[0])
    for bot_id, start in (("a", NOW), ("b", None)):
        with pytest.raises(InvalidInput, match="Invalid cursor"):
            await store.events(bot_id, start, None, page.cursor, 4)
    assert (await store.events("a", NOW + 1, NOW + 2, None, 9)).items == (events[3], events[2])
    assert (await store.events("nobody", None, None, None, 9)).items == ()
    large = [replace(events[0], bot_id="c", at=NOW + n, message="m" * (MAX_PAGE_BYTES // 2)) for n in range(2)]
    await store.save_bots([], large)
    first = await store.events("c", None, None, None, 9)
    assert [*first.items, *(await store.events("c", None, None, first.cursor, 9)).items] == large[::-1]
    assert first.cursor is not None


# two writers


async def test_two_writers_give_each_execution_to_one_bot(pair: Opened) -> None:
    for serial in range(20):
        await pair[serial % 2].submit(submission(serial))

    async def take_all(store: Store, bot_id: str) -> list[str]:
        taken = []
        while (execution := await store.claim([QUEUE], offer(bot_id))) is not None:
            taken.append(execution.execution_id)
        return taken

    first, second = await asyncio.gather(take_all(pair[0], "a"), take_all(pair[1], "b"))
    assert sorted(first + second) == sorted(ids.pack(number(serial)) for serial in range(20))


async def test_two_writers_of_equal_tasks_make_one_execution(pair: Opened) -> None:
    wanted = [submission(serial, request("n", ONCE)) for serial in range(10)]
    answers = await asyncio.gather(*(pair[index % 2].submit(one) for index, one in enumerate(wanted)))
    assert sorted(answer.how.value for answer in answers) == ["created", *["joined"] * 9]
    assert len({answer.task.execution_id for answer in answers}) == 1


async def test_two_writers_of_one_request_make_one_task(pair: Opened) -> None:
    wanted = [submission(serial, request("n", request_uuid="u")) for serial in range(10)]
    answers = await asyncio.gather(*(pair[index % 2].submit(one) for index, one in enumerate(wanted)))
    assert len({answer.task.task_id for answer in answers}) == 1
    assert len((await pair[0].search(TaskQuery(), None, 10)).items) == 1


async def test_of_two_writers_of_one_execution_one_is_stale(pair: Opened) -> None:
    await pair[0].submit(submission(1))
    running = await started(pair[1])
    results = await asyncio.gather(
        ended(pair[0], running),
        ended(pair[1], running, TaskUpdate(exit_code=1, duration_s=9.0)),
        return_exceptions=True,
    )
    assert [type(result) for result in results].count(Stale) == 1
    stored = await pair[0].execution(running.execution_id)
    assert stored in results
    assert isinstance(stored, Execution)


# Listings by start, counts, places in line, retention


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


async def test_old_tasks_go_with_what_only_they_refer_to(store: Store) -> None:
    await store.submit(submission(1, request("old", ONCE, tags=("a:b",))))
    done = await ended(store, await started(store))
    younger = await store.submit(submission(2, request("younger", ONCE), NOW + 50))
    assert younger.how is How.REUSED
    waiting = await store.submit(submission(3, request("waits"), NOW))
    assert await store.forget_tasks(NOW + 10, 100) == 1
    with pytest.raises(NotFound):
        await store.task(done.execution_id)
    assert await store.count(TaskQuery(tags=("a:b",))) == 0
    assert (await store.record(younger.task.task_id)).execution == done  # it answered a younger task
    assert (await store.task(waiting.task.task_id)).state is State.PENDING
    assert await store.forget_tasks(NOW + 10, 100) == 0
    assert await store.forget_tasks(NOW + 60, 100) == 2
    assert (await store.runs_of("bot", TaskQuery(), None, 10)).items == ()
    with pytest.raises(NotFound):
        await store.execution(done.execution_id)


async def test_forgetting_goes_in_steps_the_oldest_first(store: Store) -> None:
    for serial in range(5):
        wanted = submission(serial, request(f"{serial}"), NOW + serial)
        final = replace(wanted.task, state=State.NO_RESOURCE, attached=False, execution_id=None, completed_at=NOW)
        await store.submit(replace(wanted, task=final, execution=None))
    assert await store.forget_tasks(NOW + 4, 3) == 3
    left = (await store.search(TaskQuery(), None, 10)).items
    assert [record.task.request.name for record in left] == ["4", "3"]
    assert [await store.forget_tasks(NOW + 4, 3) for _ in range(2)] == [1, 0]


async def test_old_events_go_the_oldest_first(store: Store) -> None:
    await store.save_bots([], [BotEvent(bot_id="b", event_type="bot_log", at=NOW + n) for n in range(5)])
    assert await store.forget_events(NOW + 4, 3) == 3
    assert [event.at for event in (await store.events("b", None, None, None, 10)).items] == [NOW + 4, NOW + 3]
    assert await store.forget_events(NOW + 4, 3) == 1
    assert await store.forget_events(NOW + 4, 3) == 0
