"""Which task every store offers to which bot, and that of two writers one wins."""

from __future__ import annotations

import asyncio

import pytest

from isolate.errors import Stale
from swarming import decisions, ids, matching
from swarming.bots import TaskUpdate
from swarming.model import Execution, FilesRef
from swarming.paging import TaskQuery
from swarming.states import State
from swarming.store import Change, Store
from tests.contract.tasks.backends import Opened
from tests.contract.tasks.steps import ONCE, OTHER_QUEUE, QUEUE, claimed, ended, started
from tests.tasks import NOW, WINDOWS, number, offer, one_slice, properties, request, submission


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
