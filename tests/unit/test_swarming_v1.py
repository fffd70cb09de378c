"""The REST API for clients, over a scheduler in memory."""

from __future__ import annotations

import base64
from collections.abc import AsyncIterator
from typing import Any

import pytest

from tests.unit.server_site import API, Site, hello, new_task, running_site

UUID = "12345678-1234-4234-8234-123456789abc"


@pytest.fixture
async def site() -> AsyncIterator[Site]:
    async with running_site() as running:
        yield running


async def run_one(site: Site, body: dict[str, Any], output: bytes = b"hi\n", **ending: Any) -> str:
    """Trigger a task and let a bot of 2020 run it; returns the task id."""
    task_id: str = (await site.post("tasks/new", body))["task_id"]
    _, command = await site.bot("poll", hello())
    run_id = command["manifest"]["task_id"]
    first = {"id": "bot1", "task_id": run_id, "cost_usd": 0.0}
    assert await site.bot("task_update", first) == (200, {"must_stop": False, "ok": True})
    last = {"exit_code": 0, "duration": 1.5, "cost_usd": 0.5} | ending
    text = base64.b64encode(output).decode()
    body = {"id": "bot1", "task_id": run_id, "output": text, "output_chunk_start": 0} | last
    assert (await site.bot("task_update", body))[0] == 200
    return task_id


async def test_a_new_task_is_answered_with_itself(site: Site) -> None:
    reply = await site.post("tasks/new", new_task(tags=["a:b"], user="joe"))
    assert reply.keys() == {"request", "task_id", "task_result"}
    assert reply["task_result"]["state"] == "PENDING"
    assert reply["request"]["task_id"] == reply["task_id"]
    assert reply["request"]["authenticated"] == "bot:whitelisted-ip"
    tags = reply["request"]["tags"]
    assert tags == sorted(tags)
    assert {"a:b", "pool:default", "priority:100", "user:joe", "realm:none", "service_account:none"} <= set(tags)
    assert await site.get(f"task/{reply['task_id']}/request") == reply["request"]
    result = await site.get(f"task/{reply['task_id']}/result")
    assert result.pop("pending")["summary"] == "No bot has ever come"
    assert result == reply["task_result"]


async def test_the_other_base_and_any_content_type(site: Site) -> None:
    headers = {"Content-Type": "application/x-www-form-urlencoded"}
    status, reply = await site.call("POST", "/api/swarming/v1/tasks/new", new_task(), headers)
    assert (status, reply["task_result"]["state"]) == (200, "PENDING")


async def test_evaluating_creates_nothing(site: Site) -> None:
    reply = await site.post("tasks/new", new_task(evaluate_only=True))
    assert reply.keys() == {"request"}
    assert "task_id" not in reply["request"]
    assert "items" not in await site.get("tasks/list")


async def test_the_same_uuid_is_the_same_task(site: Site) -> None:
    first = await site.post("tasks/new", new_task(request_uuid=UUID))
    assert (await site.post("tasks/new", new_task(request_uuid=UUID)))["task_id"] == first["task_id"]
    assert (await site.post("tasks/new", new_task()))["task_id"] != first["task_id"]


async def test_incomplete_inputs_are_named(site: Site) -> None:
    digest = "ab" * 32
    site.trees.missing[digest] = "src/main.py"
    body = new_task(properties={"inputs_ref": {"isolated": digest, "isolatedserver": site.url}})
    status, message = await site.refused("POST", "tasks/new", body)
    assert status == 400
    assert "src/main.py" in message


async def test_a_tree_on_this_server_is_shown_with_the_address_of_the_caller(site: Site) -> None:
    ref = {"isolated": "ab" * 32, "isolatedserver": site.url.replace("127.0.0.1", "localhost")}
    reply = await site.post("tasks/new", new_task(properties={"inputs_ref": ref}))
    assert reply["request"]["properties"]["inputs_ref"]["isolatedserver"] == site.url


async def test_no_bot_and_no_patience_is_no_resource(site: Site) -> None:
    body = new_task()
    body["task_slices"][0]["wait_for_capacity"] = False
    assert (await site.post("tasks/new", body))["task_result"]["state"] == "NO_RESOURCE"


async def test_a_whole_life(site: Site) -> None:
    await site.bot("handshake", hello())
    task_id = await run_one(site, new_task(), b"caf\xc3\xa9 \xff")
    result = await site.get(f"task/{task_id}/result")
    assert (result["state"], result["exit_code"], result["bot_id"], result["duration"]) == (
        "COMPLETED",
        "0",
        "bot1",
        1.5,
    )
    assert result["costs_usd"] == [0.5]
    assert await site.get(f"task/{task_id}/stdout") == {
        "output": "café \ufffd",
        "state": "COMPLETED",
        "next_offset": "7",
    }
    page = await site.get(f"task/{task_id}/stdout?offset=5&length=1")
    assert page == {"output": " ", "state": "COMPLETED", "next_offset": "6"}
    page = await site.get(f"task/{task_id}/stdout?offset=0&length=4")  # in the middle of the é
    assert page == {"output": "caf", "state": "COMPLETED", "next_offset": "3"}
    run = await site.get(f"task/{result['run_id']}/result")
    assert (run["task_id"], run["state"]) == (result["run_id"], "COMPLETED")


