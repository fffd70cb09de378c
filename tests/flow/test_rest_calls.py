"""Every call of the client API, and what bots may say of themselves, seen by a client that shares no code with us.

The names and spellings here are those of 2020, written down by hand: nothing is taken from the tables of the server.
"""

from __future__ import annotations

import base64
import re
import time
from typing import Any
from urllib.parse import quote

from tests import raw_http
from tests.flow.raw_swarming import BASES, BOT, asked, said
from tests.flow.servers import ServerProcess

TS = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{6})?")
UNKNOWN = "5cee488008810"


class Caller:
    """Someone who knows the documents of 2020 and a port."""

    def __init__(self, server: ServerProcess) -> None:
        self._port = server.port

    async def get(self, path: str, base: str = BASES[0]) -> dict[str, Any]:
        status, reply = await raw_http.call(self._port, "GET", base + path)
        assert status == 200, (path, reply)
        return dict(reply)

    async def post(self, path: str, body: Any = None) -> dict[str, Any]:
        status, reply = await raw_http.call(self._port, "POST", BASES[0] + path, body)
        assert status == 200, (path, reply)
        return dict(reply)

    async def refused(self, method: str, path: str, body: Any = None) -> tuple[int, str]:
        status, reply = await raw_http.call(self._port, method, BASES[0] + path, body)
        return status, reply["error"]["message"]

    async def bot(self, call: str, body: Any) -> dict[str, Any]:
        status, reply = await raw_http.call(self._port, "POST", BOT + call, body)
        assert status == 200, (call, reply)
        return dict(reply)

    async def ended(self, bot_id: str, **fields: Any) -> str:
        """Play the next task of a bot to its end; returns the run id."""
        command = await self.bot("poll", said(bot_id))
        assert command["cmd"] == "run", command
        run_id = str(command["manifest"]["task_id"])
        about = {"id": bot_id, "task_id": run_id}
        await self.bot("task_update", {**about, "cost_usd": 0.25, "output": "aGVsbG8K", "output_chunk_start": 0})
        await self.bot(f"task_update/{run_id}", {**about, "cost_usd": 0.5, "exit_code": 0, "duration": 1.5, **fields})
        return run_id


async def test_every_call_of_2020(server: ServerProcess) -> None:
    you = Caller(server)
    await you.bot("handshake", said("bot1"))
    secret = base64.b64encode(b"hush").decode()
    made = await you.post("tasks/new", asked("first", "a:b", secret_bytes=secret, env=[{"key": "K", "value": "v"}]))
    task_id = made["task_id"]
    run_id = task_id[:-1] + "1"
    assert re.fullmatch(r"[0-9a-f]{14}10", task_id)
    assert made["task_result"]["state"] == "PENDING"
    assert made["request"]["properties"]["secret_bytes"] == base64.b64encode(b"<REDACTED>").decode()
    assert made["request"]["priority"] == "100"
    expected = {"a:b", "pool:default", "priority:100", "realm:none", "service_account:none", "user:joe"}
    assert expected < set(made["request"]["tags"])
    assert made["request"]["tags"] == sorted(made["request"]["tags"])

    waiting = await you.get(f"task/{task_id}/result")
    assert (waiting["state"], "bot_id" in waiting, waiting["pending"]["bots_ready"]) == ("PENDING", False, "1")
    manifest = (await you.bot("poll", said("bot1")))["manifest"]
    assert base64.b64decode(manifest["secret_bytes"]) == b"hush"
    assert await you.ended("bot1", bot_overhead=0.1) == run_id
    result = await you.get(f"task/{task_id}/result?include_performance_stats=true")
    assert (result["state"], result["exit_code"], result["failure"]) == ("COMPLETED", "0", False)
    assert (result["run_id"], result["try_number"], result["costs_usd"]) == (run_id, "1", [0.5])
    assert result["performance_stats"]["bot_overhead"] == 0.1
    assert all(TS.fullmatch(result[key]) for key in ("created_ts", "started_ts", "completed_ts", "modified_ts"))
    run = await you.get(f"task/{run_id}/result", BASES[1])
    assert (run["task_id"], "tags" in run, "user" in run) == (run_id, False, False)
    assert (await you.get(f"task/{run_id}/request"))["name"] == "first"
    assert (await you.get(f"task/{task_id}/stdout?offset=1&length=3"))["output"] == "ell"

    other = (await you.post("tasks/new", asked("second", "a:b")))["task_id"]
    third = (await you.post("tasks/new", asked("third", "c:d")))["task_id"]
    assert await you.post(f"task/{third}/cancel", {"kill_running": False}) == {"ok": True, "was_running": False}
    page = await you.get("tasks/list?limit=2")
    assert [one["name"] for one in page["items"]] == ["third", "second"]
    page = await you.get(f"tasks/list?limit=2&cursor={quote(page['cursor'])}")
    assert [one["name"] for one in page["items"]] == ["first"]
    assert "cursor" not in page
    assert [one["name"] for one in (await you.get("tasks/requests?tags=a:b&state=COMPLETED"))["items"]] == ["first"]
    states = await you.get(f"tasks/get_states?task_id={third}&task_id={run_id}")
    assert states == {"states": ["CANCELED", "COMPLETED"]}
    assert (await you.get("tasks/count?start=0&state=ALL"))["count"] == "3"
    assert {"key": "a", "value": ["b"]} in (await you.get("tasks/tags"))["tasks_tags"]
    queues = [set(one["dimensions"]) for one in (await you.get("queues/list"))["items"]]
    assert {"pool:default"} in queues
    assert (await you.post("tasks/cancel", {"tags": ["a:b"]}))["matched"] == "1"
    assert (await you.get(f"task/{other}/result"))["state"] == "CANCELED"

    assert (await you.get("bot/bot1/get"))["version"] == "v1"
    assert [one["bot_id"] for one in (await you.get("bots/list?dimensions=os:Ubuntu&is_dead=FALSE"))["items"]] == [
        "bot1"
    ]
    assert (await you.get("bots/count?dimensions=os:Linux"))["count"] == "1"
    assert {"key": "os", "value": ["Linux", "Ubuntu"]} in (await you.get("bots/dimensions"))["bots_dimensions"]
    assert [one["task_id"] for one in (await you.get("bot/bot1/tasks"))["items"]] == [run_id]
    assert isinstance((await you.get("bot/bot1/events?limit=5"))["now"], str)
    leave = (await you.post("bot/bot1/terminate"))["task_id"]
    assert (await you.bot("poll", said("bot1"))) == {"cmd": "terminate", "task_id": leave[:-1] + "1"}
    await you.bot("task_update", {"id": "bot1", "task_id": leave[:-1] + "1", "duration": 0, "exit_code": 0})
    assert (await you.get(f"task/{leave}/result"))["state"] == "COMPLETED"
    assert await you.post("bot/bot1/delete") == {"deleted": True}
    assert (await you.refused("POST", "bot/bot1/delete"))[0] == 404

    details = await you.get("server/details?fields=server_version")
    assert list(details) == ["server_version"]
    assert (await you.get("server/permissions"))["cancel_task"] is True
    assert await you.post("server/token") == {"bootstrap_token": ""}  # on loopback none is needed
    assert "content" in await you.get("server/get_bootstrap")
    assert isinstance(await you.get("server/get_bot_config"), dict)


