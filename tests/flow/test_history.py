"""Random clients and bots against a real server that is killed again and again: nothing is lost, nothing runs twice."""

from __future__ import annotations

import asyncio
import base64
import random
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from tests import raw_http
from tests.flow.servers import ServerProcess
from tests.history import FINAL, History, Run

API = "/_ah/api/swarming/v1/"
BOT = "/swarming/api/v1/bot/"
KILLS = 6
CLIENTS, BOTS = 3, 5
TASKS_EACH = 40
SETTLE_S = 60.0  # for all tasks to end once nobody is killed any more; a healthy server needs a second or two
SEED = 20_201_122


class World:
    """A server that comes and goes, and those who use it."""

    def __init__(self, data: Path) -> None:
        self.data, self.server = data, ServerProcess(data)
        self.history, self.rng = History(), random.Random(SEED)
        self.is_over = False

    def now(self) -> float:
        return asyncio.get_running_loop().time()

    async def call(self, method: str, path: str, body: Any = None, headers: Mapping[str, str] | None = None) -> Any:
        """Make a call until it is answered; returns (status, body)."""
        while True:
            try:
                async with asyncio.timeout(10):
                    status, reply = await raw_http.call(self.server.port, method, path, body, headers)
            except (OSError, TimeoutError):
                status, reply = 0, None
            if status not in {0, 503}:
                return status, reply
            await asyncio.sleep(self.rng.uniform(0.01, 0.05))  # the pause of a retry, not a wait for a condition

    async def restart(self) -> None:
        """Pull the plug and start again on the same port."""
        port = self.server.port
        self.server.kill()
        self.server = await asyncio.to_thread(ServerProcess, self.data, port=port)

    async def client(self) -> None:
        """Submit tasks, some of them equal, and withdraw some."""
        for _ in range(TASKS_EACH):
            name = str(uuid.UUID(int=self.rng.getrandbits(128), version=4))
            idempotent = self.rng.random() < 0.4
            command = ["build", str(self.rng.randrange(12))] if idempotent else ["run"]
            properties = {
                "command": command,
                "dimensions": [{"key": "pool", "value": "default"}],
                "execution_timeout_secs": 60,
                "idempotent": idempotent,
            }
            part = {"expiration_secs": 600, "properties": properties, "wait_for_capacity": True}
            body = {"name": name, "priority": 100, "request_uuid": name, "task_slices": [part]}
            status, reply = await self.call("POST", API + "tasks/new", body)
            assert status == 200, reply
            self.history.tasks[name] = reply["task_id"]
            if self.rng.random() < 0.15:
                status, reply = await self.call("POST", f"{API}task/{reply['task_id']}/cancel", {"kill_running": True})
                assert status == 200, reply

    async def bot(self, bot_id: str) -> None:
        """Take and run tasks; now and then die in the middle and come back as somebody new."""
        while not self.is_over:
            session = uuid.UUID(int=self.rng.getrandbits(128)).hex
            headers = {"X-Isolate-Session": session, "X-Isolate-Wait": "1"}
            state = {"running_time": 1.0, "sleep_streak": 0}
            hello = {"dimensions": {"id": [bot_id], "pool": ["default"]}, "state": state, "version": "v"}
            await self.call("POST", BOT + "handshake", hello, headers)
            while not self.is_over:
                status, command = await self.call("POST", BOT + "poll", hello, headers)
                assert status == 200, command
                if command["cmd"] == "run" and not await self.work(bot_id, command["manifest"]["task_id"], headers):
                    break

    async def work(self, bot_id: str, run_id: str, headers: Mapping[str, str]) -> bool:
        """Run one task; returns False when the bot died of it."""
        about = {"id": bot_id, "task_id": run_id, "cost_usd": 0.0}
        status, reply = await self.call("POST", BOT + "task_update", about, headers)
        if status != 200 or reply["must_stop"]:
            if status == 200:
                await self.call("POST", BOT + "task_update", {**about, "canceled": True, "exit_code": -1}, headers)
            return True
        run = Run(run_id, bot_id, self.now())
        self.history.runs.append(run)
        try:
            for number in range(self.rng.randrange(3)):
                text = f"{run_id} line {number}\n".encode()
                chunk = {"output": base64.b64encode(text).decode(), "output_chunk_start": len(run.printed)}
                if self.rng.random() < 0.05:
                    return False
                status, reply = await self.call("POST", BOT + "task_update", {**about, **chunk}, headers)
                if status != 200:
                    return True
                run.printed += text
                if reply["must_stop"]:
                    break
            run.duration = self.rng.random()
        finally:
            run.stopped_s = self.now()
        last = {**about, "exit_code": 0, "duration": run.duration}
        status, _ = await self.call("POST", BOT + "task_update", last, headers)
        run.acknowledged = status == 200
        return True

    async def settle(self) -> dict[str, Any]:
        """Return the results of all tasks once all are final."""
        async with asyncio.timeout(SETTLE_S):
            while True:
                found: dict[str, Any] = {}
                cursor = ""
                while cursor is not None:
                    _, page = await self.call("GET", f"{API}tasks/list?limit=1000&cursor={cursor}")
                    found |= {item["task_id"]: item for item in page.get("items", ())}
                    cursor = page.get("cursor")
                if all(item["state"] in FINAL for item in found.values()):
                    return found
                await asyncio.sleep(0.2)  # the interval of a poll


@pytest.mark.slow
async def test_random_kills_of_the_server(tmp_path: Path) -> None:
    world = World(tmp_path / "data")
    try:
        async with asyncio.TaskGroup() as group:
            clients = [group.create_task(world.client()) for _ in range(CLIENTS)]
            bots = [group.create_task(world.bot(f"bot{number}")) for number in range(BOTS)]
            for _ in range(KILLS):
                await asyncio.sleep(world.rng.uniform(0.1, 0.6))  # when to pull the plug
                await world.restart()
            await asyncio.wait(clients)
            results = await world.settle()
            world.is_over = True
            await asyncio.wait(bots)
        outputs = {
            task_id: (await world.call("GET", f"{API}task/{task_id}/stdout"))[1].get("output", "")
            for task_id in results
        }
        assert len(world.history.tasks) == CLIENTS * TASKS_EACH
        assert list(world.history.violations(results, outputs)) == []
        assert any(result.get("deduped_from") for result in results.values())
        assert any(result["state"] == "CANCELED" for result in results.values())
    finally:
        world.server.kill()