async def test_an_equal_idempotent_task_is_answered_at_once(site: Site) -> None:
    await site.bot("handshake", hello())
    body = new_task(properties={"idempotent": True})
    task_id = await run_one(site, body)
    again = await site.post("tasks/new", body)
    result = again["task_result"]
    assert again["task_id"] != task_id
    assert (result["state"], result["try_number"], result["cost_saved_usd"]) == ("COMPLETED", "0", 0.5)
    assert result["deduped_from"] == task_id[:-1] + "1"
    assert (await site.get(f"task/{again['task_id']}/stdout"))["output"] == "hi\n"
    assert len((await site.get("tasks/list?state=DEDUPED"))["items"]) == 1


async def test_performance_stats_only_when_asked_for(site: Site) -> None:
    await site.bot("handshake", hello())
    packed = "eJyTAAAAGgAL"  # not a list of ours: repeated without counts
    stats = {"download": {"duration": 0.5, "initial_size": 7, "items_cold": packed}, "upload": {}}
    task_id = await run_one(site, new_task(), bot_overhead=0.25, isolated_stats=stats)
    assert "performance_stats" not in await site.get(f"task/{task_id}/result")
    found = (await site.get(f"task/{task_id}/result?include_performance_stats=true"))["performance_stats"]
    assert found["bot_overhead"] == 0.25
    assert found["isolated_download"]["duration"] == 0.5
    assert found["isolated_download"]["initial_size"] == "7"
    assert found["isolated_upload"] == {}


async def test_costs_are_shown_while_they_arise(site: Site) -> None:
    task_id = (await site.post("tasks/new", new_task()))["task_id"]
    _, command = await site.bot("poll", hello())
    run_id = command["manifest"]["task_id"]
    for cost_usd in (0.0, 0.25):
        await site.bot("task_update", {"id": "bot1", "task_id": run_id, "cost_usd": cost_usd})
    replies = [await site.get(f"task/{one}/result") for one in (task_id, run_id)]
    replies += [(await site.get(path))["items"][0] for path in ("tasks/list", "bot/bot1/tasks")]
    assert [reply["costs_usd"] for reply in replies] == [[0.25]] * 4


async def test_cancel(site: Site) -> None:
    task_id = (await site.post("tasks/new", new_task()))["task_id"]
    assert await site.post(f"task/{task_id}/cancel", {"kill_running": True}) == {"ok": True, "was_running": False}
    assert (await site.get(f"task/{task_id}/result"))["state"] == "CANCELED"
    assert await site.post(f"task/{task_id}/cancel") == {"ok": False, "was_running": False}


@pytest.mark.parametrize("call", ["result", "request", "stdout"])
@pytest.mark.parametrize(
    ("task_id", "status", "reason"),
    [
        ("5cee488008810", 404, "5cee488008810"),
        ("zz", 400, "zz is an invalid key."),
        ("5cee488008813", 400, "invalid key"),
    ],
)
async def test_ids_that_are_unknown_or_none(site: Site, call: str, task_id: str, status: int, reason: str) -> None:
    found, message = await site.refused("GET", f"task/{task_id}/{call}")
    assert found == status
    assert reason in message


async def test_lists_follow_their_cursor(site: Site) -> None:
    ids = []
    for _ in range(5):
        ids.append((await site.post("tasks/new", new_task()))["task_id"])
        site.clock.advance(1)
    found: list[str] = []
    cursor = ""
    while True:
        page = await site.get(f"tasks/list?limit=2{cursor}")
        found += [item["task_id"] for item in page["items"]]
        if "cursor" not in page:
            break
        cursor = f"&cursor={page['cursor']}"
    assert found == ids[::-1]
    assert (await site.get("tasks/count?start=0"))["count"] == "5"
    assert (await site.get("tasks/count?start=0&state=RUNNING"))["count"] == "0"
    assert len((await site.get("tasks/requests?limit=3"))["items"]) == 3


