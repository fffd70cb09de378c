"""The `run_isolated` command where descriptors, threads or modules cannot be had: nothing is left behind, ever."""

from __future__ import annotations

import json
import resource
import subprocess
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import pytest

from run_isolated.attempt import FOR_UNDOING, FOR_WAITING
from tests.loopback import unused_url

NOTHING_MORE = """
import sys, threading
from isolate.entry import run_isolated
from run_isolated.attempt import Attempt

begin = Attempt.begin

def no_thread(*arguments):
    raise RuntimeError("can't start new thread")

def begun(attempt):
    begin(attempt)
    {what}

Attempt.begin = begun
sys.exit(run_isolated())
"""
NO_THREADS, NO_LOOP = "threading._start_new_thread = no_thread", "sys.modules['asyncio'] = None"


def run(
    tmp_path: Path, script: str, *command: str, limit: Callable[[], None] | None = None, flags: Sequence[str] = ()
) -> subprocess.CompletedProcess[str]:
    places = ["--cache", "cache", "--root-dir", "work", "--named-cache-root", "named", "--json", "result.json"]
    arguments = [*places, "--no-log", "--min-free-space", "0", "--named-cache", "c1", "nc", "0", *flags, "--", *command]
    return subprocess.run(
        [sys.executable, "-c", script, *arguments], capture_output=True, text=True, cwd=tmp_path, preexec_fn=limit
    )


def assert_nothing_is_left(tmp_path: Path) -> None:
    assert list((tmp_path / "work").glob("*")) == []
    assert run(tmp_path, NOTHING_MORE.format(what=""), "cat", "nc/kept").stdout == "kept"


def test_a_command_is_seen_out_when_no_thread_can_be_had_any_more(tmp_path: Path) -> None:
    done = run(tmp_path, NOTHING_MORE.format(what=NO_THREADS), "sh", "-c", "printf kept > nc/kept; exit 3")
    result = json.loads((tmp_path / "result.json").read_text())
    assert (done.stderr, result["exit_code"], result["internal_failure"]) == ("", 3, None)
    assert_nothing_is_left(tmp_path)


def test_a_run_that_needs_a_thread_says_so(tmp_path: Path) -> None:
    flags = ["-I", unused_url(), "-s", "0" * 64, "--raw-cmd"]
    done = run(tmp_path, NOTHING_MORE.format(what=NO_THREADS), "echo", "ran", flags=flags)
    told = "The run could not go on: No thread can be started: see the limits on processes and memory"
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == f"run_isolated: error: {told} (ulimit -u, ulimit -v)\n"
    assert list((tmp_path / "work").glob("*")) == []


def test_a_command_that_cannot_be_waited_for_is_ended(tmp_path: Path) -> None:
    assert run(tmp_path, NOTHING_MORE.format(what=""), "sh", "-c", "printf kept > nc/kept").returncode == 0
    done = run(tmp_path, NOTHING_MORE.format(what=NO_LOOP), "sleep", "1000")
    told = json.loads((tmp_path / "result.json").read_text())["internal_failure"]
    assert told.startswith("The command was ended, it could not be waited for: ")
    assert (done.returncode, done.stderr) == (1, f"run_isolated: error: {told}\n")
    assert_nothing_is_left(tmp_path)


@pytest.mark.parametrize("few", [9, FOR_WAITING + FOR_UNDOING + 6])
def test_too_few_descriptors_are_told_before_the_command_runs(tmp_path: Path, few: int) -> None:
    limit = partial(resource.setrlimit, resource.RLIMIT_NOFILE, (few, few))
    done = run(tmp_path, NOTHING_MORE.format(what=""), "echo", "ran", limit=limit)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (1, "", 1)
    assert "Too many open files" in done.stderr
    assert list((tmp_path / "work").glob("*")) == []
