"""`python -m bench.load`: what the scheduler does under load, measured from outside on a server of its own.

    python -m bench.load tasks [--tasks 3000] [--bots 64]      row 13: create, claim, complete
    python -m bench.load idle [--bots 19000]                   row 14: idle long polls, memory, dispatch
    python -m bench.load pending [--tasks 1000000] [--queues 100]   row 13: claims and pages in front of a long queue

Every figure comes with the load of the machine, because client and server share it.
"""

from __future__ import annotations

import asyncio
import gc
import os
import resource
import sys
import tempfile
import time
from collections.abc import Awaitable, Coroutine
from pathlib import Path
from typing import Any, TypeVar

import click

from bench.command import SETTINGS, run_program
from bench.pending import run_pending, seed
from bench.simulated import API, Bot, Histogram, cpu_s, memory_mib, new_task, serving
from bench.tasks import BOTS, measure_tasks
from bench.wire import Wire, encoded
from server.runtime import loop_factory

T = TypeVar("T")

SPARE_FILES = 500  # the server keeps them for its own files


@click.group(context_settings=SETTINGS)
def main() -> None:
    """Load on the scheduler."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    gc.disable()  # a look at 20,000 connections would be measured as a pause of the server


@main.command()
@click.option("--tasks", default=3_000)
@click.option("--bots", default=BOTS)
def tasks(tasks: int, bots: int) -> None:
    """Create, claim and complete tasks as fast as it goes."""
    with tempfile.TemporaryDirectory(prefix="load-") as folder, serving(Path(folder) / "data") as (host, port, pid):
        used_s = cpu_s(pid)
        figures = run(measure_tasks(f"http://{host}:{port}", tasks, bots))
        spent_ms = 1e3 * (cpu_s(pid) - used_s) / tasks
        click.echo(f"{figures.summary()}; server {spent_ms:.2f} ms of processor per task, {memory_mib(pid):.0f} MiB; "
                   f"load {os.getloadavg()[0]:.1f}")  # fmt: skip
        for histogram in (figures.made, figures.claims, figures.updates):
            histogram.show()


def run(work: Coroutine[Any, Any, T]) -> T:
    """Run `work` on the loop that takes the least time from the server, which has the same processors."""
    with asyncio.Runner(loop_factory=loop_factory()) as runner:
        return runner.run(work)


@main.command()
@click.option("--bots", default=0, help="[default: as many as the file-descriptor limit allows, at most 20,000]")
@click.option("--tasks", default=500)
def idle(bots: int, tasks: int) -> None:
    """Let many bots wait, then give single tasks and see how fast they arrive."""
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0] - SPARE_FILES
    bots = min(bots or 20_000, limit)
    with tempfile.TemporaryDirectory(prefix="load-") as folder, serving(Path(folder) / "data") as (host, port, pid):
        run(run_idle(host, port, pid, bots, tasks))


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
            command = await bot.poll()
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
        client, wanted = Wire(host, port), encoded(new_task())
        for _ in range(tasks):
            got.clear()
            sent_s = time.perf_counter()
            await client.call("POST", f"{API}/tasks/new", wanted)
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
            run(run_pending(host, port, pid, queues, claims, bots))


if __name__ == "__main__":
    sys.exit(run_program("bench.load", main))
