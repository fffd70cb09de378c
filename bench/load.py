"""`python -m bench.load`: what the scheduler does under load, measured from outside on a server of its own.

    python -m bench.load tasks [--tasks 3000] [--bots 64]      row 13: create, claim, complete
    python -m bench.load idle [--bots 19000]                   row 14: idle long polls, memory, dispatch
    python -m bench.load pending [--tasks 1000000] [--queues 100]   row 13: claims and pages in front of a long queue

Every figure comes with the load of the machine, because client and server share it.
"""

from __future__ import annotations

import asyncio
import os
import resource
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import click
from msgspec.structs import replace

from bench.wire import Wire

API = "/_ah/api/swarming/v1"
BOT = "/swarming/api/v1/bot"
BUCKETS_MS = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000)
CLIENTS = 16
SPARE_FILES = 500  # the server keeps them for its own files
SEED_AT_ONCE = 5_000  # tasks of one transaction while seeding


class Histogram:
    """Latencies of one kind of call."""

    def __init__(self, name: str) -> None:
        self.name, self.seconds = name, list[float]()

    async def time(self, work: Awaitable[Any]) -> Any:
        """Await `work` and note how long it took."""
        started_s = time.perf_counter()
        try:
            return await work
        finally:
            self.seconds.append(time.perf_counter() - started_s)

    def show(self) -> None:
        """Print percentiles and a bar for each bucket."""
        ordered = sorted(self.seconds)
        if not ordered:
            return
        cuts = [ordered[min(len(ordered) - 1, int(len(ordered) * share))] * 1e3 for share in (0.5, 0.9, 0.99, 1.0)]
        click.echo(f"{self.name}: {len(ordered):,} calls; p50 {cuts[0]:.1f}  p90 {cuts[1]:.1f}  p99 {cuts[2]:.1f}  "
                   f"max {cuts[3]:.1f} ms")  # fmt: skip
        low = 0.0
        for high in (*BUCKETS_MS, float("inf")):
            count = sum(low <= one * 1e3 < high for one in ordered)
            if count:
                click.echo(f"  < {high:>6g} ms {count:>8,} {'#' * max(1, 50 * count // len(ordered))}")
            low = high


@contextmanager
def serving(data: Path) -> Iterator[tuple[str, int, int]]:
    """Run a server on `data`; gives host, port and process id."""
    command = [str(Path(sys.executable).parent / "swarming-server"), "serve", "--data", str(data), "--port", "0"]
    started_s = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        url = urlsplit(line.split()[1])
        click.echo(f"Server ready after {time.perf_counter() - started_s:.2f} s; load of the machine {os.getloadavg()}")
        yield str(url.hostname), int(url.port or 0), process.pid
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait()


def memory_mib(pid: int) -> float:
    """Return RssAnon + RssShmem of a process."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return sum(int(line.split()[1]) for line in lines if line.startswith(("RssAnon:", "RssShmem:"))) / 1024


def cpu_s(pid: int) -> float:
    """Return the processor time a process has used."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def hello(bot_id: str, **dimensions: list[str]) -> dict[str, Any]:
    """Return what a simulated bot says of itself."""
    return {
        "dimensions": {"id": [bot_id], "pool": ["default"], **dimensions},
        "state": {"running_time": 1.0, "sleep_streak": 0},
        "version": "bench",
    }


def new_task(**dimensions: str) -> dict[str, Any]:
    """Return a request for a trivial task."""
    wanted = [{"key": key, "value": value} for key, value in {"pool": "default", **dimensions}.items()]
    properties = {"command": ["true"], "dimensions": wanted, "execution_timeout_secs": 60}
    part = {"expiration_secs": 86_400, "properties": properties, "wait_for_capacity": True}
    return {"name": "bench", "priority": 100, "user": "bench", "task_slices": [part]}


class Bot:
    """One simulated bot on one connection."""

    def __init__(self, host: str, port: int, bot_id: str, wait_s: float = 20, **dimensions: list[str]) -> None:
        self.wire, self.id, self.hello = Wire(host, port), bot_id, hello(bot_id, **dimensions)
        self.headers = f"X-Isolate-Session: {uuid.uuid4().hex}\r\nX-Isolate-Wait: {wait_s}\r\n"

    async def call(self, method: str, body: Any) -> Any:
        """Make a call of the bot API."""
        return await self.wire.call("POST", f"{BOT}/{method}", body, self.headers)

    async def finish(self, run_id: str, timed: Callable[[Awaitable[Any]], Awaitable[Any]]) -> None:
        """Accept and end a run."""
        about = {"id": self.id, "task_id": run_id, "cost_usd": 0.0}
        await timed(self.call("task_update", about))
        await timed(self.call("task_update", {**about, "exit_code": 0, "duration": 0.1}))


