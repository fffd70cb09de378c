"""Tasks and bots by hand: calls of the API of 2020, with no more in them than they need."""

from __future__ import annotations

from typing import Any

from tests.flow.servers import ServerProcess

API = "/_ah/api/swarming/v1/"
BOT = "/swarming/api/v1/bot/"


def new_task(**changes: Any) -> dict[str, Any]:
    properties = {
        "command": ["true"],
        "dimensions": [{"key": "pool", "value": "default"}],
        "execution_timeout_secs": 60,
    }
    part = {"expiration_secs": 3600, "properties": properties, "wait_for_capacity": True}
    return {"name": "n", "priority": 100, "task_slices": [part]} | changes


def hello(bot_id: str = "bot1") -> dict[str, Any]:
    return {"dimensions": {"id": [bot_id]}, "state": {"running_time": 1.0, "sleep_streak": 0}, "version": "v1"}


def trigger(server: ServerProcess, **changes: Any) -> str:
    status, reply = server.call("POST", API + "tasks/new", new_task(**changes))
    assert status == 200, reply
    return str(reply["task_id"])


def state(server: ServerProcess, task_id: str) -> str:
    status, reply = server.call("GET", f"{API}task/{task_id}/result")
    assert status == 200, reply
    return str(reply["state"])
