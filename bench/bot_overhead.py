"""`python -m bench.bot_overhead`: what a real bot adds to a trivial isolated task, and costs while idle (row 15).

    python -m bench.bot_overhead [--tasks 50] [--pause-s 1] [--idle-s 60]

Server, bot and client share this machine. The task is `date`, which says when it ran; what the bot did before and after
is read from its log, whose times are of the same clock. The first tasks warm up the cache and are not counted. Between
two tasks there is a pause, in which a bot has its next runner ready; without one, each task waits for the start of its
runner.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

import click

from bench.command import SETTINGS, run_program
from bench.measure import Failed

API = "/_ah/api/swarming/v1"
BIN = Path(sys.executable).parent
WARM_UP = 5
TARGET_OVERHEAD_MS, TARGET_SERVER_MS = 100, 150
TARGET_PSS_MIB, TARGET_CPU_PERCENT = 100, 0.5
_LINE = re.compile(r"(\S+ \S+),(\d{3}) .*: Task (\S+) (started|ended: exit code 0)")


@contextmanager
def running(*command: str, ready: str, **options: Any) -> Iterator[tuple[int, str]]:
    """Run a program until the block ends; gives its process id and the line with which it said that it is ready."""
    process = subprocess.Popen([BIN / command[0], *command[1:]], text=True, **options)
    try:
        stream = process.stdout or process.stderr
        assert stream is not None
        line = next((line for line in stream if ready in line), None)
        if line is None:
            raise Failed(f"{command[0]} does not start")
        yield process.pid, line
    finally:
        process.terminate()
        process.wait()


def call(url: str, path: str, body: Any = None) -> Any:
    """Make a call to the REST API."""
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url + API + path, data, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=60) as reply:
        return json.load(reply)


def run_task(url: str, isolated: str, pause_s: float) -> dict[str, Any]:
    """Trigger a task, wait for its end, and return what is known of it; `wall_s` is what the client saw."""
    properties = {
        "command": ["date", "+%s.%N"],
        "dimensions": [{"key": "pool", "value": "default"}],
        "execution_timeout_secs": 60,
        "inputs_ref": {"isolated": isolated, "isolatedserver": url, "namespace": "blake3-zstd"},
    }
    part = {"expiration_secs": 600, "properties": properties, "wait_for_capacity": True}
    time.sleep(pause_s)
    started_s = time.monotonic()
    task_id = call(url, "/tasks/new", {"name": "trivial", "priority": 100, "task_slices": [part]})["task_id"]
    while (found := call(url, f"/task/{task_id}/result"))["state"] in {"PENDING", "RUNNING"}:
        time.sleep(0.01)  # the interval of a poll
    if found["state"] != "COMPLETED":
        raise Failed(f"The task ended as {found['state']}")
    output: str = call(url, f"/task/{task_id}/stdout")["output"]
    return {**found, "wall_s": time.monotonic() - started_s, "ran_at": float(output)}


def log_times(log: Path) -> dict[tuple[str, str], float]:
    """Return when the bot said what of which run, in epoch seconds."""
    found = {}
    for line in log.read_text().splitlines():
        if match := _LINE.match(line):
            at = datetime.strptime(match[1], "%Y-%m-%d %H:%M:%S").astimezone().timestamp()
            found[match[3], match[4][:5]] = at + int(match[2]) / 1000
    return found


def family(pid: int) -> list[int]:
    """Return a process and all its descendants."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [pid, *(one for child in children for one in family(int(child)))]


def pss_mib(pids: list[int]) -> float:
    """Return the memory of processes, what they share counted once."""
    lines = [line for pid in pids for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()]
    return sum(int(line.split()[1]) for line in lines if line.startswith("Pss:")) / 1024


def cpu_s(pids: list[int]) -> float:
    """Return the processor time of processes."""
    fields = [Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split() for pid in pids]
    return sum(int(one[11]) + int(one[12]) for one in fields) / os.sysconf("SC_CLK_TCK")


