"""`python -m bench.collect`: a thousand shards collected from a real server, their results simulated.

Simulated bots end all tasks but one while `swarming collect` waits; what counts is the time from the end of the last
task to the end of the command, the memory of the command (RssAnon + RssShmem) and its connections, sampled meanwhile.
Every task has outputs, so results, stdout and files all come.
"""

from __future__ import annotations

import asyncio
import base64
import json
import os
import sys
import tempfile
import time
import uuid
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import click

from bench.command import SETTINGS, run_program
from bench.tasks import BOT_API
from isolate.archive import ArchiveOptions, Remote, archive_tree
from isolate.cas.digest import DEFAULT_NAMESPACE, Namespace
from isolate.http import HttpClient
from isolate.monitor import NullMonitor
from swarming.client import API
from swarming.trigger import TaskSpec, requests

BIN = Path(sys.executable).parent
BOTS = 16
SAMPLE_S = 0.05
KIB = 1024


@dataclass
class Figures:
    """What was measured."""

    connections: int = 0
    memory_bytes: int = 0
    after_last_s: float = 0.0
    files: int = 0
    status: int = 0
    said: list[str] = field(default_factory=list)


@click.command(context_settings=SETTINGS)
@click.option("--shards", default=1000, show_default=True)
@click.option("--stdout-bytes", default=20_000, show_default=True, help="That each shard prints.")
@click.option("--output-bytes", default=20_000, show_default=True, help="Of the file each shard leaves.")
@click.option("--slowest-s", default=3.0, show_default=True, help="How much longer the last task takes.")
def main(shards: int, stdout_bytes: int, output_bytes: int, slowest_s: float) -> None:
    """Collect SHARDS shards and print what it took."""
    with tempfile.TemporaryDirectory(prefix="bench-collect-") as place:
        figures = asyncio.run(measure(Path(place), shards, stdout_bytes, output_bytes, slowest_s))
    click.echo(
        f"{shards:,} shards, {stdout_bytes:,} bytes of stdout and {output_bytes:,} of files each: status "
        f"{figures.status}, {figures.files:,} files; {figures.after_last_s:.2f} s after the last task, "
        f"{figures.memory_bytes / 1e6:.0f} MB, {figures.connections} connections at most"
    )


async def measure(place: Path, shards: int, stdout_bytes: int, output_bytes: int, slowest_s: float) -> Figures:
    """Serve, trigger, collect."""
    figures = Figures()
    server = await asyncio.create_subprocess_exec(
        BIN / "swarming-server", "serve", "--data", place / "data", "--port", "0", stdout=asyncio.subprocess.PIPE
    )
    assert server.stdout is not None
    try:
        url = (await server.stdout.readline()).decode().split()[1].rstrip("/")
        async with HttpClient(url, user_agent="bench", connections=BOTS) as http:
            fleet = Fleet(http, url, place, stdout_bytes, output_bytes)
            await fleet.join()
            await trigger(http, place / "tasks.json", shards)
            collect = await start_collect(url, place)
            try:
                async with asyncio.TaskGroup() as group:
                    watching = group.create_task(watch(collect.pid, figures))
                    ended_s = await fleet.run_all(shards, slowest_s)
                    figures.status = await collect.wait()
                    figures.after_last_s = time.monotonic() - ended_s
                    watching.cancel()
            finally:
                if collect.returncode is None:  # the benchmark is ended before it
                    collect.terminate()
                    await collect.wait()
        figures.files = sum(1 for _ in (place / "out").rglob("result.bin"))
    finally:
        server.terminate()
        await server.wait()
    return figures


async def trigger(http: HttpClient, path: Path, shards: int) -> None:
    """Create the tasks, and the file that `collect --json` reads."""
    spec = TaskSpec(raw_command=True, command=("true",), name="bench", user="bench", shards=shards)
    tasks = {}
    bodies = requests(spec, lambda: str(uuid.uuid4()))
    for request in bodies:
        reply = await http.json("POST", f"{API}/tasks/new", body=request.body)
        tasks[request.name] = {"shard_index": request.index, "task_id": reply["task_id"], "view_url": ""}
    content = {"base_task_name": "bench", "request": bodies[0].body, "tasks": tasks}
    path.write_text(json.dumps(content))


