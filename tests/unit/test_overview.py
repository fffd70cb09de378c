"""What people ask about everything: over the REST API, with a scheduler in memory."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from server.bot_groups import BotGroups
from server.settings import Settings
from tests.unit.server_site import API, Site, hello, new_task, running_site


@pytest.fixture
async def site() -> AsyncIterator[Site]:
    async with running_site() as running:
        yield running


async def new(site: Site, *tags: str, **dimensions: str) -> str:
    wanted = [{"key": key, "value": value} for key, value in {"pool": "default", **dimensions}.items()]
    body = new_task(tags=list(tags), properties={"dimensions": wanted})
    task_id: str = (await site.post("tasks/new", body))["task_id"]
    return task_id


async def test_tasks_are_cancelled_by_tags_page_by_page(site: Site) -> None:
    wanted = [await new(site, "build:7", "os:any") for _ in range(5)]
    other = await new(site, "build:8")
    matched, cursor, calls = 0, None, 0
    while calls == 0 or cursor:
        reply = await site.post("tasks/cancel", {"tags": ["build:7", "os:any"], "limit": 2, "cursor": cursor})
        matched, cursor, calls = matched + int(reply["matched"]), reply.get("cursor"), calls + 1
    assert (matched, calls) == (5, 3)
    query = "&".join(f"task_id={one}" for one in [*wanted, other])
    assert (await site.get(f"tasks/get_states?{query}"))["states"] == ["CANCELED"] * 5 + ["PENDING"]


async def test_running_tasks_are_cancelled_only_when_asked_for(site: Site) -> None:
    await site.bot("handshake", hello())
    task_id = await new(site, "build:7")
    _, command = await site.bot("poll", hello())
    update = {"id": "bot1", "task_id": command["manifest"]["task_id"], "cost_usd": 0.0}
    await site.bot("task_update", update)
    assert (await site.post("tasks/cancel", {"tags": ["build:7"]}))["matched"] == "0"
    assert (await site.post("tasks/cancel", {"tags": ["build:7"], "kill_running": True}))["matched"] == "1"
    assert (await site.bot("task_update", update))[1]["must_stop"] is True
    assert (await site.get(f"task/{task_id}/result"))["state"] == "RUNNING"


async def test_what_is_to_be_cancelled_may_stand_in_the_query(site: Site) -> None:
    await site.bot("handshake", hello())
    waits, task_id = await new(site, "build:8", os="any"), await new(site, "build:7")
    _, command = await site.bot("poll", hello())
    run_id = command["manifest"]["task_id"]
    await site.bot("task_update", {"id": "bot1", "task_id": run_id, "cost_usd": 0.0})
    assert (await site.post("tasks/cancel?tags=build:8&tags=os:any&limit=1"))["matched"] == "1"
    assert (await site.get(f"tasks/get_states?task_id={waits}&task_id={task_id}"))["states"] == ["CANCELED", "RUNNING"]
    assert (await site.post("tasks/cancel?tags=build:7"))["matched"] == "0"
    refused = {"ok": False, "was_running": True}
    assert await site.post(f"task/{run_id}/cancel?kill_running=true", {"kill_running": False}) == refused
    assert await site.post(f"task/{run_id}/cancel?kill_running=true") == {"ok": True, "was_running": True}
    assert (await site.refused("POST", f"task/{task_id}/cancel?kill_running=7", {}))[0] == 400


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ({}, "You must specify tags when cancelling multiple tasks."),
        ({"tags": ["x"]}, "key:value"),
        ({"tags": ["a:b"], "limit": 0}, "limit"),
        ({"tags": ["a:b"], "limit": 1001}, "limit"),
        ({"tags": ["a:b"], "cursor": "x"}, "cursor"),
    ],
)
async def test_what_cannot_be_cancelled(site: Site, body: object, reason: str) -> None:
    status, message = await site.refused("POST", "tasks/cancel", body)
    assert status == 400
    assert reason in message


async def test_tags_of_recent_tasks(site: Site) -> None:
    for number in range(3):
        await new(site, f"build:{number}")
    found = {pair["key"]: pair.get("value") for pair in (await site.get("tasks/tags"))["tasks_tags"]}
    assert (found["build"], found["pool"], found["user"]) == (["0", "1", "2"], ["default"], ["none"])
    await new(site, "build:3")
    assert {p["key"]: p["value"] for p in (await site.get("tasks/tags"))["tasks_tags"]}["build"] == ["0", "1", "2"]
    for number in range(4, 128):
        await new(site, f"build:{number}")
    site.clock.advance(60)
    last = {pair["key"]: pair.get("value") for pair in (await site.get("tasks/tags"))["tasks_tags"]}
    assert last["build"] is None  # too many to list


async def test_queues_in_use(site: Site) -> None:
    await site.bot("handshake", hello())
    await site.post("bot/bot1/terminate")
    for os in ("b", "a|b", "a"):
        await new(site, os=os)
    page = await site.get("queues/list?limit=2")
    rest = await site.get(f"queues/list?limit=2&cursor={page['cursor']}")
    assert "cursor" not in rest
    assert [queue["dimensions"] for queue in page["items"] + rest["items"]] == [
        ["os:a", "pool:default"],
        ["os:a|b", "pool:default"],
        ["os:b", "pool:default"],
    ]
    assert page["items"][0]["valid_until_ts"] > page["now"]
    assert (await site.refused("GET", "queues/list?cursor=%21"))[0] == 400


async def test_dimensions_of_bots(site: Site) -> None:
    assert await site.refused("GET", "bots/dimensions") == (404, "No bot has come yet")
    await site.bot("handshake", hello("one", os=["Linux", "Debian"]))
    await site.bot("handshake", hello("two", os=["Linux"], pool=["other"]))
    found = (await site.get("bots/dimensions"))["bots_dimensions"]
    assert found == [{"key": "os", "value": ["Debian", "Linux"]}, {"key": "pool", "value": ["default", "other"]}]
    found = (await site.get("bots/dimensions?pool=other"))["bots_dimensions"]
    assert found == [{"key": "os", "value": ["Linux"]}, {"key": "pool", "value": ["other"]}]
    assert (await site.refused("GET", "bots/dimensions?pool=nowhere"))[0] == 404


async def test_a_pending_task_says_why(site: Site) -> None:
    await site.bot("handshake", hello("idle", os=["Linux"]))
    await site.bot("handshake", hello("windows", os=["Windows"]))
    ill = hello("ill", os=["Linux"])
    ill["state"]["quarantined"] = "disk full"
    await site.bot("handshake", ill)
    first = await new(site, os="Linux")
    second = await new(site, os="Linux")
    why = (await site.get(f"task/{second}/result"))["pending"]
    assert (why["bots_known"], why["bots_capable"], why["bots_ready"], why["ahead_in_queue"]) == ("3", "2", "1", "1")
    assert why["bots"] == [
        {"bot_id": "idle", "reason": "ready"},
        {"bot_id": "ill", "reason": "quarantined"},
        {"bot_id": "windows", "reason": "lacks os:Linux"},
    ]
    await site.bot("poll", hello("idle", os=["Linux"]))
    site.clock.advance(1)
    why = (await site.get(f"task/{second}/result"))["pending"]
    assert why["summary"] == "2 of 3 bots could run it, none of them now; 0 tasks of its queue go first"
    assert {"reason": "busy", "bots": "1"} in why["reasons"]
    run_id = first[:-1] + "1"
    await site.bot("task_update", {"id": "idle", "task_id": run_id})
    assert "pending" not in await site.get(f"task/{first}/result")
    listed = await site.get("tasks/list?fields=items(task_id,state)")
    assert listed == {"items": [{"task_id": second, "state": "PENDING"}, {"task_id": first, "state": "RUNNING"}]}


@pytest.mark.parametrize(
    ("settings", "summary", "reason"),
    [
        (Settings(pause_bots=True), "1 of 1 bots could run it, none of them now; 0", "paused by server.toml"),
        (Settings(groups=BotGroups(default=None)), "None of 1 bots may run it", "refused by bots.toml"),
    ],
)
async def test_a_bot_that_the_settings_give_no_work_is_not_ready(
    site: Site, settings: Settings, summary: str, reason: str
) -> None:
    await site.bot("handshake", hello())
    task_id = await new(site)
    assert (await site.get(f"task/{task_id}/result"))["pending"]["bots_ready"] == "1"
    site.scheduler.configure(settings.policy, settings.limits)
    why = (await site.get(f"task/{task_id}/result"))["pending"]
    assert (why["bots_ready"], why["bots"]) == ("0", [{"bot_id": "bot1", "reason": reason}])
    assert why["summary"].startswith(summary)


async def test_discovery_describes_every_call(site: Site) -> None:
    root = site.url.replace("127.0.0.1", "localhost")
    _, directory = await site.call("GET", "/_ah/api/discovery/v1/apis", headers={"Host": root[7:]})
    (item,) = [one for one in directory["items"] if one["id"] == "swarming:v1"]
    assert item["discoveryRestUrl"] == f"{root}/_ah/api/discovery/v1/apis/swarming/v1/rest"
    _, document = await site.call("GET", "/_ah/api/discovery/v1/apis/swarming/v1/rest")
    assert document["baseUrl"] == f"{site.url}/_ah/api/swarming/v1/"
    method = document["resources"]["task"]["methods"]["result"]
    assert (method["httpMethod"], method["path"], method["parameterOrder"]) == (
        "GET",
        "task/{task_id}/result",
        ["task_id"],
    )
    assert document["resources"]["tasks"]["methods"]["new"]["request"] == {"$ref": "NewTaskRequest"}
    assert document["schemas"]["TaskResult"]["properties"]["exit_code"] == {"type": "string", "format": "int64"}
    assert (await site.call("GET", "/_ah/api/discovery/v1/apis/nothing/v1/rest"))[0] == 404


async def test_the_page_of_the_api_names_every_call(site: Site) -> None:
    status, text, headers = await site.page("/api/")
    assert status == 200
    assert headers["Content-Security-Policy"].startswith("default-src 'none'")
    assert "GET /_ah/api/swarming/v1/task/{task_id}/result" in text
    assert '<a href="#TaskResult">TaskResult</a>' in text


@pytest.mark.parametrize("path", ["tasks/new", "task/5cee488008810/result", "server/details"])
async def test_options_say_what_may_be_asked_but_not_by_whom(site: Site, path: str) -> None:
    async with site.session.options(site.url + API + path) as response:
        assert response.status == 200
        assert "POST" in response.headers["Access-Control-Allow-Methods"]
        assert "Access-Control-Allow-Origin" not in response.headers


async def test_the_script_that_starts_a_bot(site: Site) -> None:
    assert await site.post("server/token") == {"bootstrap_token": ""}
    content = (await site.get("server/get_bootstrap"))["content"]
    compile(content, "bootstrap", "exec")
    assert f"host_url = '{site.url}'" in content
