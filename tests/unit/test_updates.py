"""What bots say: updates, endings and errors."""

from __future__ import annotations

import pytest

from isolate.errors import InvalidInput, InvalidTask, NotFound
from swarming.bots import TaskUpdate
from swarming.model import FilesRef
from swarming.states import State
from tests.tasks import hello
from tests.unit.scheduling import KILLED, ONCE, SUCCESS, house, refused

# updates


async def test_a_heartbeat_writes_nothing() -> None:
    home = await house()
    await home.submit()
    run = await home.start()
    written = home.store.replaced
    for _ in range(5):
        await home.report(run)
    assert home.store.replaced == written


async def test_output_is_readable_while_it_comes_with_holes_as_nuls() -> None:
    home = await house()
    view = await home.submit()
    run = await home.start()
    await home.report(run, TaskUpdate(output=b"abc"))
    await home.report(run, TaskUpdate(output=b"xyz", output_start=5))
    assert await home.scheduler.stdout(view.task.task_id, 1, 100) == (b"bc\0\0xyz", State.RUNNING)
    assert await home.scheduler.stdout(run.attempt.run_id, 5, 2) == (b"xy", State.RUNNING)
    await home.report(run, TaskUpdate(output=b"!", output_start=8, exit_code=1, duration_s=1.0))
    assert await home.scheduler.stdout(view.task.task_id, 6, 100) == (b"yz!", State.COMPLETED)


async def test_output_of_a_task_that_did_not_run_is_empty() -> None:
    home = await house()
    view = await home.submit()
    assert await home.scheduler.stdout(view.task.task_id, 0, 10) == (b"", State.PENDING)


@pytest.mark.parametrize(
    ("update", "state", "exit_code", "failure"),
    [
        (TaskUpdate(exit_code=0, duration_s=1.0), State.COMPLETED, 0, False),
        (TaskUpdate(exit_code=5, duration_s=1.0), State.COMPLETED, 5, True),
        (TaskUpdate(exit_code=-9, duration_s=1.0, hard_timeout=True), State.TIMED_OUT, -9, True),
        (TaskUpdate(exit_code=0, duration_s=1.0, io_timeout=True), State.TIMED_OUT, 0, True),
        (TaskUpdate(hard_timeout=True), State.TIMED_OUT, -1, True),
        (TaskUpdate(io_timeout=True), State.TIMED_OUT, -1, True),
        (TaskUpdate(canceled=True, exit_code=-1), State.CANCELED, None, False),
    ],
)
async def test_how_a_run_ends(update: TaskUpdate, state: State, exit_code: int | None, failure: bool) -> None:
    home = await house()
    view = await home.submit()
    await home.report(await home.start(), update)
    found = await home.scheduler.view(view.task.task_id)
    assert found.attempt is not None
    assert (found.state, found.attempt.exit_code, found.task.failure) == (state, exit_code, failure)
    assert found.task.completed_at == home.clock.now()
    assert (await home.scheduler.bot("bot")).run_id is None


async def test_the_facts_of_an_ending_are_kept() -> None:
    home = await house()
    view = await home.submit()
    run = await home.start()
    await home.report(run, TaskUpdate(cost_usd=0.3))
    await home.report(run, TaskUpdate(cost_usd=0.2))
    outputs = FilesRef("b" * 64, "", "blake3-zstd")
    stats = {"bot_overhead": 0.1}
    await home.report(run, TaskUpdate(exit_code=0, duration_s=4.5, cost_usd=0.25, outputs=outputs, stats=stats))
    attempt = (await home.scheduler.view(view.task.task_id)).attempt
    assert attempt is not None
    assert (attempt.cost_usd, attempt.duration_s, attempt.outputs, attempt.stats) == (0.3, 4.5, outputs, stats)
    assert (attempt.bot_id, attempt.bot_dimensions) == ("bot", hello().dimensions)


async def test_an_ending_may_be_the_first_word() -> None:
    home = await house()
    view = await home.submit()
    written = home.store.replaced
    await home.report(await home.take(), SUCCESS)
    assert home.store.replaced == written + 1
    assert (await home.scheduler.view(view.task.task_id)).task.state is State.COMPLETED


async def test_an_ending_may_be_repeated_but_not_changed() -> None:
    home = await house()
    view = await home.submit()
    run = await home.start()
    for _ in range(3):
        assert not (await home.report(run, SUCCESS)).must_stop
    for other in (
        TaskUpdate(exit_code=1, duration_s=2.0),
        TaskUpdate(exit_code=0, duration_s=3.0),
        KILLED,
        TaskUpdate(),
    ):
        assert await refused(home.report(run, other))
    assert (await home.scheduler.view(view.task.task_id)).task.failure is False


