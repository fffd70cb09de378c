"""One task, with a scripted server, a scripted runner and a clock that moves by hand."""

from __future__ import annotations

import asyncio
import base64
import errno
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from isolate.errors import LeaseLost, Refused
from swarming.bot.crew import Standby
from swarming.bot.launch import Launch
from swarming.bot.output import CHUNK_BYTES
from swarming.bot.protocol import Updated
from swarming.bot.task import HEARTBEAT_S, NEXT_RUNNER_S, TaskRun
from swarming.bot.verdict import Why
from swarming.bot.workdir import WorkDirectory
from swarming.bot.workplace import Workplace
from tests.clock import ManualClock
from tests.unit.bot_doubles import GOING_ON, ScriptedApi, ScriptedRunner, ScriptedScript, manifest, until

STOP = Updated(must_stop=True, update_every_s=None)


class Scene:
    """A task under test and all it talks to."""

    def __init__(self, directory: WorkDirectory, **changes: Any) -> None:
        self.api, self.clock, self.runner = ScriptedApi(), ManualClock(), ScriptedRunner()
        self.directory, self.started = directory, 0
        self.launches: list[Launch] = []
        self.start_error: OSError | None = None
        self.script = ScriptedScript()
        place = Workplace(directory, "http://localhost", "bot-1", {"PATH": "/bin"}, 3.6, self.script)
        standby = Standby(self._start, place.usual)
        self.task = TaskRun(manifest(**changes), self.api, standby, place, self.clock)
        self._running: asyncio.Task[str] | None = None

    async def _start(self, launch: Launch) -> ScriptedRunner:
        self.started += 1
        self.launches.append(launch)
        if self.start_error is not None:
            raise self.start_error
        return self.runner if self.started == 1 else ScriptedRunner()

    async def begin(self) -> None:
        """Run the task until the runner has its job and everyone waits."""
        self._running = asyncio.create_task(self.task.run())
        await until(lambda: (bool(self.runner.told) and self._waiting >= 2) or self.ended)

    async def pass_time(self, by_s: float) -> None:
        """Move the clock when both the reporter and the watcher wait for it."""
        await until(lambda: self._waiting >= 2)
        self.clock.advance(by_s)

    async def stopped(self) -> None:
        """Return when the runner has been told to stop, and its time to do so is running."""
        await until(lambda: len(self.runner.told) == 2 and self._waiting > 0)

    @property
    def _waiting(self) -> int:
        return sum(not future.done() for _, _, future in self.clock._sleepers)

    @property
    def ended(self) -> bool:
        return self._running is not None and self._running.done()

    async def outcome(self) -> str:
        assert self._running is not None
        async with asyncio.timeout(20):
            return await self._running

    @property
    def spec(self) -> dict[str, Any]:
        return self.runner.told[0]

    @property
    def output(self) -> bytes:
        return b"".join(base64.b64decode(update.get("output", "")) for update in self.api.updates)


@pytest.fixture
def directory(tmp_path: Path) -> Iterator[WorkDirectory]:
    with WorkDirectory.taken(tmp_path / "bot") as taken:
        yield taken


@pytest.fixture
async def scene(directory: WorkDirectory) -> Scene:
    return Scene(directory)


async def test_a_task_is_accepted_run_and_reported(scene: Scene) -> None:
    await scene.begin()
    assert scene.api.updates == [{"task_id": "5cee488008811", "cost_usd": 0.0}]
    scene.runner.prints(b"hello\n")
    await scene.pass_time(2)
    scene.runner.finish(exit_code=3)
    assert await scene.outcome() == "exit code 3 after 1.5 s"
    last = scene.api.updates[-1]
    assert (last["exit_code"], last["duration"], last["bot_overhead"]) == (3, 1.5, 0.5)
    assert last["cost_usd"] == pytest.approx(0.002)
    assert scene.output == b"hello\n"
    assert scene.runner.closed
    assert list(scene.directory.work.iterdir()) == []


