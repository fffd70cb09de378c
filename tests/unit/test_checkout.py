"""isolate.checkout: whoever is told to end tells the command it runs, from the moment there is one."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from isolate import ending
from isolate.checkout import Telling, run_selected


@contextmanager
def told_at_once(to: Callable[[], None]) -> Iterator[None]:
    to()
    yield


def run(tmp_path: Path, *command: str, telling: Telling) -> int:
    (tmp_path / "root").mkdir()
    root = str(tmp_path / "root")
    return run_selected([], root, "", command, link=False, day="2026-01-01", path=os.defpath, telling=telling)


def test_a_command_is_ended_that_was_being_started(tmp_path: Path) -> None:
    assert run(tmp_path, "sleep", "60", telling=told_at_once) == -signal.SIGTERM
    assert os.listdir(tmp_path) == ["root"]


def test_ctrl_c_is_left_to_the_command(tmp_path: Path) -> None:
    before = signal.getsignal(signal.SIGINT)
    assert run(tmp_path, "sh", "-c", "kill -INT $PPID; exit 3", telling=ending.passed_on) == 3
    assert signal.getsignal(signal.SIGINT) is before