async def test_updates_of_others_are_refused() -> None:
    home = await house()
    await home.bot("other")
    view = await home.submit()
    run_id = (await home.start()).attempt.run_id
    for bot_id, session in (("other", "session of other"), ("bot", "stolen"), ("nobody", "")):
        assert await refused(home.scheduler.update(bot_id, session, run_id, SUCCESS))
    assert await refused(home.scheduler.fail("bot", "stolen", run_id, "m"))
    assert await home.state(view) is State.RUNNING


@pytest.mark.parametrize(
    "update",
    [
        TaskUpdate(exit_code=0),
        TaskUpdate(duration_s=1.0),
        TaskUpdate(exit_code=0, duration_s=-1.0),
        TaskUpdate(cost_usd=-0.1),
        TaskUpdate(stats={}),
        TaskUpdate(output=b"x", output_start=-1),
    ],
)
async def test_updates_that_contradict_themselves_are_refused(update: TaskUpdate) -> None:
    home = await house()
    await home.submit()
    run = await home.start()
    with pytest.raises(InvalidTask):
        await home.report(run, update)


async def test_ids_that_are_none_are_bad_input() -> None:
    home = await house()
    for call in (home.scheduler.view("zz"), home.scheduler.cancel("", True), home.scheduler.stdout("1x", 0, 1)):
        with pytest.raises(InvalidInput):
            await call
    view = await home.submit()
    for unknown in ("5cee488008810", "5cee488008811", view.task.task_id[:-1] + "1"):
        with pytest.raises(NotFound):
            await home.scheduler.view(unknown)
    assert await refused(home.scheduler.update("bot", "s", "5cee488008811", SUCCESS))


async def test_how_often_to_report() -> None:
    home = await house(updates_per_s=0.25)
    views = []
    for number in range(3):
        await home.bot(f"b{number}")
        views.append(await home.submit())
    runs = [await home.take(f"b{number}") for number in range(3)]
    assert [(await home.report(run)).update_every_s for run in runs] == [10.0] * 3
    await home.report(runs[0], SUCCESS)
    await home.report(runs[1], SUCCESS)
    assert (await home.report(runs[2])).update_every_s == 4.0
    await home.scheduler.stdout(views[2].task.task_id, 0, 10)
    assert (await home.report(runs[2])).update_every_s == 1.0
    await home.pass_time(30)
    assert (await home.report(runs[2])).update_every_s == 4.0


# errors of bots


async def test_a_run_that_its_bot_cannot_end_is_over_without_another_try() -> None:
    home = await house()
    view = await home.submit("n", ONCE)
    run = await home.take()
    for _ in range(2):
        await home.scheduler.fail("bot", run.attempt.session, run.attempt.run_id, "inputs are gone")
    found = await home.scheduler.view(view.task.task_id)
    assert found.attempt is not None
    assert (found.state, found.attempt.reason, found.attempt.internal_failure) == (
        State.BOT_DIED,
        "inputs are gone",
        True,
    )
    assert await refused(home.report(run, SUCCESS))


async def test_a_bot_cannot_fail_the_run_of_another() -> None:
    home = await house()
    await home.submit()
    run = await home.start()
    with pytest.raises(InvalidInput, match=f"Bot thief cannot fail run {run.attempt.run_id} of bot bot"):
        await home.scheduler.fail("thief", run.attempt.session, run.attempt.run_id, "m")
    assert await refused(home.scheduler.fail("bot", "another session", run.attempt.run_id, "m"))
    assert (await home.report(run, SUCCESS)).must_stop is False


async def test_an_error_after_the_ending_is_refused() -> None:
    home = await house()
    await home.submit()
    run = await home.start()
    await home.report(run, SUCCESS)
    assert await refused(home.scheduler.fail("bot", run.attempt.session, run.attempt.run_id, "m"))


async def test_that_a_bot_stops_and_starts_taking_tasks_is_an_event() -> None:
    home = await house()
    for state in ({}, {"maintenance": "oil"}, {"maintenance": "oil"}, {"quarantined": "broken"}, {}, {}):
        await home.scheduler.poll(hello(state=state))
    await home.scheduler.close()
    page = await home.scheduler.bot_events("bot", None, None, None, 10)
    told = [(event.event_type, event.message, event.quarantined, event.maintenance) for event in page.items]
    assert told == [
        ("request_sleep", "", "", ""),
        ("request_sleep", "broken", "broken", ""),
        ("request_sleep", "oil", "", "oil"),
        ("bot_connected", "", "", ""),
    ]


async def test_events_of_a_bot_are_kept() -> None:
    home = await house()
    await home.scheduler.event(hello(), "bot_log", "hello there")
    await home.scheduler.close()
    page = await home.scheduler.bot_events("bot", None, None, None, 10)
    assert [(event.event_type, event.message) for event in page.items] == [
        ("bot_log", "hello there"),
        ("bot_connected", ""),
    ]