@pytest.mark.parametrize(
    ("path", "reason"),
    [
        ("tasks/list?limit=0", "limit"),
        ("tasks/list?limit=1001", "limit"),
        ("tasks/list?state=DONE", "state"),
        ("tasks/list?cursor=nonsense", ""),
        ("tasks/list?include_performance_stats=maybe", "include_performance_stats"),
        ("tasks/count", "start (as epoch) is required"),
        ("tasks/requests?include_performance_stats=true", "include_performance_stats"),
        ("tasks/get_states", "task_id is required"),
        ("bots/list?dimensions=os", "Invalid dimensions"),
        ("bots/list?is_dead=maybe", "is_dead"),
        ("bots/list?cursor=nonsense", "Invalid cursor"),
        (f"bots/list?cursor={'n' * 5_000}", f"Invalid cursor '{'n' * 50}…'"),
        (f"tasks/list?cursor={'n' * 5_000}", f"Invalid cursor '{'n' * 50}…'"),
        ("bots/list?cursor=cXVldWUgW10", "Invalid cursor"),  # of another listing
        ("queues/list?cursor=Ym90IGE", "Invalid cursor"),
        ("bot/x/events?cursor=Ym90IGE", "Invalid cursor"),
        ("bot/x/tasks?cursor=Ym90IGE", "Invalid cursor"),
    ],
)
async def test_bad_queries_get_400_with_the_reason(site: Site, path: str, reason: str) -> None:
    status, message = await site.refused("GET", path)
    assert status == 400
    assert reason in message


async def test_states_in_the_order_asked(site: Site) -> None:
    first = (await site.post("tasks/new", new_task()))["task_id"]
    second = (await site.post("tasks/new", new_task()))["task_id"]
    await site.post(f"task/{second}/cancel")
    found = await site.get(f"tasks/get_states?task_id={second}&task_id={first}")
    assert found == {"states": ["CANCELED", "PENDING"]}


async def test_bots(site: Site) -> None:
    for name in ("bot1", "bot2"):
        await site.bot("handshake", hello(name, os=["Linux", name]))
    listed = await site.get("bots/list")
    assert [bot["bot_id"] for bot in listed["items"]] == ["bot1", "bot2"]
    assert listed["death_timeout"] == "600"
    assert [bot["bot_id"] for bot in (await site.get("bots/list?dimensions=os:bot2"))["items"]] == ["bot2"]
    assert (await site.get("bots/list?is_busy=TRUE")).get("items") is None
    count = await site.get("bots/count?dimensions=os:Linux")
    assert {key: count[key] for key in count if key != "now"} == {
        "count": "2",
        "quarantined": "0",
        "maintenance": "0",
        "dead": "0",
        "busy": "0",
    }
    bot = await site.get("bot/bot1/get")
    assert {pair["key"]: pair["value"] for pair in bot["dimensions"]} == {
        "id": ["bot1"],
        "os": ["Linux", "bot1"],
        "pool": ["default"],
    }
    assert bot["authenticated_as"] == "bot:whitelisted-ip"
    assert (await site.refused("GET", "bot/bot3/get"))[0] == 404


async def test_the_tasks_and_events_of_a_bot(site: Site) -> None:
    await site.bot("handshake", hello())
    task_id = await run_one(site, new_task())
    runs = (await site.get("bot/bot1/tasks?sort=STARTED_TS&fields%3Ditems="))["items"]
    assert [run["task_id"] for run in runs] == [task_id[:-1] + "1"]
    await site.scheduler.close()
    events = [event["event_type"] for event in (await site.get("bot/bot1/events"))["items"]]
    assert {"bot_connected", "request_task", "task_completed"} <= set(events)


async def test_terminate_and_delete(site: Site) -> None:
    await site.bot("handshake", hello())
    task_id = (await site.post("bot/bot1/terminate"))["task_id"]
    asked = await site.get(f"task/{task_id}/request")
    assert (asked["name"], asked["priority"], asked["properties"]["dimensions"]) == (
        "Terminate bot1",
        "0",
        [{"key": "id", "value": "bot1"}],
    )
    assert (await site.bot("poll", hello()))[1] == {"cmd": "terminate", "task_id": task_id[:-1] + "1"}
    assert await site.post("bot/bot1/delete") == {"deleted": True}
    assert (await site.refused("POST", "bot/bot1/delete"))[0] == 404
    assert (await site.refused("POST", "bot/bot9/terminate"))[0] == 404


async def test_details_and_permissions(site: Site) -> None:
    details = await site.get("server/details")
    assert (details["server_version"], details["bot_version"]) == ("0.1.0", "v1")
    assert details["default_isolate_server"] == site.url
    permissions = await site.get("server/permissions")
    assert permissions["cancel_task"] is True
    assert permissions["get_bootstrap_token"] is True
    assert (await site.refused("GET", "server/permissions?task_id=5cee488008810"))[0] == 404


async def test_wrong_methods_and_unknown_calls_are_json(site: Site) -> None:
    assert (await site.call("GET", API + "tasks/new"))[0] == 405
    assert (await site.call("GET", API + "no/such/call"))[0] == 404


@pytest.mark.parametrize("body", [[], "x", {"name": 1}, {"priority": "x"}])
async def test_malformed_bodies_get_400(site: Site, body: Any) -> None:
    assert (await site.refused("POST", "tasks/new", body))[0] == 400