def row(name: str, values_ms: list[float], target_ms: float | None = None) -> None:
    """Print percentiles of one kind of time."""
    ordered = sorted(values_ms)
    cuts = [ordered[min(len(ordered) - 1, int(len(ordered) * share))] for share in (0.5, 0.95)]
    target = "" if target_ms is None else f"   target p50 <= {target_ms:g}"
    print(f"{name:44} p50 {cuts[0]:7.1f} ms   p95 {cuts[1]:7.1f} ms{target}")


def _milliseconds(later: str, earlier: str) -> float:
    return (datetime.fromisoformat(later) - datetime.fromisoformat(earlier)).total_seconds() * 1e3


@click.command(context_settings=SETTINGS)
@click.option("--tasks", default=50, show_default=True, type=click.IntRange(1), help="How many are counted.")
@click.option("--pause-s", default=1.0, show_default=True, help="Between two tasks.")
@click.option("--idle-s", default=60.0, show_default=True, help="How long the idle bot is watched; 0: not at all.")
def main(tasks: int, pause_s: float, idle_s: float) -> None:
    """Measure a bot on this machine."""
    with tempfile.TemporaryDirectory(prefix="bench-bot-") as scratch:
        place = Path(scratch)
        (place / "tree").mkdir()
        (place / "tree" / "file").write_text("content\n")
        serve = ("swarming-server", "serve", "--data", str(place / "data"), "--port", "0")
        with running(*serve, ready="Serving", stdout=subprocess.PIPE) as (_, line):
            url = line.split()[1].rstrip("/")
            archive = [str(BIN / "isolate"), "archive", "-I", url, str(place / "tree")]
            isolated = subprocess.run(archive, check=True, capture_output=True, text=True).stdout.split()[0]
            live = ("swarming-bot", "--server", url, "--dir", str(place / "bot"), "--id", "bot")
            with running(*live, ready="Connected", stderr=subprocess.PIPE) as (bot, _):
                done = [run_task(url, isolated, pause_s) for _ in range(WARM_UP + tasks)][WARM_UP:]
                show(done, log_times(place / "bot" / "logs" / "bot.log"))
                if idle_s:
                    watch(bot, idle_s)
    print(f"load of this machine: {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores")


def show(done: list[dict[str, Any]], log: dict[tuple[str, str], float]) -> None:
    """Print what the tasks took."""
    before = [(one["ran_at"] - log[one["run_id"], "start"]) * 1e3 for one in done]
    after = [(log[one["run_id"], "ended"] - one["ran_at"]) * 1e3 for one in done]
    print(f"{len(done)} trivial isolated tasks, everything warm")
    row("bot has the task -> command runs", before)
    row("command ended -> result acknowledged", after)
    total = [one + other for one, other in zip(before, after, strict=True)]
    row("bot overhead per task, both together", total, TARGET_OVERHEAD_MS)
    server = [_milliseconds(one["completed_ts"], one["created_ts"]) for one in done]
    row("trigger -> result, as the server has it", server, TARGET_SERVER_MS)
    row("trigger -> result and output, as a client sees", [one["wall_s"] * 1e3 for one in done])


def watch(bot: int, idle_s: float) -> None:
    """Print what the bot costs while it waits."""
    time.sleep(2)  # the runner of the next task starts
    pids = family(bot)
    used_s = cpu_s(pids)
    time.sleep(idle_s)
    percent = (cpu_s(pids) - used_s) / idle_s * 100
    print(f"idle: {len(pids)} processes, PSS {pss_mib(pids):.0f} MiB   target <= {TARGET_PSS_MIB}")
    print(f"idle: {percent:.2f} % of a core over {idle_s:g} s   target <= {TARGET_CPU_PERCENT}")


if __name__ == "__main__":
    sys.exit(run_program("bench.bot_overhead", main))
