"""Someone who knows the documents of 2020 and a server: shares no code with it.

`get`, `post` and `bot` are for calls that succeed, `refusal` is for those that get 400. `rest_server` is one server for
all tests of a module, none of which minds the tasks of another; it has a bot called `bot1`.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tests.flow.servers import ServerProcess, running_server

BASES = ("/_ah/api/swarming/v1/", "/api/swarming/v1/")
BOT = "/swarming/api/v1/bot/"


@pytest.fixture(scope="module")
def rest_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """A server for one module."""
    with running_server(tmp_path_factory.mktemp("rest") / "data") as process:
        bot(process, "handshake", said("bot1"))
        yield process


def said(bot_id: str, state: dict[str, Any] | None = None, **dimensions: list[str]) -> dict[str, Any]:
    """Return what a bot says with every poll."""
    return {
        "dimensions": {"id": [bot_id], "pool": ["default"], "os": ["Linux", "Ubuntu"], **dimensions},
        "state": {"running_time": 10.0, "sleep_streak": 0, "started_ts": 1.0, **(state or {})},
        "version": "v1",
    }


def asked(name: str, *tags: str, bot_id: str | None = None, **properties: Any) -> dict[str, Any]:
    """Return the body of tasks/new."""
    wanted = [{"key": "pool", "value": "default"}] + ([{"key": "id", "value": bot_id}] if bot_id else [])
    what = {"command": ["true"], "dimensions": wanted, "execution_timeout_secs": "60", **properties}
    part = {"expiration_secs": 600, "properties": what, "wait_for_capacity": True}
    return {"name": name, "priority": 100, "user": "joe", "tags": list(tags), "task_slices": [part]}


def bot(server: ServerProcess, call: str, body: Any) -> Any:
    """Return the reply to a bot."""
    status, reply = server.call("POST", BOT + call, body)
    assert status == 200, (call, reply)
    return reply


def get(server: ServerProcess, path: str) -> Any:
    status, reply = server.call("GET", BASES[0] + path)
    assert status == 200, (path, reply)
    return reply


def post(server: ServerProcess, path: str, body: Any = None) -> Any:
    status, reply = server.call("POST", BASES[0] + path, {} if body is None else body)
    assert status == 200, (path, reply)
    return reply


def refusal(server: ServerProcess, method: str, path: str, body: Any = None) -> str:
    """Return why a call gets 400."""
    status, reply = server.call(method, BASES[0] + path, body)
    assert status == 400, (path, body, reply)
    return str(reply["error"]["message"])
