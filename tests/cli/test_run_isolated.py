"""The `run_isolated` command without a server: flags, exit statuses, signals, and nothing left behind."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.processes import has_ended

COMMAND = str(Path(sys.executable).parent / "run_isolated")
WAITS = "echo $$; while :; do sleep 1000; done"  # tells that it runs, and the shell's pid


WRONG = [
    ([], "--isolated or command to run is required."),
    (["-s", "a" * 64], "--isolated requires --isolate-server"),
    (["-I", "localhost:1", "-s", "abc"], "is not a hash"),
    (["-I", "localhost:1", "-s", "z" * 64], "is not a blake3-256 digest"),
    (["-I", "localhost:1", "-s", "a" * 64, "--namespace", "default"], "is not a sha-1 digest"),
    (["-I", "ftp://host", "true"], "scheme must be http or https"),
    (["-I", "localhost:1", "--namespace", "a/b", "true"], "Namespace 'a/b'"),
    (["--raw-cmd"], "--isolated or command to run is required."),
    (["--relative-cwd", "x", "true"], "--relative-cwd requires --raw-cmd"),
    (["--raw-cmd", "--relative-cwd", "../x", "true"], "is not inside the run directory"),
    (["--env", "A", "true"], "--env 'A' is not KEY=VALUE"),
    (["--env-prefix", "A=/x", "true"], "is not inside the run directory"),
    (["--env-prefix", "A=", "true"], "names no path"),
    (["--output", "../x", "true"], "is not inside the run directory"),
    (["--hard-timeout", "-1", "true"], "--hard-timeout must be a number of seconds"),
    (["--grace-period", "nan", "true"], "--grace-period must be a number of seconds"),
    (["echo", "${ISOLATED_OUTDIR}"], "${ISOLATED_OUTDIR} requires --isolate-server"),
    (["--no-such-flag"], "No such option"),
    (["--clean", "true"], "--clean goes with none of"),
    (["-a", "absent", "true"], "--argsfile goes with no other argument"),
    (["-v", "-a", "absent"], "--argsfile goes with no other argument"),
    (["-a", "absent", "-v"], "--argsfile goes with no other argument"),
    (["-a", "absent"], "Cannot read 'absent'"),
    (["-a", "/etc/hostname"], "is not a JSON array of strings"),
    (["--cipd-enabled=true", "true"], "CIPD is not supported"),
    (["--cipd-enabled", "--", "true"], "CIPD is not supported"),
    (["--env-prefix", "A", "true"], "--env-prefix 'A' is not KEY=./PATH"),
    (["--cipd-server", "https://x", "true"], "--cipd-server: CIPD is not supported (--cipd-enabled=false)"),
    (["--cipd-enabled=false", "--cipd-package", "a:b:c", "true"], "CIPD packages are not supported"),
    (["--cas-instance", "x", "true"], "Trees in a remote CAS are not supported"),
    (["--cas-digest", "x/1", "true"], "Trees in a remote CAS are not supported"),
    (["--cas-cache", "x", "true"], "the cache is --cache"),
    (["--named-cache", "A", "a", "0", "true"], "'A' cannot name a cache"),
    (["--named-cache", "a", "../a", "0", "true"], "is not inside the run directory"),
    (["--named-cache", "a", ".", "0", "true"], "cannot be the run directory itself"),
    (["--named-cache", "a", "a", "x", "true"], "the hint 'x' is not a number of bytes"),
    (["--named-cache", "a", "a", "0", "--named-cache", "a", "b", "0", "true"], "collides with a"),
    (["--named-cache", "a", "x", "0", "--named-cache", "b", "x", "0", "true"], "collides with a"),
    (["--named-cache", "a", "a", "0", "--clean"], "--clean goes with none of"),
    (["--map", "symlink", "true"], "'symlink' is not one of"),
    (["--containment-type", "X", "true"], "'X' is not one of"),
    (["--named-cache", "a", "a"], "requires 3 arguments"),
    (["--map", "", "true"], "'' is not one of"),
    (["--max-cache-size", "-1", "true"], "-1 is not in the range"),
    (["--max-cache-size", "1G", "true"], "'1G' is not a valid number"),
    (["--max-items", "x", "true"], "'x' is not a valid number"),
    (["--min-free-space", "", "true"], "is not a valid number"),
    (["--hard-timeout", "x", "true"], "'x' is not a valid float"),
    (["--hard-timeout", "inf", "true"], "--hard-timeout must be a number of seconds"),
    (["--hard-timeout"], "requires an argument"),
    (["--json", "/", "true"], "is a directory"),
    (["--json", "", "true"], "the path is empty"),
    (["--json", "absent/x", "true"], "Cannot write the result to 'absent/x': No such file or directory"),
    (["--cache", "", "true"], "the path is empty"),
    (["--root-dir", "", "true"], "the path is empty"),
    (["--limit-processes", "-1", "true"], "-1 is not in the range"),
    (["--cache", "/etc/hostname", "true"], "is a file"),
    (["--root-dir", "/etc/hostname", "true"], "is a file"),
    (["--env", "=x", "true"], "--env '=x' is not KEY=VALUE"),
    (["--output", "", "true"], "--output is empty"),
    (["--output", "a", "--relative-cwd", "a", "true"], "--relative-cwd requires --raw-cmd"),
    (["-I", "", "-s", "a" * 64], "--isolate-server is empty"),
    (["-s", "a" * 64], "--isolated requires --isolate-server"),
    (["-I", "localhost:1", "-s", ""], "is not a hash"),
    (["--clean", "--json", "x"], "--clean goes with none of"),
    (["--clean", "-I", "localhost:1"], "--clean goes with none of"),
    (["--clean", "-s", "a" * 64], "--clean goes with none of"),
]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "root"


def environment(root: Path) -> dict[str, str]:
    dropped = {"ISOLATE_SERVER", "ISOLATE_DEBUG", "SWARMING_TASK_ID"}
    kept = {key: value for key, value in os.environ.items() if key not in dropped}
    return kept | {"XDG_CACHE_HOME": str(root.parent / "cache")}


def run(root: Path, *arguments: str | Path, **env: str) -> subprocess.CompletedProcess[str]:
    command = [COMMAND, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, env=environment(root) | env, cwd=root.parent)


def run_here(root: Path, *arguments: str | Path, **env: str) -> subprocess.CompletedProcess[str]:
    """Run with work directories in `root`, and check that none is left."""
    done = run(root, "--root-dir", root, *arguments, **env)
    assert os.listdir(root) == []
    return done


@contextmanager
def started(root: Path, *arguments: str) -> Iterator[tuple[subprocess.Popen[str], int]]:
    """Give a run whose command has told its pid."""
    command = [COMMAND, "--root-dir", str(root), *arguments]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment(root), cwd=root.parent
    ) as process:
        try:
            assert process.stdout is not None
            yield process, int(process.stdout.readline())
        finally:
            process.kill()


def result(path: Path) -> dict[str, Any]:
    loaded = json.loads(path.read_text())
    assert isinstance(loaded, dict)
    return loaded


@pytest.mark.parametrize(("code", "status"), [("exit 0", 0), ("exit 3", 3), ("kill -9 $$", 256 - 9)])
def test_exit_status_is_that_of_the_command(root: Path, code: str, status: int) -> None:
    done = run_here(root, "sh", "-c", code)
    assert (done.returncode & 0xFF, done.stdout, done.stderr) == (status, "", "")


def test_streams_are_inherited_and_options_after_the_command_are_its_own(root: Path) -> None:
    done = subprocess.run(
        [COMMAND, "--root-dir", root, "sh", "-c", 'cat; echo "$1" >&2', "sh", "--json"],
        input="from stdin",
        capture_output=True,
        text=True,
        env=environment(root),
        cwd=root.parent,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "from stdin", "--json\n")


def test_command_runs_in_a_fresh_directory_with_its_own_temp_dir(root: Path) -> None:
    done = run_here(root, "sh", "-c", 'pwd; ls -A; echo "$TMPDIR"; touch "$TMPDIR/x"')
    run_dir, temp_dir = map(Path, done.stdout.split())
    assert run_dir.parent == temp_dir.parent
    assert run_dir.parent.parent == root.resolve()
    assert (run_dir.name, temp_dir.name) == ("ir", "it")


def test_command_has_a_session_and_a_group_of_its_own(root: Path) -> None:
    code = "import os; print(os.getsid(0) == os.getpgrp() == os.getpid() != 0)"
    assert run_here(root, sys.executable, "-c", code).stdout == "True\n"


def test_environment_is_changed(root: Path) -> None:
    flags = ["--env", "A=b=c", "--env", "GONE=", "--env-prefix", "PATH=./bin", "--env-prefix", "PATH=lib"]
    done = run_here(root, *flags, "sh", "-c", 'echo "$A ${GONE-unset}"; echo "$PATH"; pwd', GONE="here")
    variables, path, run_dir = done.stdout.splitlines()
    assert variables == "b=c unset"
    assert path.split(":")[:2] == [f"{run_dir}/bin", f"{run_dir}/lib"]
    assert path.split(":")[2:] == os.environ["PATH"].split(":")


def test_relative_directory_is_made(root: Path) -> None:
    done = run_here(root, "--raw-cmd", "--relative-cwd", "a/b", "--", "pwd")
    assert done.stdout.endswith("/ir/a/b\n")


def test_bot_file_is_substituted(root: Path) -> None:
    assert run_here(root, "--bot-file", "/b.json", "echo", "${SWARMING_BOT_FILE}").stdout == "/b.json\n"
    assert run_here(root, "echo", "${SWARMING_BOT_FILE}").stdout == "${SWARMING_BOT_FILE}\n"


def test_executable_that_does_not_exist_is_explained(root: Path) -> None:
    done = run_here(root, "no-such-program", "x")
    assert done.returncode == 1
    lines = done.stderr.splitlines()
    assert lines[0].startswith("<The executable does not exist")
    assert "no-such-program" in lines[2]
    assert len(lines) == 3
    assert len(run_here(root, "no-such-program", SWARMING_TASK_ID="1").stderr.splitlines()) == 4


def test_kept_work_directory_is_kept(root: Path) -> None:
    assert run(root, "--root-dir", root, "--leak-temp-dir", "touch", "file").returncode == 0
    (kept,) = root.iterdir()
    assert (kept / "ir/file").exists()


def test_json_file_tells_and_the_status_is_about_us(root: Path, tmp_path: Path) -> None:
    path = tmp_path / "result.json"
    assert run_here(root, "--json", path, "sh", "-c", f"cat {path}; exit 4").returncode == 0
    told = result(path)
    assert told.pop("duration") > 0
    assert told == {
        "version": 5,
        "exit_code": 4,
        "had_hard_timeout": False,
        "internal_failure": None,
        "outputs_ref": None,
        "cas_output_root": None,
        "stats": {"isolated": {"download": {}}},
    }


def test_json_file_says_unfinished_while_the_command_runs(root: Path, tmp_path: Path) -> None:
    done = run_here(root, "--json", tmp_path / "result.json", "cat", tmp_path / "result.json")
    assert json.loads(done.stdout)["internal_failure"] == "Was terminated before completion"


def test_hard_timeout_ends_the_command(root: Path, tmp_path: Path) -> None:
    path = tmp_path / "result.json"
    limits = ["--hard-timeout", "1", "--grace-period", "0.1"]  # time enough to set the trap
    done = run_here(root, *limits, "--json", path, "sh", "-c", "trap '' TERM; while :; do sleep 1000; done")
    assert done.returncode == 0
    told = result(path)
    assert (told["had_hard_timeout"], told["exit_code"]) == (True, -9)


def test_interrupt_ends_the_command_with_its_grace(root: Path, tmp_path: Path) -> None:
    trap = f"trap 'touch {tmp_path}/graceful; exit 0' TERM; echo $$; while :; do sleep 0.01; done"
    with started(root, "sh", "-c", trap) as (process, pid):
        process.send_signal(signal.SIGINT)
        assert process.wait() == 130
        assert has_ended(pid)
    assert (tmp_path / "graceful").exists()
    assert os.listdir(root) == []


def test_second_signal_does_not_wait_for_the_command(root: Path) -> None:
    code = "trap 'echo term' TERM; echo $$; while :; do sleep 0.01; done"
    with started(root, "sh", "-c", code) as (process, pid):
        process.send_signal(signal.SIGINT)
        assert process.stdout is not None
        assert process.stdout.readline() == "term\n"  # and it does not end
        process.send_signal(signal.SIGINT)
        assert process.wait() == 130
        assert has_ended(pid)
    assert os.listdir(root) == []


def test_sigterm_gives_the_status_of_the_command(root: Path) -> None:
    with started(root, "sh", "-c", WAITS) as (process, pid):
        process.terminate()
        assert process.wait() == 256 - 15
        assert has_ended(pid)
    assert os.listdir(root) == []


def test_sigkill_leaves_no_process_and_the_next_run_deletes_the_rest(root: Path) -> None:
    with started(root, "sh", "-c", f"setsid sh -c '{WAITS}' & wait") as (process, pid):
        process.kill()
        process.wait()
        assert has_ended(pid)
    assert len(os.listdir(root)) == 1
    assert run_here(root, "true").returncode == 0


def test_clean_deletes_what_dead_runs_left(root: Path) -> None:
    with started(root, "sh", "-c", WAITS) as (process, pid):
        process.kill()
        process.wait()
        assert has_ended(pid)
    assert run_here(root, "--cache", root.parent / "blobs", "--clean").returncode == 0


def test_what_is_typed_wrongly_is_one_line_and_status_2(root: Path) -> None:
    def refused(arguments: list[str], message: str) -> str:
        done = run(root, *arguments)
        said = done.returncode, done.stdout, done.stderr.count("\n"), message in done.stderr
        return "" if said == (2, "", 1, True) else f"{arguments}: {done.returncode} {done.stdout} {done.stderr}"

    with ThreadPoolExecutor(4) as threads:  # sixty starts of Python: several at a time
        assert [problem for problem in threads.map(lambda case: refused(*case), WRONG) if problem] == []
    assert not root.exists()


def test_server_that_is_not_there_is_one_line_and_status_1(root: Path) -> None:
    done = run_here(root, "--cache", root.parent / "c", "-I", "http://127.0.0.1:1", "-s", "a" * 64)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.splitlines() == ["run_isolated: error: Cannot reach http://127.0.0.1:1: connection refused"]


@pytest.mark.parametrize("arguments", [["help"], ["--help"], ["-h"]])
def test_help_tells_the_exit_statuses(root: Path, arguments: list[str]) -> None:
    done = run(root, *arguments)
    assert done.returncode == 0
    assert "130 interrupted" in done.stdout


def test_version_is_told(root: Path) -> None:
    assert run(root, "--version").stdout.startswith("run_isolated ")