async def start_collect(url: str, place: Path) -> asyncio.subprocess.Process:
    command: list[str | Path] = ["collect", "-S", url, "--json", place / "tasks.json"]
    command += ["--task-output-dir", place / "out", "--task-summary-json", place / "summary.json"]
    with (place / "printed.txt").open("wb") as printed:
        return await asyncio.create_subprocess_exec(
            BIN / "swarming", *command, stdout=printed, env={**os.environ, "XDG_CACHE_HOME": str(place / "cache")}
        )


async def watch(pid: int, figures: Figures) -> None:
    """Sample memory and connections of a process until cancelled."""
    while True:
        figures.memory_bytes = max(figures.memory_bytes, memory_bytes(pid))
        figures.connections = max(figures.connections, connections(pid))
        await asyncio.sleep(SAMPLE_S)


def memory_bytes(pid: int) -> int:
    """Return RssAnon + RssShmem of a process, 0 when it is gone."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0
    return sum(int(line.split()[1]) * KIB for line in lines if line.startswith(("RssAnon:", "RssShmem:")))


def connections(pid: int) -> int:
    """Return how many TCP connections a process has."""
    try:
        inodes = {os.readlink(entry.path) for entry in os.scandir(f"/proc/{pid}/fd")}
        rows = Path(f"/proc/{pid}/net/tcp").read_text().splitlines()[1:]
    except OSError:
        return 0
    return sum(f"socket:[{row.split()[9]}]" in inodes for row in rows)


class Fleet:
    """Simulated bots that end every task at once, the last one later."""

    def __init__(self, http: HttpClient, url: str, place: Path, stdout_bytes: int, output_bytes: int) -> None:
        self._http, self._url, self._place, self._output_bytes = http, url, place, output_bytes
        line = b"x" * 99 + b"\n"
        self._stdout = base64.b64encode((line * (stdout_bytes // len(line) + 1))[:stdout_bytes]).decode()
        self._left = 0
        self._ended_s = 0.0

    async def join(self) -> None:
        """Introduce the bots."""
        for number in range(BOTS):
            await self._call(number, "handshake", self._hello(number))

    async def run_all(self, shards: int, slowest_s: float) -> float:
        """Run all tasks; returns when the last one ended."""
        self._left = shards
        async with asyncio.TaskGroup() as group:
            for number in range(BOTS):
                group.create_task(self._work(number, slowest_s))
        return self._ended_s

    async def _work(self, number: int, slowest_s: float) -> None:
        while self._left > 0:
            command = await self._call(number, "poll", self._hello(number))
            if command["cmd"] != "run":
                continue
            self._left -= 1
            is_last = self._left == 0
            run_id = command["manifest"]["task_id"]
            update = {"id": _name(number), "task_id": run_id, "cost_usd": 0.0}
            await self._call(number, "task_update", update)
            outputs = await self._archive(run_id)
            if is_last:
                await asyncio.sleep(slowest_s)
            ended = {"exit_code": 0, "duration": 0.1, "output": self._stdout, "output_chunk_start": 0}
            await self._call(number, "task_update", {**update, **ended, "outputs_ref": outputs})
            self._ended_s = max(self._ended_s, time.monotonic())

    async def _archive(self, run_id: str) -> dict[str, str]:
        tree = self._place / "trees" / run_id
        tree.mkdir(parents=True)
        (tree / "result.bin").write_bytes((run_id.encode() * (self._output_bytes // 16 + 1))[: self._output_bytes])
        target = Remote(self._url, Namespace.parse(DEFAULT_NAMESPACE), "bench")
        archived = await archive_tree(tree, target, ArchiveOptions(workers=0), NullMonitor())
        return {"isolated": archived.hash, "isolatedserver": self._url, "namespace": DEFAULT_NAMESPACE}

    def _hello(self, number: int) -> dict[str, Any]:
        state = {"running_time": 1.0, "sleep_streak": 0}
        return {"dimensions": {"id": [_name(number)], "pool": ["default"]}, "state": state, "version": "bench"}

    async def _call(self, number: int, method: str, body: object) -> Any:
        headers = {"X-Isolate-Session": str(uuid.uuid5(uuid.NAMESPACE_OID, _name(number))), "X-Isolate-Wait": "2"}
        return await self._http.json("POST", f"{BOT_API}/{method}", body=body, headers=headers)


def _name(number: int) -> str:
    return f"bench-{number}"


if __name__ == "__main__":
    sys.exit(run_program("bench.collect", main))
