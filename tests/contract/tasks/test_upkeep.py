"""What every task store knows of bots, and what it forgets of everything in time."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from isolate.errors import InvalidInput, NotFound
from swarming.bots import BotEvent, BotInfo
from swarming.paging import MAX_PAGE_BYTES, TaskQuery
from swarming.states import State
from swarming.store import How, Store
from tests.contract.tasks.steps import ONCE, ended, started
from tests.tasks import NOW, request, submission


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