async def test_the_task_knows_where_it_runs(scene: Scene) -> None:
    await scene.begin()
    scene.runner.finish()
    await scene.outcome()
    assert scene.spec["base_env"] == {
        "PATH": "/bin",
        "SWARMING_HEADLESS": "1",
        "SWARMING_BOT_ID": "bot-1",
        "SWARMING_TASK_ID": "5cee488008811",
        "SWARMING_SERVER": "http://localhost",
        "LUCI_CONTEXT": str(scene.directory.context),
    }
    assert scene.spec["server"] == "http://localhost"
    assert scene.spec["namespace"] == "blake3-zstd"


async def test_a_secret_is_in_a_private_file_while_the_task_runs(directory: WorkDirectory) -> None:
    scene = Scene(directory, secret_bytes="YWJj")
    await scene.begin()
    path = Path(scene.spec["base_env"]["LUCI_CONTEXT"])
    assert json.loads(path.read_text()) == {"swarming": {"secret_bytes": "YWJj"}}
    assert path.stat().st_mode & 0o777 == 0o600
    scene.runner.finish()
    await scene.outcome()
    assert not path.exists()


@pytest.mark.parametrize(
    ("changes", "sections"),
    [
        ({}, {}),
        (
            {"hard_timeout_s": 60.0, "grace_period_s": 5.0},
            {"deadline": {"deadline": 1060.0, "grace_period_secs": 5.0}},
        ),
        ({"realm": "project:try"}, {"realm": {"name": "project:try"}}),
    ],
)
def test_every_task_is_told_of_its_surroundings(
    directory: WorkDirectory, changes: dict[str, Any], sections: dict[str, Any]
) -> None:
    place = Workplace(directory, "http://localhost", "bot-1", {}, 0.0, ScriptedScript())
    spec = place.prepare(manifest(**changes), 1000.0)
    assert json.loads(Path(spec.base_env["LUCI_CONTEXT"]).read_text()) == sections


@pytest.mark.parametrize("answer", [LeaseLost("offer lapsed"), Refused("no")])
async def test_nothing_runs_before_the_server_agrees(scene: Scene, answer: Exception) -> None:
    scene.api.update_answers = [answer]
    await scene.begin()
    assert str(answer) in await scene.outcome()
    assert scene.runner.told == []
    assert scene.api.failures == []


async def test_a_task_canceled_before_it_started_does_not_run(scene: Scene) -> None:
    scene.api.update_answers = [STOP]
    await scene.begin()
    assert await scene.outcome() == "canceled before it started"
    assert scene.api.updates[-1] == {"task_id": "5cee488008811", "canceled": True, "exit_code": -1}
    assert scene.runner.told == []


async def test_heartbeats_go_on_while_the_task_is_silent(scene: Scene) -> None:
    await scene.begin()
    for beats in range(1, 4):
        await scene.pass_time(HEARTBEAT_S)
        await until(lambda expected=beats + 1: len(scene.api.updates) == expected)  # type: ignore[misc]
    scene.runner.finish()
    await scene.outcome()
    assert [set(update) for update in scene.api.updates[1:4]] == [{"task_id", "cost_usd"}] * 3


async def test_the_next_runner_starts_beside_a_task_that_takes_a_while(scene: Scene) -> None:
    await scene.begin()
    assert scene.started == 1
    await scene.pass_time(NEXT_RUNNER_S)
    await until(lambda: scene.started == 2)
    scene.runner.finish()
    assert "exit code 0" in await scene.outcome()


async def test_the_server_says_how_often_to_report(scene: Scene) -> None:
    scene.api.update_answers = [Updated(must_stop=False, update_every_s=1.0)]
    await scene.begin()
    await scene.pass_time(1)
    await until(lambda: len(scene.api.updates) == 2)
    scene.runner.finish()
    assert "exit code 0" in await scene.outcome()


