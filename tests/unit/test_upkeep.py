"""What is written and told by the clock: heartbeats, events, bots that died, queues nobody uses."""

from __future__ import annotations

import pytest

from isolate.errors import NotFound, Unavailable
from swarming.bots import BotQuery, Run
from swarming.states import State
from tests.tasks import WINDOWS, hello, one_slice, properties
from tests.unit.scheduling import LONG, SUCCESS, house


async def test_heartbeats_are_written_together_every_ten_seconds() -> None:
    home = await house()
    for name in ("b1", "b2", "b3"):
        await home.bot(name)
    for _ in range(10):
        for name in ("b1", "b2", "b3"):
            await home.scheduler.poll(hello(name))
        await home.pass_time(1)
    assert home.store.heard_calls == [{"b1", "b2", "b3"}]


async def test_what_fails_keeps_nothing_else_from_being_done() -> None:
    home = await house()
    await home.bot("second")
    views = [await home.submit(name, LONG) for name in "12"]
    await home.start()
    await home.start("second")
    late = await home.submit("late", one_slice(properties(dimensions=WINDOWS), 61))
    await home.pass_time(60)

    async def fail() -> None:
        raise Unavailable("not now")

    home.store.before_execution.append(fail)
    home.clock.advance(1)
    with pytest.raises(ExceptionGroup) as caught:
        await home.scheduler.tick()
    assert [type(error) for error in caught.value.exceptions] == [Unavailable]
    assert sorted(await home.states([*views, late])) == [State.RUNNING, State.PENDING, State.EXPIRED]
    await home.pass_time(1)
    assert await home.states(views) == [State.PENDING] * 2


async def test_events_that_could_not_be_written_are_written_later() -> None:
    home = await house()
    await home.submit("n", LONG)
    run = await home.start()
    await home.scheduler.fail("bot", run.attempt.session, run.attempt.run_id, "inputs are gone")
    home.store.is_full = True
    with pytest.raises(ExceptionGroup):
        await home.pass_time(11)
    home.store.is_full = False
    await home.pass_time(20)
    events = (await home.scheduler.bot_events("bot", None, None, None, 9)).items
    kinds = [(event.event_type, event.message, event.run_id) for event in events]
    assert kinds == [
        ("task_error", "inputs are gone", run.attempt.run_id),
        ("request_task", "", run.attempt.run_id),
        ("bot_connected", "", None),
    ]


async def test_a_silent_bot_is_dead_until_it_speaks() -> None:
    home = await house()
    await home.pass_time(600)
    assert not (await home.scheduler.bot("bot")).is_dead
    await home.pass_time(1)
    assert (await home.scheduler.bot("bot")).is_dead
    count = await home.scheduler.count_bots(BotQuery(is_dead=True))
    assert (count.total, count.dead, count.busy) == (1, 1, 0)
    await home.scheduler.poll(hello())
    assert not (await home.scheduler.bot("bot")).is_dead


async def test_bots_are_listed_page_by_page() -> None:
    home = await house()
    for name in ("b3", "b1", "b2"):
        await home.bot(name)
    await home.bot(
        "m", dimensions=(("id", ("m",)), ("os", ("mac",)), ("pool", ("default",))), state={"maintenance": "x"}
    )
    page = await home.scheduler.bots(BotQuery(), None, 2)
    assert [bot.bot_id for bot in page.items] == ["b1", "b2"]
    page = await home.scheduler.bots(BotQuery(), page.cursor, 3)
    assert ([bot.bot_id for bot in page.items], page.cursor) == (["b3", "bot", "m"], None)
    mac = await home.scheduler.bots(BotQuery(dimensions=(("os", "mac"),), in_maintenance=True), None, 9)
    assert [bot.bot_id for bot in mac.items] == ["m"]
    await home.submit()
    await home.start("b1")
    busy = await home.scheduler.bots(BotQuery(is_busy=True), None, 9)
    assert [(bot.bot_id, bot.task_name) for bot in busy.items] == [("b1", "a task")]
    runs = await home.scheduler.bot_runs("b1", None, 9)
    assert [run.state for run in runs.items] == [State.RUNNING]
    with pytest.raises(NotFound):
        await home.scheduler.bot("nobody")


async def test_queues_that_nobody_uses_are_forgotten_and_come_back() -> None:
    home = await house()
    await home.submit()
    await home.report(await home.take(), SUCCESS)
    await home.pass_time(601)
    assert home.scheduler._ledger.fleet.seat("bot").queues == {}
    await home.submit()
    assert isinstance(await home.scheduler.poll(hello()), Run)
