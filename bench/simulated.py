"""Simulated bots and clients on a server of their own, and what is measured of both.

A bot does what a bot does: handshake, long poll, an update that accepts the offer, a final update. Each task therefore
costs four requests, and the server commits before it answers each.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import click

from bench.wire import Wire, encoded

API = "/_ah/api/swarming/v1"
BOT = "/swarming/api/v1/bot"
BUCKETS_MS = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000)


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

    def quantile_ms(self, share: float) -> float:
        """Return what a share of the calls stayed below."""
        ordered = sorted(self.seconds)
        return ordered[min(len(ordered) - 1, int(len(ordered) * share))] * 1e3

    def show(self) -> None:
        """Print percentiles and a bar for each bucket."""
        ordered = sorted(self.seconds)
        if not ordered:
            return
        cuts = [self.quantile_ms(share) for share in (0.5, 0.9, 0.99, 1.0)]
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
        self.wire, self.id, self.hello = Wire(host, port), bot_id, encoded(hello(bot_id, **dimensions))
        self.headers = f"X-Isolate-Session: {uuid.uuid4().hex}\r\nX-Isolate-Wait: {wait_s}\r\n"

    async def call(self, method: str, body: Any) -> Any:
        """Make a call of the bot API."""
        return await self.wire.call("POST", f"{BOT}/{method}", body, self.headers)

    async def poll(self) -> Any:
        """Return what the bot is to do, which may take a while."""
        return await self.call("poll", self.hello)

    async def finish(self, run_id: str, timed: Callable[[Awaitable[Any]], Awaitable[Any]]) -> None:
        """Accept and end a run."""
        about = {"id": self.id, "task_id": run_id, "cost_usd": 0.0}
        await timed(self.call("task_update", about))
        await timed(self.call("task_update", {**about, "exit_code": 0, "duration": 0.1}))
