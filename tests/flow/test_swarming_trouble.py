"""The `swarming` commands when something is in the way: servers that die, disks that fill, bots that are lost."""

from __future__ import annotations

import json
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.flow.bots import Gate, running_bot
from tests.flow.fleet import Fleet, running_fleet, task_id_in
from tests.flow.servers import ServerProcess, running_server

RESULT = "import pathlib, sys; pathlib.Path(sys.argv[1], 'r.txt').write_text('x' * 200_000)"


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    with running_fleet(tmp_path_factory.mktemp("fleet")) as running:
        yield running


@contextmanager
def typed(fleet: Fleet, *argv: str) -> Iterator[subprocess.Popen[str]]:
    """Run a command whose stderr is read while it runs."""
    pipe = subprocess.PIPE
    command = subprocess.Popen(argv, env=fleet.env, cwd=fleet.home, stdout=pipe, stderr=pipe, text=True)
    try:
        yield command
    finally:
        command.kill()
        command.communicate()


def wait_for(command: subprocess.Popen[str], text: str) -> str:
    """Read lines of stderr up to one with `text`; returns it."""
    assert command.stderr is not None
    for line in command.stderr:
        if text in line:
            return line
    raise AssertionError(f"{text!r} never came")


def test_a_server_that_restarts_while_tasks_are_triggered(tmp_path: Path) -> None:
    """Each task is made once, however the server went away; a listing of more than a page is complete."""
    (tmp_path / "home").mkdir()
    with running_server(tmp_path / "data") as server:
        fleet = Fleet(server, tmp_path / "home")
        trigger = ["swarming", "trigger", "-v", "--raw-cmd", "-T", "many", "--wait-for-capacity", "--shards", "260"]
        with typed(fleet, *trigger, "--dump-json", "many.json", "--", "true") as command:
            wait_for(command, ": 200 in ")
            server.kill()
            wait_for(command, "connection refused; trying again for 6 minutes")
            successor = ServerProcess(server.data_dir, port=server.port)
            try:
                out, err = command.communicate(timeout=60)
                listed = fleet.run("swarming", "query", "--progress", "-L", "300", "tasks/list")
            finally:
                successor.kill()
    assert command.returncode == 0
    assert out.startswith("Triggered task: many\n")
    assert "\nThe server answers again\n" in err
    dumped = json.loads((tmp_path / "home" / "many.json").read_text())["tasks"]
    assert {task["task_id"] for task in dumped.values()} == {
        task["task_id"] for task in json.loads(listed.stdout)["items"]
    }
    assert len(dumped) == 260
    assert listed.stderr == "..\n"


def test_outputs_whose_server_goes_away(fleet: Fleet, tmp_path: Path) -> None:
    """Interrupted, out of time, or patient until it is back: each time one line, and it is safe to repeat."""
    with running_server(tmp_path / "blobs") as blobs:
        (fleet.home / "tree").mkdir()
        (fleet.home / "tree" / "main.py").write_text(RESULT)
        digest = fleet.ok("isolate", "archive", "-I", blobs.url, "tree").split()[0]
        argv = ["swarming", "run", "-I", blobs.url, "-s", digest, "--raw-cmd", "-T", "far", "--"]
        fleet.ok(*argv, "python3", "main.py", "${ISOLATED_OUTDIR}")
    collect = ["swarming", "collect", "far", "--task-output-dir", "far"]
    gone = f"Cannot reach {blobs.url}: connection refused; trying again for 6 minutes\n"
    with typed(fleet, *collect) as command:
        assert wait_for(command, "Cannot reach") == gone
        command.send_signal(signal.SIGINT)
        assert command.communicate(timeout=60) == ("", "\n")
        assert command.returncode == 130
    late = fleet.run(*collect, "-t", "1")
    assert (late.returncode, late.stdout) == (1, "")
    assert late.stderr.endswith("Results from some shards are missing: 0\n")
    assert json.loads((fleet.home / "far/summary.json").read_text()) == {"shards": [None]}
    assert not list((fleet.home / "far").rglob("*.txt"))
    with typed(fleet, *collect) as command:
        wait_for(command, "Cannot reach")
        successor = ServerProcess(blobs.data_dir, port=blobs.port)
        try:
            out, err = command.communicate(timeout=60)
        finally:
            successor.kill()
    assert (command.returncode, err) == (0, "The server answers again\n")
    assert out.endswith(" 0\n")
    assert (fleet.home / "far/0/r.txt").read_text() == "x" * 200_000


def test_a_disk_that_takes_no_more(fleet: Fleet) -> None:
    script = "import os, pathlib, sys; pathlib.Path(sys.argv[1], 'big').write_bytes(os.urandom(3 << 20))"
    fleet.ok("swarming", "run", "--raw-cmd", "-T", "big", "--", "python3", "-c", script, "${ISOLATED_OUTDIR}")
    collect = "swarming collect big --task-output-dir big"
    full = fleet.run("bash", "-c", f"ulimit -f 2048; {collect}")
    assert full.returncode == 1
    assert full.stdout.endswith(" 0\n"), "what it did is known"
    assert full.stderr.splitlines()[-1].startswith("Outputs of shard 0 are incomplete: Cannot use the cache ")
    assert full.stderr.endswith("File too large\n")
    fleet.ok(*collect.split())
    assert (fleet.home / "big/0/big").stat().st_size == 3 << 20


