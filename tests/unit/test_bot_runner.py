"""The runner: a real one, with no server behind it."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import socket
import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from pathlib import Path
from subprocess import PIPE, run
from types import NoneType, UnionType
from typing import Any, get_args, get_type_hints

import pytest

from isolate.cas.digest import Namespace
from run_isolated.cgroups import Limits
from run_isolated.spec import NamedCache, RunSpec
from swarming.bot import job as job_module
from swarming.bot import launch
from swarming.bot.crew import RunnerProcess
from swarming.bot.job import Finished, job_message, job_of
from swarming.bot.launch import RUNNER_COMMAND, Launch

LIMIT_S = 60.0


class Bot:
    """What a bot is to its runner."""

    def __init__(self, runner: RunnerProcess) -> None:
        self.runner = runner
        self._output = os.fdopen(runner.take_output(), "rb")

    async def end(self) -> Finished:
        """Return the answer of the runner."""
        async with asyncio.timeout(LIMIT_S):
            while (message := await self.runner.receive()) is not None:
                if "finished" in message:
                    return Finished.from_message(message["finished"])
        raise AssertionError("The runner ended without an answer")

    async def line(self) -> bytes:
        """Return the next line the task prints."""
        return await asyncio.to_thread(self._output.readline)

    def close(self) -> None:
        self._output.close()


@pytest.fixture
async def bot(tmp_path: Path) -> AsyncIterator[Bot]:
    process = await RunnerProcess.start(Launch(RUNNER_COMMAND, dict(os.environ)), tmp_path, tmp_path / "log")
    made = Bot(process)
    yield made
    process.kill()
    await process.close()
    made.close()


def job(tmp_path: Path, *command: str, **changes: Any) -> dict[str, object]:
    values: dict[str, Any] = {
        "root_dir": tmp_path / "w",
        "base_env": {"PATH": os.environ["PATH"]},
        "command": command,
        "raw_command": True,
        "min_free_space_bytes": 0,
    }
    return job_message(RunSpec(**{**values, **changes}))


def test_a_job_survives_the_way_to_the_runner(tmp_path: Path) -> None:
    """Each value is of its own type again; `repr` shows what `==` of a named tuple and a tuple hides."""
    spec = RunSpec(
        root_dir=tmp_path,
        cache_dir=tmp_path / "c",
        base_env={"A": "b"},
        namespace=Namespace.parse("sha256-flat"),
        command=["x"],
        env_prefixes={"PATH": ["bin"]},
        named_caches=[NamedCache("n", "p", 7)],
        named_cache_root=tmp_path / "n",
        limits=Limits(1, 2, 0.5),
    )
    assert repr(job_of(json.loads(json.dumps(job_message(spec))))) == repr(spec).replace("=()", "=[]")


def test_a_runner_whose_bot_is_gone_writes_nothing_beside_the_program(tmp_path: Path) -> None:
    """Who saw the bot die deletes its program, and must not find new files in it meanwhile."""
    for package in ("isolate", "run_isolated", "swarming"):
        sources = shutil.ignore_patterns("__pycache__")
        shutil.copytree(Path(launch.__file__).parents[2] / package, tmp_path / package, ignore=sources)
    with socket.socket() as channel:
        arguments = [str(channel.fileno()), str(channel.fileno()), str(os.getppid())]
        code = f"import subprocess; from {launch.__name__} import RUNNER_COMMAND as command; "
        code += (
            f"found = subprocess.run([*command, *{arguments}], pass_fds=[{channel.fileno()}])\nprint(found.returncode)"
        )
        env = {"PYTHONPATH": str(tmp_path)}

        def bot_and_runner() -> tuple[str, list[Path]]:
            found = run(
                [sys.executable, "-P", "-c", code], env=env, pass_fds=[channel.fileno()], check=True, stdout=PIPE
            )
            return found.stdout.decode().strip(), sorted(tmp_path.rglob("*"))

        def bot() -> list[Path]:
            run([sys.executable, "-P", "-c", f"import {launch.__name__}"], env=env, check=True)
            return sorted(tmp_path.rglob("*"))

        before = bot()
        assert any(path.suffix == ".pyc" for path in before)
        assert bot_and_runner() == (str(-signal.SIGKILL), before)


def test_what_json_has_no_type_for_is_made_again() -> None:
    plain = {bool, int, float, str, Mapping[str, str], Mapping[str, Sequence[str]], Sequence[str]}
    for name, kind in get_type_hints(RunSpec).items():
        alternatives = set(get_args(kind)) - {NoneType} if isinstance(kind, UnionType) else {kind}
        assert (name in job_module.MADE) == (not alternatives <= plain), name


async def test_a_job_is_run_and_answered(bot: Bot, tmp_path: Path) -> None:
    await bot.runner.send(job(tmp_path, "sh", "-c", "echo hello; exit 4"))
    finished = await bot.end()
    assert (finished.exit_code, finished.failure, finished.stopped) == (4, None, False)
    assert await bot.runner.close() == "status 0"
    assert await bot.line() == b"hello\n"
    assert await bot.line() == b""


async def test_an_order_stops_the_task(bot: Bot, tmp_path: Path) -> None:
    code = "import time; print('ready', flush=True); time.sleep(1000)"
    await bot.runner.send(job(tmp_path, sys.executable, "-c", code, grace_period_s=30.0))
    assert await bot.line() == b"ready\n"
    await bot.runner.send({"stop": True})
    finished = await bot.end()
    assert (finished.exit_code, finished.stopped) == (-15, True)


async def test_what_a_killed_runner_leaves_in_the_pipe_can_be_read(bot: Bot, tmp_path: Path) -> None:
    code = "import time; print('ready', flush=True); time.sleep(1000)"
    await bot.runner.send(job(tmp_path, sys.executable, "-c", code))
    assert await bot.line() == b"ready\n"
    bot.runner.kill()
    assert await bot.runner.close() == "signal 9"
    assert await bot.line() == b""  # which also says that no process of the task is left


async def test_a_command_that_cannot_be_started_says_why(bot: Bot, tmp_path: Path) -> None:
    await bot.runner.send(job(tmp_path, "./no-such-command"))
    assert (await bot.end()).exit_code == 1
    assert b"executable does not exist" in await bot.line()


async def test_a_runner_without_a_bot_ends(tmp_path: Path) -> None:
    process = await RunnerProcess.start(Launch(RUNNER_COMMAND, dict(os.environ)), tmp_path, tmp_path / "log")
    async with asyncio.timeout(LIMIT_S):
        assert await process.receive() == {"ready": True}
        assert await process.close() == "status 0"
    assert (tmp_path / "log").read_text() == ""
