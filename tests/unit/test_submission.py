"""What becomes of a request."""

from __future__ import annotations

import random

import pytest
from msgspec.structs import replace

from isolate.errors import InvalidTask, NotFound
from swarming import ids
from swarming.bots import TaskUpdate
from swarming.model import FilesRef, secret_digest, task_hash
from swarming.states import State
from tests.tasks import WINDOWS, one_slice, properties, request, submission
from tests.unit.scheduling import ONCE, SUCCESS, House, house

INPUTS = FilesRef("a" * 64, "", "blake3-zstd")
OUTPUTS = FilesRef("b" * 64, "", "blake3-zstd")


async def test_tags_say_what_was_asked_for() -> None:
    home = await house()
    slices = (
        one_slice(properties(dimensions=(("os", "linux|mac"), ("pool", "default")))),
        one_slice(properties(dimensions=(("os", "windows"), ("pool", "default")))),
    )
    view = await home.submit("n", *slices, tags=("b:1", "a:2"), server_tags=("swarming.pool.version:x",), user="")
    assert view.task.request.tags == (
        "a:2",
        "b:1",
        "os:linux",
        "os:mac",
        "os:windows",
        "pool:default",
        "priority:100",
        "realm:none",
        "service_account:none",
        "swarming.pool.version:x",
        "user:none",
    )
    assert (await home.scheduler.evaluate(request("n", *slices, user="me"))).tags[-1] == "user:me"


async def test_without_capacity_the_answer_is_no_resource_at_once() -> None:
    home = await house()
    nowhere = one_slice(properties(dimensions=WINDOWS), wait=False)
    view = await home.submit("n", nowhere)
    assert (view.state, view.execution) == (State.NO_RESOURCE, None)
    task = (await home.scheduler.view(view.task.task_id)).task
    assert task.completed_at == task.abandoned_at == task.created_at


async def test_a_task_may_wait_for_capacity() -> None:
    home = await house()
    assert (await home.submit("n", one_slice(properties(dimensions=WINDOWS), wait=True))).state is State.PENDING


async def test_the_first_slice_with_capacity_is_queued() -> None:
    home = await house()
    slices = (one_slice(properties(dimensions=WINDOWS), 30, wait=False), one_slice(expiration_s=50, wait=False))
    task = (await home.submit("n", *slices)).task
    assert (task.slice_index, task.deadline_at - task.created_at) == (1, 80.0)
    assert (await home.take()).execution.properties.dimensions == slices[1].properties.dimensions


async def test_a_dead_bot_is_capacity_until_it_is_forgotten() -> None:
    home = await house()
    await home.pass_time(700)
    assert (await home.scheduler.bot("bot")).is_dead
    plain = one_slice(wait=False)
    assert (await home.submit("n", plain)).state is State.PENDING
    await home.scheduler.forget_bot("bot")
    assert (await home.submit("n", plain)).state is State.NO_RESOURCE


async def test_equal_idempotent_tasks_run_once_while_they_wait_run_and_are_over() -> None:
    home = await house()
    views = [await home.submit("1", ONCE), await home.submit("2", ONCE)]
    run = await home.start()
    views.append(await home.submit("3", ONCE))
    assert await home.states(views) == [State.RUNNING] * 3
    await home.report(run, SUCCESS)
    assert await home.states(views) == [State.COMPLETED] * 3
    late = await home.submit("4", ONCE)
    assert (late.state, late.task.deduped) == (State.COMPLETED, True)
    assert late.attempt is not None
    assert late.attempt.run_id == run.attempt.run_id
    assert [view.task.deduped for view in views] == [False] * 3


async def test_a_join_costs_the_run_no_second_look() -> None:
    home = await house()
    await home.submit("1", ONCE)
    run = await home.start()
    await home.submit("2", ONCE)
    written = home.store.replaced
    await home.report(run, SUCCESS)
    assert home.store.replaced == written + 1


async def test_a_deduplicated_task_shows_the_log_of_its_source() -> None:
    home = await house()
    await home.submit("1", ONCE)
    await home.report(await home.start(), TaskUpdate(output=b"log", exit_code=0, duration_s=1.0))
    late = await home.submit("2", ONCE)
    assert await home.scheduler.stdout(late.task.task_id, 0, 100) == (b"log", State.COMPLETED)


async def test_a_failure_is_shared_but_not_reused() -> None:
    home = await house()
    views = [await home.submit("1", ONCE), await home.submit("2", ONCE)]
    await home.report(await home.start(), TaskUpdate(exit_code=3, duration_s=1.0))
    assert await home.states(views) == [State.COMPLETED] * 2
    assert (await home.scheduler.view(views[1].task.task_id)).task.failure
    assert (await home.submit("3", ONCE)).state is State.PENDING


async def test_a_result_is_reused_for_a_week() -> None:
    home = await house()
    await home.submit("1", ONCE)
    await home.report(await home.start(), SUCCESS)
    home.clock.advance(7 * 86_400)
    assert (await home.submit("2", ONCE)).task.deduped
    home.clock.advance(1)
    assert not (await home.submit("3", ONCE)).task.deduped


async def test_the_most_urgent_of_those_who_share_decides() -> None:
    home = await house()
    await home.submit("shared", ONCE, priority=200)
    await home.submit("other", priority=100)
    await home.submit("urgent", ONCE, priority=50)
    assert (await home.take()).execution.task_name == "shared"


async def test_inputs_that_are_incomplete_are_named() -> None:
    home = await house()
    home.trees.gone["a" * 64] = "src/lost.py"
    with pytest.raises(InvalidTask, match=r"src/lost\.py is missing"):
        await home.submit("n", one_slice(properties(inputs=INPUTS)))
    assert await home.store.queues() == []


