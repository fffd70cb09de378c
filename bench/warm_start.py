"""`python -m bench.warm_start`: from asking for a run to the first instruction of its command, everything warm.

A tree of ten files, all in the cache. Measured are the whole command line, from asking for its process (a fresh Python
each time, its script and its site-packages as they are installed here), and the library in a process that is there
already, as a bot's runner is. Beside them, what starting Python alone costs on this machine, and with the library that
reads a command line. They take turns; the first ones are not counted. Wall time, and the processor time of everything,
also of what comes after the command's first instruction. Whatever the environment says, modules are compiled once, as
they are where it is installed: compiling them each time is a quarter of the whole.

An installation in place (`pip install --editable`, as in a checkout) starts with a finder of setuptools, which imports
a dozen modules that are needed later anyway; `--bin` measures another installation. The log is switched off, since it
would be written to the folder this is called in; it costs a line and no import.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path

import click

from bench.command import SETTINGS, run_program
from bench.place import BIN, Place, Size
from isolate.clock import SystemClock
from isolate.monitor import NullMonitor
from run_isolated.run import preload, run
from run_isolated.spec import RunSpec

FILES = 10
NOW = ("date", "+%s.%N")  # its first instructions, but for what the loader does
LIMIT_MS = 100.0
WARM_UP = 3

Sample = tuple[float, float]  # seconds of wall time and of processor time


@click.command(context_settings=SETTINGS)
@click.option("--runs", type=click.IntRange(1), default=30, show_default=True)
@click.option("--bin", "folder", type=click.Path(path_type=Path), default=BIN, help="Where `run_isolated` is.")
@click.option("--json", "as_json", is_flag=True, help="Print every sample.")
def main(runs: int, folder: Path, as_json: bool) -> None:
    """Measure the start of a run whose ten files are all in the cache."""
    with contextlib.ExitStack() as stack:
        scratch = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        tree = scratch / "tree"
        tree.mkdir()
        for number in range(FILES):
            (tree / f"file-{number}").write_text(f"{number}\n" * 1000)
        server, end = Place(scratch / "servers", tree, stack, Size()).start()
        stack.callback(end)
        archive = [str(BIN / "isolate"), "archive", "-I", server.url, str(tree)]
        root = subprocess.run(archive, capture_output=True, text=True, check=True).stdout.split()[0]
        python = str(folder / "python")
        places = ["--cache", str(scratch / "cache"), "--root-dir", str(scratch / "work"), "--no-log"]
        ours = [str(folder / "run_isolated"), "-I", server.url, "-s", root, *places, "--raw-cmd", "--", *NOW]
        samples = _in_turns(
            {
                "python -c pass": lambda: _started([python, "-c", "pass"], tells=False),
                "python -c 'import click'": lambda: _started([python, "-c", "import click"], tells=False),
                "run_isolated, to the command": lambda: _started(ours, tells=True),
            },
            runs,
        )
        samples["run(), to the command"] = asyncio.run(_library(scratch, server.url, root, runs))
    if as_json:
        click.echo(json.dumps({name: [wall_s for wall_s, _ in taken] for name, taken in samples.items()}))
        return
    for name, taken in samples.items():
        walls = sorted(wall_s * 1000 for wall_s, _ in taken)
        cpu_ms = statistics.median(cpu_s for _, cpu_s in taken) * 1000
        click.echo(
            f"{name:34} p50 {statistics.median(walls):6.1f} ms   least {walls[0]:6.1f}   "
            f"p90 {walls[int(len(walls) * 0.9)]:6.1f}   CPU {cpu_ms:6.1f} ms"
        )
    click.echo(f"The target for a run is {LIMIT_MS:.0f} ms. Measured: {folder}, {_kind(folder)}.")


def _kind(folder: Path) -> str:
    """Return how the command in `folder` is installed: `-I` keeps Python from looking where we are."""
    ask = [str(folder / "python"), "-I", "-c", "import isolate; print(isolate.__file__)"]
    place = subprocess.run(ask, capture_output=True, text=True, check=True).stdout
    return "an ordinary installation" if "site-packages" in Path(place).parts else "installed in place"


def _in_turns(contestants: Mapping[str, Callable[[], Sample]], runs: int) -> dict[str, list[Sample]]:
    samples: dict[str, list[Sample]] = {name: [] for name in contestants}
    for _ in range(WARM_UP + runs):
        for name, run_once in contestants.items():
            samples[name].append(run_once())
    return {name: taken[WARM_UP:] for name, taken in samples.items()}


def _started(argv: Sequence[str], *, tells: bool) -> Sample:
    """Return how long it took until what `argv` ran told the time, or until its end; and the processor time of all."""
    env = {key: value for key, value in os.environ.items() if key != "PYTHONDONTWRITEBYTECODE"}
    before, started_s = os.times(), time.time()
    done = subprocess.run(argv, capture_output=True, text=True, check=True, env=env)
    ended_s, after = time.time(), os.times()
    cpu_s = after.children_user + after.children_system - before.children_user - before.children_system
    return (float(done.stdout) if tells else ended_s) - started_s, cpu_s


async def _library(scratch: Path, url: str, root: str, runs: int) -> list[Sample]:
    preload()
    spec = RunSpec(
        root_dir=scratch / "library",
        cache_dir=scratch / "cache",
        base_env={"PATH": os.environ["PATH"]},
        server=url,
        isolated=root,
        command=NOW,
        raw_command=True,
    )
    return [await _timed(lambda stdout: _run(spec, stdout)) for _ in range(WARM_UP + runs)][WARM_UP:]


async def _run(spec: RunSpec, stdout: int) -> None:
    result = await run(spec, stdout=stdout, stop=asyncio.Event(), monitor=NullMonitor(), clock=SystemClock())
    assert result.exit_code == 0, result.internal_failure


async def _timed(run_to: Callable[[int], Awaitable[None]]) -> Sample:
    """Return how long it took until the command told the time, and the processor time of all processes."""
    reading, writing = os.pipe()
    try:
        before, started_s = os.times(), time.time()
        await run_to(writing)
        after = os.times()
        return float(os.read(reading, 100)) - started_s, sum(after[:4]) - sum(before[:4])
    finally:
        os.close(reading)
        os.close(writing)


if __name__ == "__main__":
    sys.exit(run_program("bench.warm_start", main))