async def test_a_full_chunk_is_sent_at_once(scene: Scene) -> None:
    await scene.begin()
    scene.runner.prints(b"x" * CHUNK_BYTES)
    await until(lambda: len(scene.api.updates) == 2)
    assert scene.clock.monotonic() == 0
    scene.runner.finish()
    await scene.outcome()
    assert scene.output == b"x" * CHUNK_BYTES


async def test_a_killed_task_is_stopped_and_its_end_reported(scene: Scene) -> None:
    scene.api.update_answers = [GOING_ON, STOP]
    await scene.begin()
    await scene.pass_time(HEARTBEAT_S)
    await scene.stopped()
    scene.runner.finish(exit_code=-15, stopped=True)
    assert await scene.outcome() == "exit code -15 after 1.5 s"
    assert scene.api.updates[-1]["exit_code"] == -15


async def test_a_lost_lease_stops_the_task_and_drops_the_result(scene: Scene) -> None:
    scene.api.update_answers = [GOING_ON, LeaseLost("somebody else has it")]
    await scene.begin()
    await scene.pass_time(HEARTBEAT_S)
    await scene.stopped()
    scene.runner.finish(exit_code=0)
    assert "dropped" in await scene.outcome()
    assert len(scene.api.updates) == 2
    assert scene.api.failures == []


async def test_silence_beyond_the_limit_stops_the_task(directory: WorkDirectory) -> None:
    scene = Scene(directory, io_timeout_s=5.0)
    await scene.begin()
    await scene.pass_time(4)
    scene.runner.prints(b"still here")
    await until(lambda: scene.task._sign_s == 4)
    await scene.pass_time(4)
    await asyncio.sleep(0)
    assert len(scene.runner.told) == 1
    await scene.pass_time(1)
    await scene.stopped()
    scene.runner.finish(exit_code=-15, stopped=True)
    await scene.outcome()
    assert scene.api.updates[-1]["io_timeout"] is True


async def test_a_runner_that_does_not_obey_is_killed(scene: Scene) -> None:
    await scene.begin()
    scene.task.stop(Why.KILLED)
    await scene.stopped()
    await scene.pass_time(1000)
    assert "killed by request" in await scene.outcome()
    assert scene.runner.killed
    assert len(scene.api.failures) == 1


async def test_a_runner_that_crashes_fails_the_task_and_keeps_its_output(scene: Scene) -> None:
    await scene.begin()
    scene.runner.prints(b"last words")
    scene.runner.kill()
    await scene.outcome()
    assert scene.api.failures == ["5cee488008811: Execution failed: internal error (the runner ended with signal 9)"]
    assert scene.output == b"last words"


async def test_output_that_the_disk_did_not_take_fails_a_success_and_is_said(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scene.task._spool, "_write", refused)
    await scene.begin()
    scene.runner.prints(b"lost")
    scene.runner.finish()
    await scene.outcome()
    said = "the bot's disk was full: 4 bytes of output after this were not kept"
    assert scene.output == f"\n[{said}]\n".encode()
    assert scene.api.failures == [f"5cee488008811: Execution failed: {said}"]
    assert scene.script.wishes.events == [("bot_error", f"Output of 5cee488008811: {said}")]


def refused(file: int, data: bytes) -> int:
    raise OSError(errno.ENOSPC, "No space left on device")


async def test_a_task_that_cannot_be_prepared_fails(directory: WorkDirectory) -> None:
    scene = Scene(directory, namespace="no such namespace")
    await scene.begin()
    await scene.outcome()
    assert len(scene.api.failures) == 1
    assert "Namespace" in scene.api.failures[0]


async def test_a_mistake_of_ours_fails_the_task_instead_of_leaving_it(scene: Scene) -> None:
    await scene.begin()
    scene.runner.say({"finished": {"no such field": 1}})
    await scene.outcome()
    assert "internal error" in scene.api.failures[0]
    assert scene.runner.closed