def test_a_task_that_waited_for_too_long(fleet: Fleet) -> None:
    argv = ["swarming", "run", "--raw-cmd", "-d", "os", "Amiga", "--wait-for-capacity", "--expiration", "1"]
    done = fleet.run(*argv, "--decorate", "--", "true")
    assert done.returncode == 1
    assert "s  EXPIRED (lack of capacity)" in done.stdout
    task_id = done.stdout.split("/task?id=")[1][:16]
    plain = fleet.run("swarming", "collect", task_id)
    assert (plain.returncode, plain.stdout) == (1, f"N/A: {task_id} None\n")
    mixed = fleet.run("swarming", "collect", "1234567890abcd10", task_id)
    assert (mixed.returncode, mixed.stdout) == (1, plain.stdout)
    assert mixed.stderr.endswith("Task 1234567890abcd10 not found\nResults from some shards are missing: 0\n")
    assert plain.stderr == "Shard 0 EXPIRED: no bot took it in time (`tasks why` says what is lacking)\n"


def test_a_task_whose_bot_is_lost(fleet: Fleet, gate: Gate, tmp_path: Path) -> None:
    run = ["swarming", "run", "--raw-cmd", "-d", "id", "frail", "--", *gate.task(before="print('up', flush=True)")]
    with running_bot(fleet.server, tmp_path / "b", "frail") as bot, typed(fleet, *run) as command:
        assert command.stdout is not None
        while command.stdout.readline() != "  up\n":  # that it started is known: it will not be tried again
            pass
        bot.signal(signal.SIGKILL)
        with running_bot(fleet.server, tmp_path / "b", "frail"):
            out, err = command.communicate(timeout=60)
    assert command.returncode == 1
    assert out.splitlines()[-1].startswith("frail: ")
    assert out.endswith(" None\n")
    assert err == "Shard 0 BOT_DIED: its bot was lost, or could not run it\n"


def test_a_run_that_is_interrupted_while_it_triggers(fleet: Fleet) -> None:
    """Every task that the server has taken is named."""
    argv = ["swarming", "run", "-v", "--raw-cmd", "-T", "half", "-d", "os", "Amiga", "--shards", "5000", "--", "true"]
    with typed(fleet, *argv) as command:
        wait_for(command, ": 200 in ")
        command.send_signal(signal.SIGINT)
        _, err = command.communicate(timeout=60)
    assert command.returncode == 130
    *_, first, second = err.splitlines()
    assert first == "Left running. To collect results, use:"
    listed = json.loads(fleet.ok("swarming", "query", "-L", "5000", "tasks/list"))["items"]
    assert set(second.split()[4:]) == {task["task_id"] for task in listed if task["name"].startswith("half:")}
    partial = fleet.run("swarming", "collect", "half")
    assert partial.returncode == 1
    assert "swarming: error: The newest 'half' has only " in partial.stderr
    assert " of its 5000 shards: " in partial.stderr


def test_a_time_limit_is_kept_without_a_server(tmp_path: Path) -> None:
    (tmp_path / "home").mkdir()
    with running_server(tmp_path / "data") as server:
        fleet = Fleet(server, tmp_path / "home")
        trigger = ["swarming", "trigger", "--raw-cmd", "--wait-for-capacity", "--", "true"]
        collect = subprocess.Popen(
            ["swarming", "collect", task_id_in(fleet.ok(*trigger)), "-v", "-t", "3"],
            env=fleet.env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        assert collect.stderr is not None
        while ": 200 in " not in collect.stderr.readline():
            pass
        server.kill()
        out, err = collect.communicate(timeout=60)
    assert (collect.returncode, out) == (1, "")
    assert err.endswith("\nResults from some shards are missing: 0\n")


def test_a_server_that_restarts_in_the_middle_is_survived(tmp_path: Path, gate: Gate) -> None:
    with running_fleet(tmp_path) as fleet:
        task_id = task_id_in(fleet.ok("swarming", "trigger", "--raw-cmd", "--", *gate.task(after="print('after')")))
        gate.wait_for_task()
        collect = subprocess.Popen(
            ["swarming", "collect", task_id, "-v"],
            env=fleet.env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        assert collect.stderr is not None
        while ": 200 in " not in collect.stderr.readline():
            pass
        fleet.server.kill()
        while "connection refused" not in collect.stderr.readline():
            pass
        successor = ServerProcess(fleet.server.data_dir, port=fleet.server.port)
        try:
            gate.let_pass()
            out, _ = collect.communicate(timeout=120)
        finally:
            successor.kill()
        assert collect.returncode == 0
        assert out.endswith(f": {task_id} 0\n  after\n\n")


def test_a_reader_that_has_seen_enough(fleet: Fleet, gate: Gate) -> None:
    """`run … | head` is told no error, but how to come by the rest."""
    with typed(fleet, "swarming", "run", "--raw-cmd", "--", *gate.task(after="print('x' * 100_000)")) as command:
        assert command.stdout is not None
        assert command.stderr is not None
        task_id = [command.stdout.readline() for _ in range(2)][1].strip().rpartition("=")[2]
        command.stdout.close()
        gate.wait_for_task()
        gate.let_pass()
        said = command.stderr.read()
        assert command.wait(60) == 1
        command.stdout = None
    assert said == f"To collect results, use:\n  swarming.py collect -S {fleet.server.url} {task_id}\n"