@click.group()
def main() -> None:
    """Load on the scheduler."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


@main.command()
@click.option("--tasks", default=3_000)
@click.option("--bots", default=64)
def tasks(tasks: int, bots: int) -> None:
    """Create, claim and complete tasks as fast as it goes."""
    with tempfile.TemporaryDirectory(prefix="load-") as folder, serving(Path(folder) / "data") as (host, port, pid):
        asyncio.run(run_tasks(host, port, pid, tasks, bots))


async def run_tasks(host: str, port: int, pid: int, tasks: int, bots: int) -> None:
    """Run the tasks and print what it took."""
    made, claims, updates = Histogram("tasks/new"), Histogram("poll that got a task"), Histogram("task_update")
    left, done = iter(range(tasks)), asyncio.Event()
    count = 0

    async def create(wire: Wire) -> None:
        for _ in left:
            await made.time(wire.call("POST", f"{API}/tasks/new", new_task()))

    async def work(bot: Bot) -> None:
        nonlocal count
        while True:
            started_s = time.perf_counter()
            command = await bot.call("poll", bot.hello)
            if command["cmd"] == "run":
                claims.seconds.append(time.perf_counter() - started_s)
                await bot.finish(command["manifest"]["task_id"], updates.time)
                count += 1
                if count == tasks:
                    done.set()

    crew = [Bot(host, port, f"bench-{number}") for number in range(bots)]
    for bot in crew:
        await bot.call("handshake", bot.hello)
    used_s, started_s = cpu_s(pid), time.perf_counter()
    async with asyncio.TaskGroup() as group:
        workers = [group.create_task(work(bot)) for bot in crew]
        for _ in range(CLIENTS):
            group.create_task(create(Wire(host, port)))
        await done.wait()
        wall_s = time.perf_counter() - started_s
        for worker in workers:
            worker.cancel()
    click.echo(f"{tasks / wall_s:,.0f} tasks/s ({tasks:,} tasks, {bots} bots, {CLIENTS} clients); server "
               f"{1e3 * (cpu_s(pid) - used_s) / tasks:.2f} ms of processor per task, {memory_mib(pid):.0f} MiB; "
               f"load {os.getloadavg()[0]:.1f}")  # fmt: skip
    for histogram in (made, claims, updates):
        histogram.show()


@main.command()
@click.option("--bots", default=0, help="[default: as many as the file-descriptor limit allows, at most 20,000]")
@click.option("--tasks", default=200)
def idle(bots: int, tasks: int) -> None:
    """Let many bots wait, then give single tasks and see how fast they arrive."""
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0] - SPARE_FILES
    bots = min(bots or 20_000, limit)
    with tempfile.TemporaryDirectory(prefix="load-") as folder, serving(Path(folder) / "data") as (host, port, pid):
        asyncio.run(run_idle(host, port, pid, bots, tasks))


async def run_idle(host: str, port: int, pid: int, bots: int, tasks: int) -> None:
    """Let bots wait and print what that costs."""
    dispatched, gate, waiting = Histogram("tasks/new sent to poll answered"), asyncio.Semaphore(64), 0
    all_wait, got = asyncio.Event(), asyncio.Event()
    sent_s = 0.0

    async def wait(number: int) -> None:
        nonlocal waiting
        bot = Bot(host, port, f"idle-{number}", wait_s=30)
        async with gate:
            await bot.call("handshake", bot.hello)
        waiting += 1
        if waiting == bots:
            all_wait.set()
        while True:
            command = await bot.call("poll", bot.hello)
            if command["cmd"] == "run":
                dispatched.seconds.append(time.perf_counter() - sent_s)
                got.set()
                await bot.finish(command["manifest"]["task_id"], _plain)

    async with asyncio.TaskGroup() as group:
        crowd = [group.create_task(wait(number)) for number in range(bots)]
        started_s = time.perf_counter()
        await all_wait.wait()
        click.echo(f"{bots:,} bots wait after {time.perf_counter() - started_s:.1f} s; {memory_mib(pid):.0f} MiB")
        used_s, started_s = cpu_s(pid), time.perf_counter()
        await asyncio.sleep(30)  # one round of polls
        share = (cpu_s(pid) - used_s) / (time.perf_counter() - started_s)
        click.echo(f"Waiting takes {100 * share:.0f} % of one processor; {memory_mib(pid):.0f} MiB")
        client = Wire(host, port)
        for _ in range(tasks):
            got.clear()
            sent_s = time.perf_counter()
            await client.call("POST", f"{API}/tasks/new", new_task())
            await got.wait()
        dispatched.show()
        click.echo(f"{memory_mib(pid):.0f} MiB; load {os.getloadavg()[0]:.1f}")
        for one in crowd:
            one.cancel()


async def _plain(work: Awaitable[Any]) -> Any:
    return await work


@main.command()
@click.option("--tasks", default=1_000_000)
@click.option("--queues", default=100)
@click.option("--claims", default=2_000)
@click.option("--bots", default=16)
@click.option("--data", type=click.Path(file_okay=False, path_type=Path), help="Keep what is made here, use it again.")
def pending(tasks: int, queues: int, claims: int, bots: int, data: Path | None) -> None:
    """Claim from, add to and list a very long queue."""
    with tempfile.TemporaryDirectory(prefix="load-") as folder:
        place = data or Path(folder) / "data"
        if not (place / "tasks.sqlite").exists():
            started_s = time.perf_counter()
            with serving(place):
                pass
            seed(place / "tasks.sqlite", tasks, queues)
            click.echo(f"{tasks:,} tasks in {queues} queues made in {time.perf_counter() - started_s:.0f} s")
        with serving(place) as (host, port, pid):
            asyncio.run(run_pending(host, port, pid, queues, claims, bots))


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
            command = await found["poll"].time(bot.call("poll", bot.hello))
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


if __name__ == "__main__":
    main()
