"""The runner: a real one, with no server behind it."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from run_isolated.spec import RunSpec
from swarming.bot.crew import RunnerProcess
from swarming.bot.job import Finished, Job

LIMIT_S = 60.0


@pytest.fixture
async def runner(tmp_path: Path) -> AsyncIterator[RunnerProcess]:
    process = await RunnerProcess.start(tmp_path, dict(os.environ), tmp_path / "log")
    yield process
    process.kill()
    await process.close()


def job(tmp_path: Path, *command: str, **changes: Any) -> dict[str, object]:
    values: dict[str, Any] = {
        "root_dir": tmp_path / "w",
        "base_env": {"PATH": os.environ["PATH"]},
        "command": command,
        "raw_command": True,
        "min_free_space_bytes": 0,
    }
    return Job(RunSpec(**{**values, **changes}), tmp_path / "stdout").to_message()


async def end_of(runner: RunnerProcess) -> tuple[Finished, list[int]]:
    """Return the answer, and the lengths of the output that were announced before."""
    announced: list[int] = []
    async with asyncio.timeout(LIMIT_S):
        while (message := await runner.receive()) is not None:
            announced += [message["written"]] if "written" in message else []
            if "finished" in message:
                return Finished.from_message(message["finished"]), announced
    raise AssertionError("The runner ended without an answer")


def test_a_job_survives_the_way_to_the_runner(tmp_path: Path) -> None:
    spec = RunSpec(root_dir=tmp_path, base_env={"A": "b"}, command=["x"], env_prefixes={"PATH": ["bin"]})
    assert Job.from_message(Job(spec, tmp_path / "stdout").to_message()) == Job(spec, tmp_path / "stdout")


async def test_a_job_is_run_and_answered(runner: RunnerProcess, tmp_path: Path) -> None:
    await runner.send(job(tmp_path, "sh", "-c", "echo hello; exit 4"))
    finished, announced = await end_of(runner)
    assert (finished.exit_code, finished.failure, finished.stopped) == (4, None, False)
    assert (tmp_path / "stdout").read_bytes() == b"hello\n"
    assert announced[-1] == 6
    assert await runner.close() == "status 0"


async def test_an_order_stops_the_task(runner: RunnerProcess, tmp_path: Path) -> None:
    code = "import time; print('ready', flush=True); time.sleep(1000)"
    await runner.send(job(tmp_path, sys.executable, "-c", code, grace_period_s=30.0))
    async with asyncio.timeout(LIMIT_S):
        while (await runner.receive() or {}).get("written") != len("ready\n"):
            pass
    await runner.send({"stop": True})
    finished, _ = await end_of(runner)
    assert (finished.exit_code, finished.stopped) == (-15, True)


async def test_a_command_that_cannot_be_started_says_why(runner: RunnerProcess, tmp_path: Path) -> None:
    await runner.send(job(tmp_path, "./no-such-command"))
    finished, _ = await end_of(runner)
    assert finished.exit_code == 1
    assert b"executable does not exist" in (tmp_path / "stdout").read_bytes()


async def test_a_runner_without_a_bot_ends(tmp_path: Path) -> None:
    process = await RunnerProcess.start(tmp_path, dict(os.environ), tmp_path / "log")
    async with asyncio.timeout(LIMIT_S):
        assert await process.receive() == {"ready": True}
        assert await process.close() == "status 0"
    assert (tmp_path / "log").read_text() == ""
