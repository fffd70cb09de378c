"""Load on the scheduler: simulated bots and clients over the REST API of a real server.

A bot does what a bot does: handshake, long poll, an update that accepts the offer, a final update. Each task therefore
costs four requests, and the server commits before it answers each.
"""

from __future__ import annotations

import asyncio
import statistics
import time
import uuid
from dataclasses import dataclass, field
from typing import Any

from isolate.http import HttpClient
from swarming.client import API
from swarming.trigger import TaskSpec, requests

BOT_API = "/swarming/api/v1/bot"
BOTS = 64
CLIENTS = 16
PERCENT = 100


@dataclass
class TaskFigures:
    """What was measured: seconds for all tasks, and from creation to acceptance for each."""

    tasks: int
    wall_s: float = 0.0
    dispatch_s: list[float] = field(default_factory=list)

    def summary(self) -> str:
        cuts = statistics.quantiles(self.dispatch_s, n=PERCENT)
        rate = self.tasks / self.wall_s
        return (
            f"{rate:,.0f} tasks/s ({self.tasks:,} tasks, {BOTS} bots); "
            f"creation to acceptance p50 {cuts[49] * 1e3:.0f} ms, p99 {cuts[98] * 1e3:.0f} ms"
        )


async def measure_tasks(url: str, tasks: int) -> TaskFigures:
    """Run `tasks` tasks to their end; returns what it took."""
    figures = TaskFigures(tasks)
    created: dict[str, float] = {}
    left = asyncio.Queue[None]()
    for _ in range(tasks):
        left.put_nowait(None)
    ended = asyncio.Event()
    async with HttpClient(url, user_agent="bench", connections=BOTS + CLIENTS) as http:
        bots = [Bot(http, f"bench-{number}", created, figures, ended) for number in range(BOTS)]
        for bot in bots:
            await bot.handshake()
        started_s = time.perf_counter()
        async with asyncio.TaskGroup() as group:
            workers = [group.create_task(bot.work()) for bot in bots]
            for _ in range(CLIENTS):
                group.create_task(create(http, left, created))
            await ended.wait()
            figures.wall_s = time.perf_counter() - started_s
            for worker in workers:
                worker.cancel()
    return figures


async def create(http: HttpClient, left: asyncio.Queue[None], created: dict[str, float]) -> None:
    """Create tasks until enough are."""
    spec = TaskSpec(raw_command=True, command=("true",), name="bench", user="bench")
    while not left.empty():
        left.get_nowait()
        (request,) = requests(spec, lambda: str(uuid.uuid4()))
        asked_s = time.perf_counter()
        reply = await http.json("POST", f"{API}/tasks/new", body=request.body)
        created[reply["task_id"][:-1]] = asked_s


class Bot:
    """One simulated bot."""

    def __init__(
        self, http: HttpClient, bot_id: str, created: dict[str, float], figures: TaskFigures, ended: asyncio.Event
    ) -> None:
        self._http, self._id, self._created, self._figures, self._ended = http, bot_id, created, figures, ended
        self._headers = {"X-Isolate-Session": str(uuid.uuid4()), "X-Isolate-Wait": "20"}
        self._body = {
            "dimensions": {"id": [bot_id], "pool": ["default"]},
            "state": {"running_time": 1.0, "sleep_streak": 0},
            "version": "bench",
        }

    async def handshake(self) -> None:
        """Introduce the bot."""
        await self._call("handshake", self._body)

    async def work(self) -> None:
        """Take and finish tasks until cancelled."""
        while True:
            command = await self._call("poll", self._body)
            if command["cmd"] != "run":
                continue
            run_id = command["manifest"]["task_id"]
            update = {"id": self._id, "task_id": run_id, "cost_usd": 0.0}
            await self._call("task_update", update)
            accepted_s = time.perf_counter()
            await self._call("task_update", {**update, "exit_code": 0, "duration": 0.1})
            # A bot may be faster than the reply that tells the client its task's id.
            self._figures.dispatch_s.append(accepted_s - self._created.get(run_id[:-1], accepted_s))
            if len(self._figures.dispatch_s) == self._figures.tasks:
                self._ended.set()

    async def _call(self, method: str, body: object) -> Any:
        return await self._http.json("POST", f"{BOT_API}/{method}", body=body, headers=self._headers)
