"""Row 13: tasks created, claimed and completed over the REST API of a real server, as fast as it goes."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from bench.simulated import API, Bot, Histogram, new_task
from bench.simulated import BOT as BOT_API
from bench.wire import Wire, encoded

__all__ = ["BOTS", "BOT_API", "CLIENTS", "TaskFigures", "measure_tasks"]

BOTS = 64
CLIENTS = 16


@dataclass
class TaskFigures:
    """What was measured: seconds for all tasks, and for each kind of call."""

    tasks: int
    bots: int
    wall_s: float = 0.0
    made: Histogram = field(default_factory=lambda: Histogram("tasks/new"))
    claims: Histogram = field(default_factory=lambda: Histogram("poll that got a task"))
    updates: Histogram = field(default_factory=lambda: Histogram("task_update"))

    def summary(self) -> str:
        """Return the figures in a line."""
        return (
            f"{self.tasks / self.wall_s:,.0f} tasks/s ({self.tasks:,} tasks, {self.bots} bots, {CLIENTS} clients); "
            f"tasks/new p50 {self.made.quantile_ms(0.5):.0f} ms, p99 {self.made.quantile_ms(0.99):.0f} ms"
        )


async def measure_tasks(url: str, tasks: int, bots: int = BOTS) -> TaskFigures:
    """Run `tasks` tasks to their end; returns what it took."""
    host, port = str(urlsplit(url).hostname), int(urlsplit(url).port or 0)
    figures, left, done = TaskFigures(tasks, bots), iter(range(tasks)), asyncio.Event()
    wanted = encoded(new_task())

    async def create(wire: Wire) -> None:
        for _ in left:
            await figures.made.time(wire.call("POST", f"{API}/tasks/new", wanted))
        wire.close()

    async def work(bot: Bot) -> None:
        while True:
            started_s = time.perf_counter()
            command = await bot.poll()
            if command["cmd"] == "run":
                figures.claims.seconds.append(time.perf_counter() - started_s)
                await bot.finish(command["manifest"]["task_id"], figures.updates.time)
                if len(figures.updates.seconds) == 2 * tasks:
                    done.set()

    crew = [Bot(host, port, f"bench-{number}") for number in range(bots)]
    for bot in crew:
        await bot.call("handshake", bot.hello)
    started_s = time.perf_counter()
    async with asyncio.TaskGroup() as group:
        workers = [group.create_task(work(bot)) for bot in crew]
        for _ in range(CLIENTS):
            group.create_task(create(Wire(host, port)))
        await done.wait()
        figures.wall_s = time.perf_counter() - started_s
        for worker in workers:
            worker.cancel()
    for bot in crew:
        bot.wire.close()
    return figures
