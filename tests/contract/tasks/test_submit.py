"""What every task store does with a new task: it keeps it whole, and equal ones share one run."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from isolate.errors import NotFound
from swarming import decisions, ids
from swarming.bots import TaskUpdate
from swarming.model import Execution, FilesRef
from swarming.states import State
from swarming.store import Change, How, Store
from tests.contract.tasks.steps import ONCE, QUEUE, claimed, ended, started
from tests.tasks import NOW, number, offer, one_slice, properties, request, submission


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
