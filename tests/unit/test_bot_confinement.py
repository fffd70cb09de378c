"""What limits a task gets; control groups are folders here, as the kernel would show them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from run_isolated.cgroups import NO_LIMITS, Limits
from swarming.bot import confinement
from swarming.bot.confinement import Confinement
from swarming.bot.settings import Settings

ALL = Limits(memory_bytes=1 << 30, processes=100, cpu_cores=1.5)


@pytest.fixture
def group(tmp_path: Path) -> Path:
    """A group in which only this process is, and whose children may have every controller."""
    (tmp_path / "cgroup.controllers").write_text("cpuset cpu io memory pids\n")
    (tmp_path / "cgroup.subtree_control").write_text("cpu memory pids\n")
    (tmp_path / "cgroup.procs").write_text(f"{os.getpid()}\n")
    return tmp_path


def test_what_can_be_enforced_is(group: Path) -> None:
    assert Confinement(str(group)).of(ALL) == ALL
    assert Confinement(str(group)).parent == str(group)


def test_a_lacking_controller_is_told_of_once(group: Path, caplog: pytest.LogCaptureFixture) -> None:
    (group / "cgroup.controllers").write_text("pids\n")
    (group / "cgroup.subtree_control").write_text("pids\n")
    made = Confinement(str(group))
    for _ in range(2):
        assert made.of(ALL) == Limits(processes=100)
    assert [record.getMessage() for record in caplog.records] == [
        "Tasks have no limit of cpu, memory here: there is no such controller"
    ]


def test_without_control_groups_there_are_no_limits(caplog: pytest.LogCaptureFixture) -> None:
    made = Confinement("")
    assert (made.of(ALL), made.parent) == (NO_LIMITS, None)
    assert "cpu, memory, pids" in caplog.text


def test_nothing_is_said_when_nothing_is_wanted(caplog: pytest.LogCaptureFixture) -> None:
    assert Confinement("").of(NO_LIMITS) == NO_LIMITS
    assert not caplog.records


def test_a_group_of_others_is_left_alone(group: Path) -> None:
    """Switching controllers on would move everybody in it."""
    (group / "cgroup.subtree_control").write_text("\n")
    (group / "cgroup.procs").write_text(f"1\n{os.getpid()}\n")
    assert Confinement(str(group)).of(ALL) == NO_LIMITS
    assert (group / "cgroup.subtree_control").read_text() == "\n"
    assert not (group / "keeper").exists()


def test_a_group_of_our_own_is_prepared(group: Path) -> None:
    (group / "cgroup.subtree_control").write_text("\n")
    Confinement(str(group)).of(ALL)
    assert (group / "cgroup.subtree_control").read_text().startswith("+")  # the kernel would understand


@pytest.mark.parametrize(
    ("members", "family", "expected"), [({1}, {1, 2}, True), ({1, 3}, {1, 2}, False), (set(), {1}, False)]
)
def test_a_family_has_a_group_for_itself(members: set[int], family: set[int], expected: bool) -> None:
    assert confinement.is_only_of(members, family) is expected


def test_the_strictest_limit_counts() -> None:
    assert confinement.strictest(Limits(10, 0, 2.0), Limits(20, 5, 1.0)) == Limits(10, 5, 1.0)


def test_limits_are_settings() -> None:
    found = Settings.of({"limits": {"memory": 1 << 30, "processes": 100, "cpu": 1.5}})
    assert found.limits == ALL
    assert Settings.of({}).limits == NO_LIMITS