async def test_a_bot_that_is_shut_down_says_so(scene: Scene) -> None:
    await scene.begin()
    scene.task.stop(Why.SHUTDOWN)
    await scene.stopped()
    scene.runner.finish(exit_code=-15, stopped=True)
    assert "told to end" in await scene.outcome()
    assert "told to end" in scene.api.failures[0]


async def test_hooks_see_a_task_before_and_after(scene: Scene) -> None:
    await scene.begin()
    scene.runner.finish(exit_code=3)
    await scene.outcome()
    (before, bot_file, launch), (after, told) = scene.script.calls
    assert (before, after) == ("before_task", "after_task")
    assert bot_file == scene.directory.bot_file
    assert launch.env == {"PATH": "/bin"}
    assert scene.spec["bot_file"] == str(bot_file)
    assert (told["failure"], told["internal_failure"], told["dimensions"]) == (True, False, {"pool": ["default"]})
    assert told["summary"]["exit_code"] == 3
    assert "exit_code" in scene.api.updates[-1]


async def test_another_environment_takes_another_runner(scene: Scene) -> None:
    scene.script.launch = Launch(("runner",), {"PATH": "/bin", "MORE": "x"})
    await scene.begin()
    assert scene.launches == [scene.script.launch]
    assert scene.spec["base_env"]["MORE"] == "x"
    assert scene.spec["base_env"]["SWARMING_TASK_ID"]
    scene.runner.finish()
    await scene.outcome()


async def test_a_command_of_a_hook_that_cannot_be_started_is_held_against_it(scene: Scene) -> None:
    scene.script.launch = Launch(("/nonexistent",), {})
    scene.start_error = FileNotFoundError(errno.ENOENT, "No such file or directory")
    await scene.begin()
    await scene.outcome()
    assert len(scene.api.failures) == 1
    reason = "a command that cannot be started (No such file or directory): /nonexistent"
    assert ("refuse_launch", reason) in scene.script.calls


@pytest.mark.parametrize(
    ("is_runner", "is_shot", "is_blamed"), [(False, False, True), (True, False, False), (False, True, False)]
)
async def test_a_command_of_a_hook_that_starts_no_runner_is_held_against_it(
    scene: Scene, *, is_runner: bool, is_shot: bool, is_blamed: bool
) -> None:
    scene.script.launch = Launch(("true",), {})
    await scene.begin()
    if is_runner:
        scene.runner.say({"ready": True})
    (scene.runner.kill if is_shot else scene.runner.end)()
    await scene.outcome()
    assert len(scene.api.failures) == 1
    reason = "a command that starts no runner, it ended with status 0: true"
    assert (("refuse_launch", reason) in scene.script.calls) is is_blamed


async def test_heartbeats_go_on_while_a_hook_takes_its_time(scene: Scene) -> None:
    scene.script.holding = asyncio.Event()
    running = asyncio.create_task(scene.task.run())
    await until(lambda: bool(scene.script.calls) and scene._waiting >= 1)
    scene.clock.advance(HEARTBEAT_S)
    await until(lambda: len(scene.api.updates) == 2)
    assert not scene.launches
    scene.script.holding.set()
    await until(lambda: bool(scene.runner.told))
    scene.runner.finish()
    await running


async def test_a_task_that_is_killed_during_the_hook_never_starts(scene: Scene) -> None:
    scene.script.holding = asyncio.Event()
    running = asyncio.create_task(scene.task.run())
    await until(lambda: bool(scene.script.calls))
    scene.task.stop(Why.KILLED)
    scene.script.holding.set()
    assert "killed by request" in await running
    assert not scene.launches
    assert len(scene.api.failures) == 1


async def test_what_an_hour_costs_may_be_said_by_a_hook(scene: Scene) -> None:
    scene.script.cost_usd_hour = 7.2
    await scene.begin()
    scene.clock.advance(100)
    scene.runner.finish()
    await scene.outcome()
    assert scene.api.updates[-1]["cost_usd"] == pytest.approx(0.2)
