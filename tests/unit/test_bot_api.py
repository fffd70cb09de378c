"""The API for bots, in both dialects, over a scheduler in memory."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest

from server import bot_api
from server.bot_groups import BotGroup, BotGroups
from server.settings import Settings
from tests.unit.server_site import BOT, Site, hello, new_task, running_site

OF_2020 = Settings(groups=BotGroups(default=BotGroup(archive="of-2020.zip")))  # its bots of 2020 may be updated


@pytest.fixture
async def site() -> AsyncIterator[Site]:
    async with running_site() as running:
        yield running


async def offered(site: Site, session: str = "", bot_id: str = "bot1", **changes: Any) -> dict[str, Any]:
    """Trigger a task and poll for it; returns the manifest."""
    await site.bot("handshake", hello(bot_id), session)
    await site.post("tasks/new", new_task(**changes))
    _, command = await site.bot("poll", hello(bot_id), session)
    manifest: dict[str, Any] = command["manifest"]
    return manifest


async def waiting(site: Site, session: str, wait_s: float = 20) -> asyncio.Task[tuple[int, Any]]:
    """Start a long poll and return when the server holds it."""
    task = asyncio.get_running_loop().create_task(site.bot("poll", hello(), session, wait_s))
    while not site.polls._requests:
        await asyncio.sleep(0)
    return task


async def test_ping(site: Site) -> None:
    async with site.session.get(site.url + BOT + "server_ping") as response:
        assert await response.text() == "Server up"


async def test_a_handshake_never_asks_for_an_update(site: Site) -> None:
    status, reply = await site.bot("handshake", hello())
    assert status == 200
    assert reply == {
        "bot_version": "v1",
        "server_version": "0.1.0",
        "bot_group_cfg_version": "default",
        "bot_group_cfg": {"dimensions": {}},
    }


async def test_a_bot_of_2020_gets_exactly_what_it_knows(site: Site) -> None:
    manifest = await offered(site)
    assert len(manifest) == 23
    assert manifest["host"] == site.url
    assert manifest["isolated"]["namespace"] == "default-gzip"
    body = {"id": "bot1", "task_id": manifest["task_id"], "cost_usd": 0.1}
    assert await site.bot("task_update", body) == (200, {"must_stop": False, "ok": True})


async def test_a_bot_of_ours_is_told_how_often_to_report(site: Site) -> None:
    manifest = await offered(site, "s1")
    run_id = manifest["task_id"]
    status, reply = await site.bot(f"task_update/{run_id}", {"id": "bot1", "task_id": run_id}, "s1")
    assert (status, reply["must_stop"], reply["ok"]) == (200, False, True)
    assert 1 <= reply["update_every_s"] <= 10


async def test_nothing_to_do_is_a_sleep(site: Site) -> None:
    await site.bot("handshake", hello())
    status, reply = await site.bot("poll", hello())
    assert (status, reply["cmd"], reply["quarantined"]) == (200, "sleep", False)
    assert 1 <= reply["duration"] <= 60


@pytest.mark.parametrize("patient", [True, False])
async def test_a_long_poll_wakes_when_work_comes(site: Site, patient: bool) -> None:
    await site.bot("handshake", hello(), "s1")
    task = await waiting(site, "s1")
    body = new_task()
    body["task_slices"][0]["wait_for_capacity"] = patient
    await site.post("tasks/new", body)
    async with asyncio.timeout(20):
        status, reply = await task
    assert (status, reply["cmd"]) == (200, "run")


async def test_a_long_poll_ends_in_time(site: Site) -> None:
    await site.bot("handshake", hello(), "s1")
    task = await waiting(site, "s1", 5)
    site.clock.advance(6)
    await site.scheduler.tick()
    assert (await task)[1]["cmd"] == "sleep"


async def test_a_drain_releases_long_polls(site: Site) -> None:
    await site.bot("handshake", hello(), "s1")
    task = await waiting(site, "s1")
    site.polls.release()
    assert (await task)[1] == {"cmd": "sleep", "duration": 1.0, "quarantined": False}
    assert (await site.bot("poll", hello(), "s1", 20))[1]["cmd"] == "sleep"


async def test_a_poll_whose_bot_left_takes_no_task(site: Site) -> None:
    await site.bot("handshake", hello(), "s1")
    gone = await waiting(site, "s1")
    gone.cancel()
    await asyncio.wait([gone])
    while site.polls._requests:
        await site.polls.drop_gone()
        await asyncio.sleep(0)
    await site.bot("handshake", hello("bot2"), "s2")
    await site.post("tasks/new", new_task())
    assert (await site.bot("poll", hello("bot2"), "s2"))[1]["cmd"] == "run"


async def test_a_lost_lease_is_a_409_with_its_code(site: Site) -> None:
    manifest = await offered(site, "s1")
    run_id = manifest["task_id"]
    await site.bot("handshake", hello(), "s2")
    status, reply = await site.bot("task_update", {"id": "bot1", "task_id": run_id}, "s1")
    assert (status, reply["code"]) == (409, "lease_lost")


async def test_a_quarantined_bot_gets_no_work(site: Site) -> None:
    await site.post("tasks/new", new_task())
    body = hello() | {"state": {"running_time": 1}}
    assert (await site.bot("handshake", body))[0] == 200
    _, reply = await site.bot("poll", body)
    assert (reply["cmd"], reply["quarantined"]) == ("sleep", True)
    assert (await site.get("bots/list?quarantined=TRUE"))["items"][0]["quarantined"] is True


async def test_a_stale_configuration_restarts_the_bot(site: Site) -> None:
    body = hello()
    body["state"]["bot_group_cfg_version"] = "hash:old"
    _, reply = await site.bot("poll", body)
    assert reply == {"cmd": "bot_restart", "message": "Restarting to pick up new bots.cfg config"}


async def test_a_poll_is_answered_in_the_order_of_2020(site: Site) -> None:
    """Everything is the case at once, and one thing after the other ends."""
    await site.bot("handshake", hello())
    await site.post("tasks/new", new_task(priority=1))
    await site.post("bot/bot1/terminate")
    body = hello()
    old = {"bot_group_cfg_version": "hash:old"}
    body["state"] |= old | {"quarantined": "a fan", "maintenance": "new OS"}
    site.settings, site.bot_version = Settings(pause_bots=True), "newer"
    answers = []

    async def ask() -> dict[str, Any]:
        status, reply = await site.bot("poll", body)
        assert status == 200
        answers.append((reply["cmd"], reply.get("quarantined")))
        found: dict[str, Any] = reply
        return found

    await ask()
    site.settings = OF_2020
    await ask()
    site.bot_version = None
    await ask()
    del body["state"]["bot_group_cfg_version"]
    await ask()
    del body["state"]["quarantined"]
    await ask()
    del body["state"]["maintenance"]
    run_id = (await ask())["task_id"]
    await site.bot("task_update", {"id": "bot1", "task_id": run_id, "duration": 0, "exit_code": 0})
    run_id = (await ask())["manifest"]["task_id"]
    await site.bot("task_update", {"id": "bot1", "task_id": run_id, "duration": 0, "exit_code": 0})
    await ask()
    assert answers == [
        ("sleep", True),  # nobody gets work
        ("update", None),
        ("bot_restart", None),
        ("sleep", True),  # quarantined
        ("sleep", True),  # in maintenance
        ("terminate", None),
        ("run", None),
        ("sleep", False),
    ]


async def test_an_error_of_the_bot_ends_the_task(site: Site) -> None:
    manifest = await offered(site)
    run_id = manifest["task_id"]
    await site.bot("task_update", {"id": "bot1", "task_id": run_id})
    body = {"id": "bot1", "task_id": run_id, "message": "no disk"}
    assert await site.bot(f"task_error/{run_id}", body) == (200, {})
    result = await site.get(f"task/{run_id[:-1]}0/result")
    assert (result["state"], result["internal_failure"]) == ("BOT_DIED", True)


async def test_events(site: Site) -> None:
    assert await site.bot("event", hello() | {"event": "bot_error", "message": "hot"}) == (200, {})
    status, reply = await site.bot("event", hello() | {"event": "bot_missing", "message": ""})
    assert (status, reply) == (400, {"error": "Unsupported event type: bot_missing", "code": "invalid"})


async def test_what_a_bot_is_told_to_become_is_an_event(site: Site) -> None:
    await site.bot("handshake", hello())
    body = hello()
    body["state"] |= {"bot_group_cfg_version": "hash:old"}
    await site.bot("poll", body)
    site.settings, site.bot_version = OF_2020, "newer"
    await site.bot("poll", body)
    await site.scheduler.close()
    events = (await site.get("bot/bot1/events"))["items"]
    assert [(event["event_type"], event.get("message")) for event in events] == [
        ("request_update", "newer"),
        ("request_restart", bot_api.STALE),
        ("bot_connected", None),
    ]


async def test_a_bot_of_2020_is_updated_only_if_its_group_says_so(site: Site) -> None:
    site.bot_version = "newer"
    assert (await site.bot("handshake", hello()))[1]["bot_version"] == "v1"
    assert (await site.bot("poll", hello()))[1]["cmd"] == "sleep"
    site.settings = OF_2020
    assert (await site.bot("handshake", hello()))[1]["bot_version"] == "newer"
    assert (await site.bot("poll", hello()))[1] == {"cmd": "update", "version": "newer"}
    await site.bot("handshake", hello("ours"), "s1")
    assert (await site.bot("poll", hello("ours"), "s1"))[1]["cmd"] == "sleep"


async def test_a_pause_comes_before_the_question_who_asks(site: Site) -> None:
    site.settings = Settings(groups=BotGroups(default=None), pause_bots=True)
    asleep = {"cmd": "sleep", "duration": bot_api.PAUSE_S, "quarantined": True}
    assert await site.bot("poll", hello()) == (200, asleep)
    site.settings = Settings(groups=BotGroups(default=None))
    message = "Bot 'bot1' is in no group of bots.toml"
    assert await site.bot("poll", hello()) == (403, {"error": message, "code": "refused", "text": message})


async def test_calls_there_are_not_have_plain_errors_too(site: Site) -> None:
    status, reply = await site.call("GET", BOT + "handshake")
    assert (status, reply["code"]) == (405, "method_not_allowed")
    assert "POST" in reply["error"]
    assert await site.bot("dance", {}) == (404, {"error": "No such page or call", "code": "not_found"})
    status, reply = await site.call("POST", BOT + "poll", hello(), {"Host": "elsewhere"})
    assert (status, reply["text"]) == (403, reply["error"])
    assert (await site.call("GET", "/nowhere"))[1]["error"]["code"] == "not_found"


async def test_the_error_of_another_bot_is_a_mistake(site: Site) -> None:
    manifest = await offered(site)
    body = {"id": "bot2", "task_id": manifest["task_id"], "message": "m"}
    status, reply = await site.bot("task_error", body)
    assert (status, reply["code"]) == (400, "invalid")
    assert (await site.bot("task_error", body, "s2"))[0] == 400
    assert (await site.bot("task_error", {**body, "task_id": "5cee488008811"}))[0] == 400
    assert (await site.bot("task_update", {"id": "bot1", "task_id": manifest["task_id"]}))[0] == 200


async def test_no_account_has_a_token(site: Site) -> None:
    run_id = (await offered(site))["task_id"]
    mine = {"id": "bot1", "scopes": ["email"]}
    nobody = (200, {"service_account": "none"})
    assert await site.bot("oauth_token", {**mine, "account_id": "system"}) == nobody
    for_task = {**mine, "account_id": "task", "task_id": run_id}
    status, reply = await site.bot("oauth_token", for_task)
    assert (status, reply["error"]) == (400, f"Bot bot1 is not running task {run_id}")  # it is only offered
    await site.bot("task_update", {"id": "bot1", "task_id": run_id})
    assert await site.bot("oauth_token", for_task) == nobody
    wrong: list[dict[str, Any]] = [
        {"id": "bot2"},
        {"task_id": None},
        {"account_id": "root"},
        {"scopes": []},
        {"id": ""},
        {"task_id": "5cee488008811"},
    ]
    assert [(await site.bot("oauth_token", for_task | one))[0] for one in wrong] == [400] * len(wrong)


@pytest.mark.parametrize(
    ("call", "body", "reason"),
    [
        ("poll", {"dimensions": {}, "state": {}, "version": ""}, "id"),
        ("task_update", {"id": "b"}, "id and task_id are required"),
        ("task_update", {"id": "b", "task_id": "5cee488008811", "typo": 1}, "did you make a typo?"),
        ("task_update/5cee488008812", {"id": "b", "task_id": "5cee488008811"}, "not the one of the URL"),
        ("task_update", {"id": "b", "task_id": "5cee488008811", "exit_code": 0}, "unexpected duration"),
        ("task_error", {"message": "x"}, "id and task_id are required"),
        ("handshake", [], "must be a JSON object"),
    ],
)
async def test_bad_messages_get_400_with_a_plain_string(site: Site, call: str, body: Any, reason: str) -> None:
    status, reply = await site.bot(call, body)
    assert status == 400
    assert reason in reply["error"]


async def test_only_json_is_accepted(site: Site) -> None:
    status, reply = await site.call("POST", BOT + "poll", hello(), {"Content-Type": "text/plain"})
    assert status == 400
    assert "Expecting JSON body" in reply["error"]


@pytest.mark.parametrize("wait", ["-1", "soon", "nan", "inf"])
async def test_a_wait_that_is_no_time_is_refused(site: Site, wait: str) -> None:
    status, reply = await site.call("POST", BOT + "poll", hello(), {"X-Isolate-Wait": wait})
    assert status == 400
    assert "X-Isolate-Wait" in reply["error"]


async def test_an_endless_session_is_refused(site: Site) -> None:
    assert (await site.bot("poll", hello(), "s" * 65))[0] == 400


async def test_an_endless_description_is_refused(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    body = hello()
    monkeypatch.setattr(bot_api, "MAX_DESCRIPTION_BYTES", len(json.dumps(body)))
    assert (await site.bot("handshake", body))[0] == 200
    body["state"]["log"] = "x"
    for call, said in (("handshake", body), ("poll", body), ("event", body | {"event": "bot_log", "message": "m"})):
        status, reply = await site.bot(call, said)
        assert (status, "state and message have more than" in reply["error"]) == (400, True)


async def test_of_an_endless_error_the_beginning_is_kept(site: Site) -> None:
    run_id = (await offered(site))["task_id"]
    error = {"id": "bot1", "task_id": run_id, "message": "m" * (bot_api.MAX_ERROR_CHARS + 1)}
    assert await site.bot("task_error", error) == (200, {})
    view = await site.scheduler.view(run_id)
    assert view.attempt is not None
    assert len(view.attempt.reason) == bot_api.MAX_ERROR_CHARS
