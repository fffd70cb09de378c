"""Whole tasks over HTTP against a real server, with bots played by hand in both dialects."""

from __future__ import annotations

import asyncio
import base64
import threading
from collections.abc import AsyncIterator
from typing import Any

import pytest

from isolate import isolated
from isolate.cas.block import Block
from isolate.cas.digest import Blob, Namespace
from isolate.cas.remote import HttpStore
from isolate.entries import Entry, Kind
from isolate.http import HttpClient
from tests.flow.hand import API, BOT, hello, new_task, state, trigger
from tests.flow.servers import ServerProcess

NAMESPACE = Namespace.parse("blake3-zstd")


class HandBot:
    """A bot whose every call is a line of the test."""

    def __init__(self, server: ServerProcess, bot_id: str = "bot1", session: str = "") -> None:
        self._server, self._id = server, bot_id
        self._headers = {"X-Isolate-Session": session} if session else {}

    def say(self, call: str, fields: Any = None, wait_s: int = 0) -> Any:
        body = hello(self._id) if fields is None else {"id": self._id, **fields}
        headers = self._headers | ({"X-Isolate-Wait": str(wait_s)} if wait_s else {})
        status, reply = self._server.call("POST", BOT + call, body, headers)
        assert status == 200, reply
        return reply


def played(server: ServerProcess, bot: HandBot, manifest: dict[str, Any]) -> dict[str, Any]:
    """Play a task to its end; returns its result."""
    run_id = manifest["task_id"]
    assert bot.say("task_update", {"task_id": run_id, "cost_usd": 0.0})["must_stop"] is False
    assert state(server, run_id[:-1] + "0") == "RUNNING"
    for start, piece in ((0, b"first\n"), (6, b"second \xff\n")):
        output = base64.b64encode(piece).decode()
        bot.say(f"task_update/{run_id}", {"task_id": run_id, "output": output, "output_chunk_start": start})
    final = {"task_id": run_id, "exit_code": 3, "duration": 1.25, "cost_usd": 0.5, "bot_overhead": 0.1}
    assert bot.say("task_update", final)["ok"] is True
    assert bot.say("task_update", final)["ok"] is True  # its reply was lost: the same again is fine
    status, result = server.call("GET", f"{API}task/{run_id[:-1]}0/result")
    assert status == 200
    return dict(result)


def check(server: ServerProcess, result: dict[str, Any]) -> None:
    assert (result["state"], result["exit_code"], result["failure"]) == ("COMPLETED", "3", True)
    assert (result["bot_id"], result["try_number"], result["duration"]) == ("bot1", "1", 1.25)
    output = server.call("GET", f"{API}task/{result['task_id']}/stdout")[1]
    assert (output["output"], output["state"]) == ("first\nsecond \ufffd\n", "COMPLETED")
    assert server.raw("GET", f"/task/output?id={result['task_id']}")[2] == b"first\nsecond \xff\n"


def test_a_bot_of_2020(server: ServerProcess) -> None:
    bot = HandBot(server)
    assert bot.say("handshake")["bot_version"] == "v1"
    assert bot.say("poll")["cmd"] == "sleep"
    trigger(server)
    command = bot.say("poll")
    assert command["cmd"] == "run"
    check(server, played(server, bot, command["manifest"]))


def test_a_bot_of_ours_is_woken(server: ServerProcess) -> None:
    bot = HandBot(server, session="session-1")
    bot.say("handshake")
    replies: list[Any] = []
    waiting = threading.Thread(target=lambda: replies.append(bot.say("poll", wait_s=30)), daemon=True)
    waiting.start()
    trigger(server)
    waiting.join(60)
    assert replies[0]["cmd"] == "run"
    assert bot.say("poll") == replies[0]  # asked again before it began: the same task
    check(server, played(server, bot, replies[0]["manifest"]))


def test_equal_idempotent_tasks_share_one_run(server: ServerProcess) -> None:
    bot = HandBot(server, session="session-1")
    bot.say("handshake")
    body = new_task()
    body["task_slices"][0]["properties"]["idempotent"] = True
    first, second = (server.call("POST", API + "tasks/new", body)[1]["task_id"] for _ in range(2))
    run_id = bot.say("poll")["manifest"]["task_id"]
    bot.say("task_update", {"task_id": run_id})
    third = server.call("POST", API + "tasks/new", body)[1]
    assert third["task_result"]["state"] == "RUNNING"
    bot.say("task_update", {"task_id": run_id, "exit_code": 0, "duration": 0.5})
    assert bot.say("poll")["cmd"] == "sleep"
    for task_id in (first, second, third["task_id"]):
        result = server.call("GET", f"{API}task/{task_id}/result")[1]
        assert (result["state"], result["run_id"]) == ("COMPLETED", run_id)
    reused = server.call("POST", API + "tasks/new", body)[1]["task_result"]
    assert (reused["state"], reused["deduped_from"]) == ("COMPLETED", run_id)


def test_a_new_session_takes_the_run_from_the_old_one(server: ServerProcess) -> None:
    old, new = HandBot(server, session="old"), HandBot(server, session="new")
    old.say("handshake")
    task_id = trigger(server)
    run_id = old.say("poll")["manifest"]["task_id"]
    old.say("task_update", {"task_id": run_id})
    new.say("handshake")
    headers = {"X-Isolate-Session": "old"}
    status, reply = server.call("POST", BOT + "task_update", {"id": "bot1", "task_id": run_id}, headers)
    assert (status, reply["code"]) == (409, "lease_lost")
    assert state(server, task_id) in {"BOT_DIED", "PENDING"}


@pytest.mark.parametrize("whole", [True, False])
async def test_inputs_are_looked_up_before_a_task_is_accepted(server: ServerProcess, whole: bool) -> None:
    contents = [b"print('hi')\n", b"data"]
    blobs = [NAMESPACE.blob(content) for content in contents]
    entries = [Entry(path, Kind.FILE, blob, 0o500) for path, blob in zip(("a.py", "b/c"), blobs, strict=True)]
    manifest = isolated.dumps(isolated.Manifest(algorithm=NAMESPACE.algorithm, entries=tuple(entries)))
    root = NAMESPACE.blob(manifest)
    stored: list[tuple[Blob, bytes]] = [(blobs[0], contents[0]), (root, manifest)]
    stored += [(blobs[1], contents[1])] * whole

    async def blocks() -> AsyncIterator[Block]:
        yield Block.pack(NAMESPACE.algorithm, stored, None)

    async with HttpClient(server.url, user_agent="test") as http:
        await HttpStore(http, NAMESPACE).write(blocks())
    body = new_task()
    ref = {"isolated": root.digest.hex(), "isolatedserver": server.url, "namespace": NAMESPACE.name}
    body["task_slices"][0]["properties"]["inputs_ref"] = ref
    status, reply = await asyncio.to_thread(server.call, "POST", API + "tasks/new", body)
    if whole:
        assert status == 200
        assert reply["request"]["properties"]["inputs_ref"] == ref
    else:
        assert status == 400
        assert "b/c" in reply["error"]["message"]