ERRORS: list[tuple[str, str, Any, int]] = [
    ("GET", "task/xyz/result", None, 400),
    ("GET", f"task/{UNKNOWN}/result", None, 404),
    ("GET", f"task/{UNKNOWN}/request", None, 404),
    ("GET", f"task/{UNKNOWN}/stdout", None, 404),
    ("POST", f"task/{UNKNOWN}/cancel", {}, 404),
    ("GET", f"tasks/get_states?task_id={UNKNOWN}", None, 404),
    ("GET", "bot/nobody/get", None, 404),
    ("GET", "bot/nobody/events", None, 404),
    ("POST", "bot/nobody/terminate", {}, 404),
    ("GET", "bots/dimensions?pool=nowhere", None, 404),
    ("GET", "tasks/list?sort=COMPLETED_TS&tags=a:b", None, 400),
    ("POST", "tasks/cancel", {}, 400),
    ("POST", "tasks/new", {"name": "n"}, 400),
    ("GET", "no/such/call", None, 404),
    ("POST", "tasks/list", {}, 405),
]


async def test_errors_are_json_with_a_message(server: ServerProcess) -> None:
    for method, path, body, status in ERRORS:
        found, message = await Caller(server).refused(method, path, body)
        assert found == status, (path, message)
        assert message


async def test_what_bots_say_of_themselves_counts(server: ServerProcess) -> None:
    you = Caller(server)
    await you.bot("handshake", said("leased"))
    soon = {"lease_expiration_ts": time.time() + 200}  # 60 s of command, 3 x 30 s of grace and 300 s do not fit
    made = await you.post("tasks/new", asked("long", bot_id="leased"))
    assert (await you.bot("poll", said("leased", soon)))["cmd"] == "sleep"
    assert (await you.bot("poll", said("leased", {"lease_expiration_ts": time.time() + 600})))["cmd"] == "run"
    await you.ended("leased", cost_usd=1.25)
    assert (await you.get(f"task/{made['task_id']}/result"))["costs_usd"] == [1.25]

    for dice in range(20):  # between 90 and 110 % of the period, always the same for one start of a bot

        def after(running_s: float, start: int = dice) -> dict[str, Any]:
            return said("old", {"periodic_reboot_secs": 1000, "running_time": running_s, "started_ts": float(start)})

        assert (await you.bot("poll", after(899)))["cmd"] == "sleep"
        command = await you.bot("poll", after(1101))
        assert command == {"cmd": "restart", "message": "Periodic reboot: running longer than 1000s"}

    for state in ({"quarantined": "disk is hot"}, {"maintenance": "new disk"}):
        assert (await you.bot("poll", said("ill", state)))["quarantined"] is True
        info = await you.get("bot/ill/get")
        assert (info["quarantined"], info.get("maintenance_msg")) == ("quarantined" in state, state.get("maintenance"))
    assert (await you.bot("poll", said("ill", quarantined=["yes"])))["quarantined"] is True
    assert (await you.get("bots/count"))["quarantined"] == "1"

    stale = await you.bot("poll", said("grouped", {"bot_group_cfg_version": "an older one"}))
    assert stale == {"cmd": "bot_restart", "message": "Restarting to pick up new bots.cfg config"}
    current = (await you.bot("handshake", said("grouped")))["bot_group_cfg_version"]
    assert (await you.bot("poll", said("grouped", {"bot_group_cfg_version": current})))["cmd"] == "sleep"

    source = ("source_repo:https://example.com/r", "source_revision:abc123")
    made = await you.post("tasks/new", asked("sourced", *source))
    assert set(source) < set((await you.get(f"task/{made['task_id']}/result"))["tags"])
