"""A very long queue: made in the database of a server that does not run, then claimed from, added to and listed."""

from __future__ import annotations

import asyncio
import os
import sqlite3
import time
from pathlib import Path

import click
from msgspec.structs import replace

from bench.simulated import API, Bot, Histogram, memory_mib, new_task
from bench.wire import Wire

SEED_AT_ONCE = 5_000  # tasks of one transaction while seeding


def seed(path: Path, tasks: int, queues: int) -> None:
    """Put waiting tasks into the database of a server that does not run."""
    from server.stores.task_rows import SQL, execution_row, insert_task
    from swarming import ids, matching
    from swarming.model import Execution, Task, TaskProperties, TaskRequest, TaskSlice
    from swarming.submission import tagged

    now = time.time()
    made = []
    for number in range(queues):
        dimensions = (("pool", "default"), ("shard", f"{number}"))
        properties = TaskProperties(dimensions=dimensions, command=("true",), execution_timeout_s=60)
        part = TaskSlice(properties=properties, expiration_s=86_400, wait_for_capacity=True)
        request = tagged(TaskRequest(name=f"bench {number}", priority=100, slices=(part,)))
        task = Task(task_id="", request=request, created_at=now, modified_at=now, deadline_at=now + 86_400)
        execution = Execution(
            execution_id="",
            task_name=request.name,
            properties=properties,
            task_hash=None,
            queue=matching.queue_key(dimensions),
            priority=100,
            rank=0,
            deadline_at=task.deadline_at,
            tolerance_s=60.0,
            created_at=now,
            modified_at=now,
        )
        made.append((task, execution))
    db = sqlite3.connect(path, isolation_level=None)
    db.execute("PRAGMA synchronous = OFF")
    for start in range(0, tasks, SEED_AT_ONCE):
        db.execute("BEGIN")
        for serial in range(start, min(start + SEED_AT_ONCE, tasks)):
            task, execution = made[serial % queues]
            at = now - tasks / 1000 + serial / 1000
            task_id = ids.pack(ids.number(at, serial))
            waiting = replace(execution, execution_id=task_id, rank=serial, created_at=at, modified_at=at)
            attached = replace(task, task_id=task_id, execution_id=task_id, attached=True)
            db.execute(SQL["insert_execution"], execution_row(waiting))
            insert_task(db, replace(attached, created_at=at, modified_at=at))
        db.execute("COMMIT")
    db.close()


async def run_pending(host: str, port: int, pid: int, queues: int, claims: int, bots: int) -> None:
    """Measure claims, submissions and pages side by side."""
    found = {name: Histogram(name) for name in ("poll", "task_update", "tasks/new")}
    left, over = iter(range(claims)), asyncio.Event()
    paths = {
        "tasks/list": "tasks/list?limit=100",
        "tasks/list of a state": "tasks/list?limit=100&state=PENDING",
        "tasks/list of a tag": "tasks/list?limit=100&tags=shard:7",
        "tasks/list of a rare state and a common tag": "tasks/list?limit=100&tags=pool:default&state=KILLED",
        "tasks/list by end": "tasks/list?limit=100&sort=COMPLETED_TS",
    }
    pages = {name: Histogram(name) for name in paths}

    async def work(bot: Bot) -> None:
        await bot.call("handshake", bot.hello)
        for _ in left:
            command = await found["poll"].time(bot.poll())
            await bot.finish(command["manifest"]["task_id"], found["task_update"].time)

    async def read(wire: Wire) -> None:
        while not over.is_set():
            for name, path in paths.items():
                await pages[name].time(wire.call("GET", f"{API}/{path}"))

    async def create(wire: Wire) -> None:
        number = 0
        while not over.is_set():
            number += 1
            body = new_task(shard=f"{number % queues}")
            await found["tasks/new"].time(wire.call("POST", f"{API}/tasks/new", body))

    every = [f"{number}" for number in range(queues)]
    # Half of the bots serve all queues, the worst case for a claim.
    crew = [
        Bot(host, port, f"bench-{number}", shard=every if number % 2 else [f"{number % queues}"])
        for number in range(bots)
    ]
    started_s = time.perf_counter()
    async with asyncio.TaskGroup() as group:
        workers = [group.create_task(work(bot)) for bot in crew]
        group.create_task(read(Wire(host, port)))
        group.create_task(create(Wire(host, port)))
        await asyncio.wait(workers)
        over.set()
    click.echo(f"{claims / (time.perf_counter() - started_s):,.0f} claims/s; {memory_mib(pid):.0f} MiB; "
               f"load {os.getloadavg()[0]:.1f}")  # fmt: skip
    for histogram in (*found.values(), *pages.values()):
        histogram.show()
