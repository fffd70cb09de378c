"""The `run_isolated` command that is told to end, by one signal or by more."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from isolate.monitor import NullMonitor
from run_isolated.attempt import Attempt
from run_isolated.result import RunResult, Stats, Transfer
from run_isolated.spec import RunSpec
from tests.clock import ManualClock

SIGNALLED = """
import os, signal, sys
from isolate.entry import run_isolated
from run_isolated.attempt import Attempt

begin = Attempt.begin

def begun(attempt):
    for _ in range({count}):
        os.kill(os.getpid(), signal.SIGTERM)
    begin(attempt)

Attempt.begin = begun
sys.exit(run_isolated())
"""


@pytest.mark.parametrize("count", [1, 2, 3])
def test_what_was_stopped_before_its_command_says_so_however_often_it_was_told(tmp_path: Path, count: int) -> None:
    places = ["--cache", "cache", "--root-dir", "work", "--no-log", "--json", "result.json"]
    tree = ["-I", "localhost:1", "-s", "a" * 64]  # nobody is asked for it
    command = [sys.executable, "-c", SIGNALLED.format(count=count), *places, *tree]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "run_isolated: error: Stopped before the command was started\n"
    told = json.loads((tmp_path / "result.json").read_text())
    assert (told["internal_failure"], told["exit_code"]) == ("Stopped before the command was started", None)
    assert list((tmp_path / "work").glob("ir-*")) == []


def test_what_was_known_when_a_run_was_cut_short_is_told(tmp_path: Path) -> None:
    attempt = Attempt(RunSpec(root_dir=tmp_path, base_env={}), None, lambda: True, ManualClock(), NullMonitor())
    known = RunResult(exit_code=3, duration_s=1.0, stats=Stats(Transfer(0.5, (1, 2)), initial_number_items=7))
    attempt.result, attempt.is_asked = known, True
    cut = replace(known, internal_failure="Was terminated before completion", stopped=True)
    assert attempt.cut_short() == cut
    attempt.result = replace(known, internal_failure="The disk is gone")
    assert attempt.cut_short().internal_failure == "The disk is gone"
