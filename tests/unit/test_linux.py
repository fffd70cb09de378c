"""Families of processes, and what the kernel does for them."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from run_isolated import linux
from run_isolated.linux import Process


def process(pid: int, parent: int) -> Process:
    return Process(pid, parent, pid, b"S")


def test_descendants_come_nearest_first_and_strangers_never() -> None:
    everyone = [process(*pair) for pair in [(1, 0), (5, 4), (4, 2), (2, 1), (3, 2), (9, 1), (6, 5)]]
    assert [found.pid for found in linux.descendants(everyone, 2)] == [4, 3, 5, 6]
    assert linux.descendants(everyone, 6) == []


def test_process_ids_that_were_used_again_make_no_endless_family() -> None:
    assert [found.pid for found in linux.descendants([process(2, 3), process(3, 2)], 2)] == [3, 2]


def test_processes_are_seen_whatever_their_name(tmp_path: Path) -> None:
    program = tmp_path / "a) R 1 (b"
    program.symlink_to("/bin/sleep")
    child = subprocess.Popen([program, "1000"])
    try:
        found = next(process for process in linux.processes() if process.pid == child.pid)
        assert (found.parent, found.group, found.alive) == (os.getpid(), os.getpgrp(), True)
    finally:
        child.kill()
        os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
        zombie = next(process for process in linux.processes() if process.pid == child.pid)
        child.wait()
    assert not zombie.alive
    linux.kill([zombie])  # it is gone: passed over


@pytest.mark.parametrize(("parent", "status"), [("os.getppid()", 0), ("1", -9)])
def test_parent_that_is_gone_already_is_noticed(parent: str, status: int) -> None:
    code = f"import os; from run_isolated import linux; assert linux.die_with_parent(9, {parent})"
    assert subprocess.run([sys.executable, "-c", code]).returncode == status


def test_orphans_come_to_the_subreaper() -> None:
    code = (
        "import os; from run_isolated import linux; assert linux.become_subreaper()\n"
        "r, w = os.pipe()\n"
        "if os.fork() == 0:\n"
        "    if os.fork() == 0: os.close(w); os.read(r, 1); os._exit(7)\n"
        "    os._exit(0)\n"
        "os.wait(); os.close(w); raise SystemExit(os.waitstatus_to_exitcode(os.wait()[1]))"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == 7


def test_group_to_be_spared_is_spared() -> None:
    child = subprocess.Popen(["sleep", "1000"])
    try:
        linux.kill_groups([Process(child.pid, os.getpid(), os.getpgrp(), b"S")], os.getpgrp())
        assert child.poll() is None
    finally:
        child.kill()
        child.wait()