async def test_only_trees_that_are_named_are_walked_each_once() -> None:
    home = await house()
    slices = [one_slice(properties(name, inputs=INPUTS)) for name in "ab"]
    await home.submit("n", *slices, one_slice(properties("c", inputs=FilesRef(None, "", "blake3-zstd"))))
    assert home.trees.asked == ["a" * 64]


async def test_a_result_whose_outputs_are_gone_is_not_reused() -> None:
    home = await house()
    await home.submit("1", ONCE)
    await home.report(await home.start(), TaskUpdate(exit_code=0, duration_s=1.0, outputs=OUTPUTS))
    assert (await home.submit("2", ONCE)).task.deduped
    home.trees.gone["b" * 64] = "out.txt"
    assert (await home.submit("3", ONCE)).state is State.PENDING
    home.trees.gone.clear()
    assert (await home.submit("4", ONCE)).state is State.PENDING


async def test_the_same_request_uuid_is_the_same_task() -> None:
    home = await house()
    first = await home.submit("n", request_uuid="u")
    await home.report(await home.start(), SUCCESS)
    again = await home.submit("n", request_uuid="u")
    assert again.task.task_id == first.task.task_id
    assert again.state is State.COMPLETED
    home.clock.advance(3601)
    assert (await home.submit("n", request_uuid="u")).task.task_id != first.task.task_id


async def test_ids_that_collide_are_drawn_again() -> None:
    home = await house()

    draws = [5, 5, 5, 6]

    class Stuck(random.Random):
        def getrandbits(self, _: int) -> int:
            return draws.pop(0)

    home.scheduler._submitter._rng = Stuck()
    first, second = await home.submit("1"), await home.submit("2")
    assert first.task.task_id != second.task.task_id
    assert draws == []


@pytest.mark.parametrize(
    ("asked_s", "tolerance_s"), [(None, 60.0), (10, 30.0), (30, 30.0), (1200, 1200.0), (5000, 1200.0)]
)
async def test_the_tolerance_has_limits(asked_s: int | None, tolerance_s: float) -> None:
    home = await house()
    view = await home.submit("n", bot_ping_tolerance_s=asked_s)
    assert view.execution is not None
    assert view.execution.tolerance_s == tolerance_s


async def test_a_child_has_the_user_of_its_parent() -> None:
    home = await house()
    await home.submit("parent", user="me")
    run_id = (await home.start()).attempt.run_id
    child = await home.submit("child", user="somebody", parent_task_id=run_id)
    assert child.task.request.user == "me"
    assert "user:me" in child.task.request.tags
    assert (await home.scheduler.view(run_id)).children == (child.task.task_id,)


async def test_a_parent_must_be_a_run_that_exists() -> None:
    home = await house()
    parent = await home.submit("parent")
    unknown = ids.run_id(ids.pack(ids.number(1.6e9, 3)), 1)
    for wrong in (parent.task.task_id, unknown):
        with pytest.raises(InvalidTask):
            await home.submit("child", parent_task_id=wrong)


async def test_a_child_of_a_run_that_is_over_is_canceled() -> None:
    home = await house()
    await home.submit("parent")
    run = await home.start()
    await home.report(run, SUCCESS)
    child = await home.submit("child", parent_task_id=run.attempt.run_id)
    assert await home.state(child) is State.CANCELED


async def test_terminate_needs_a_bot_and_goes_before_everything() -> None:
    home = await house()
    with pytest.raises(NotFound):
        await home.scheduler.terminate("nobody")
    await home.submit("urgent", priority=1)
    view = await home.scheduler.terminate("bot", "me")
    assert (view.task.request.name, view.task.request.priority) == ("Terminate bot", 0)
    assert "terminate:1" in view.task.request.tags
    assert view.execution is not None
    assert view.execution.properties.is_terminate


def test_the_hash_depends_on_everything_and_hides_the_secret() -> None:
    plain = properties("a", env=(("K", "V"),))
    changed = [
        properties("b", env=(("K", "V"),)),
        properties("a", env=(("K", "W"),)),
        properties("a", env=(("K", "V"),), secret=secret_digest(b"")),
        properties("a", env=(("K", "V"),), secret="s"),
        properties("a", env=(("K", "V"),), inputs=INPUTS),
        properties("a", env=(("K", "V"),), grace_period_s=31),
        properties("a", env=(("K", "V"),), dimensions=WINDOWS),
    ]
    hashes = {task_hash(one) for one in (plain, *changed)}
    assert len(hashes) == len(changed) + 1
    assert task_hash(plain) == task_hash(properties("a", env=(("K", "V"),)))
    assert task_hash(plain) == "5b0c21ed10036e0c2a14afdf2fa3c0b9b64b585e147744cc9d1ad6358e43c0f4"
    assert "hush" not in repr(replace(submission(1), secret=b"hush"))


async def test_last_in_first_out_is_an_option() -> None:
    for use_lifo, order in ((False, ["1", "2", "3"]), (True, ["3", "2", "1"])):
        home: House = await house(use_lifo=use_lifo)
        for name in "123":
            await home.submit(name)
        taken = []
        for _ in range(3):
            run = await home.start()
            taken.append(run.execution.task_name)
            await home.report(run, SUCCESS)
        assert taken == order


async def test_a_repeated_submission_is_answered_before_its_inputs_are_looked_at() -> None:
    made = await house()
    asked = {"request_uuid": "u"}
    inputs = one_slice(properties(inputs=FilesRef("a" * 64)))
    first = await made.submit("a task", inputs, **asked)
    made.trees.gone["a" * 64] = "src/main.py"
    made.trees.asked.clear()
    assert (await made.submit("a task", inputs, **asked)).task == first.task
    assert made.trees.asked == []
    with pytest.raises(InvalidTask):
        await made.submit("a task", inputs, request_uuid="other")
