"""Runs of a bot by state and time, and bots that were deleted, over the REST API."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from tests.unit.server_site import Site, hello, new_task, running_site


@pytest.fixture
async def site() -> AsyncIterator[Site]:
    async with running_site() as running:
        yield running


async def run(site: Site, exit_code: int | None = 0) -> str:
    await site.post("tasks/new", new_task())
    _, command = await site.bot("poll", hello())
    run_id: str = command["manifest"]["task_id"]
    await site.bot("task_update", {"id": "bot1", "task_id": run_id})
    if exit_code is not None:
        await site.bot("task_update", {"id": "bot1", "task_id": run_id, "exit_code": exit_code, "duration": 1.0})
    return run_id


async def listed(site: Site, query: str) -> list[str]:
    """Follow the cursors of a listing."""
    found, cursor = [], ""
    while cursor is not None:
        page = await site.get(f"bot/bot1/tasks?limit=2&{query}" + (f"&cursor={cursor}" if cursor else ""))
        found += [item["run_id"] for item in page.get("items", ())]
        cursor = page.get("cursor")
    return found


async def test_runs_by_state_and_time(site: Site) -> None:
    await site.bot("handshake", hello())
    runs, times = [], []
    for exit_code in (0, 1, 0, 2, None):
        times.append(site.clock.now())
        runs.append(await run(site, exit_code))
        site.clock.advance(10)
    newest_first = runs[::-1]
    assert await listed(site, "") == newest_first
    assert await listed(site, "state=COMPLETED_SUCCESS") == [runs[2], runs[0]]
    assert await listed(site, "state=COMPLETED_FAILURE&sort=STARTED_TS") == [runs[3], runs[1]]
    assert await listed(site, "state=RUNNING") == [runs[4]]
    assert await listed(site, "state=DEDUPED") == []
    assert await listed(site, f"start={times[1]}&end={times[3]}") == [runs[3], runs[2], runs[1]]
    assert await listed(site, f"start={times[1]}") == newest_first[:4]
    assert await listed(site, f"end={times[1]}") == [runs[1], runs[0]]
    assert (await site.refused("GET", "bot/bot1/tasks?sort=NONSENSE"))[0] == 400


async def test_a_bot_that_is_deleted_at_once_is_known_as_deleted(site: Site) -> None:
    await site.bot("handshake", hello())
    await site.post("bot/bot1/delete")
    assert (await site.get("bot/bot1/get"))["deleted"] is True


async def test_a_deleted_bot_is_shown_as_it_was(site: Site) -> None:
    await site.bot("handshake", hello(os=["Linux"]))
    await run(site, 0)  # an event of a task does not say what the bot is
    await site.scheduler.close()
    await site.post("bot/bot1/delete")
    found = await site.get("bot/bot1/get")
    assert (found["deleted"], found["is_dead"], found["version"]) == (True, True, "v1")
    assert {"key": "os", "value": ["Linux"]} in found["dimensions"]
    assert found["state"] != "{}"
    events = [event["event_type"] for event in (await site.get("bot/bot1/events"))["items"]]
    assert events == ["task_completed", "request_task", "bot_connected"]
    for call in ("get", "events"):
        assert (await site.refused("GET", f"bot/nobody/{call}"))[0] == 404
