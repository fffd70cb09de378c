"""Control groups: where ours is, read from recorded files of /proc; and real ones, where this machine allows them."""

from __future__ import annotations

import os
import secrets
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from run_isolated.cgroups import Limits, controllers, delegate, group_of, make, own_group
from run_isolated.group import Group, write

PLAIN = "30 23 0:26 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate\n"
HYBRID = (
    "31 23 0:28 / /sys/fs/cgroup rw,relatime - tmpfs tmpfs rw,mode=755\n"
    "32 31 0:29 / /sys/fs/cgroup/cpu rw,relatime - cgroup cgroup rw,cpu\n"
    "41 31 0:38 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw\n"
)
ONLY_OLD = "32 31 0:29 / /sys/fs/cgroup/cpu rw,relatime - cgroup cgroup rw,cpu\n"
CONTAINER = "900 880 0:26 /docker/4f2a /sys/fs/cgroup ro,nosuid - cgroup2 cgroup rw\n"
SCOPE = "/user.slice/user-1000.slice/session-2.scope"


@pytest.mark.parametrize(
    ("mountinfo", "memberships", "expected"),
    [
        (PLAIN, f"0::{SCOPE}\n", f"/sys/fs/cgroup{SCOPE}"),
        (PLAIN, "0::/\n", "/sys/fs/cgroup"),
        (HYBRID, "9:name=systemd:/x\n1:cpu:/\n0::/a b\n", "/sys/fs/cgroup/unified/a b"),
        (PLAIN.replace("/sys/fs/cgroup", r"/odd\040place"), "0::/a\n", "/odd place/a"),
        (CONTAINER, "0::/docker/4f2a/x\n", "/sys/fs/cgroup/x"),
        (CONTAINER, "0::/docker/4f2ab\n", ""),
        (PLAIN, "0::/../elsewhere\n", ""),
        (ONLY_OLD, "1:cpu:/x\n", ""),
        (ONLY_OLD, "0::/x\n", ""),
        (PLAIN, "1:cpu:/x\n", ""),
        ("", "", ""),
        ("garbage - cgroup2 x\n", "0::/\n", ""),
    ],
)
def test_own_group_is_read_from_proc(mountinfo: str, memberships: str, expected: str) -> None:
    assert group_of(mountinfo, memberships) == expected


def test_limits_are_what_the_kernel_reads() -> None:
    assert Limits().settings() == {}
    assert Limits(1 << 30, 50, 1.5).settings() == {
        "memory.max": "1073741824",
        "pids.max": "50",
        "cpu.max": "150000 100000",
    }
    assert Limits(cpu_cores=0.001).settings() == {"cpu.max": "1000 100000"}  # the least the kernel takes


def test_where_there_are_none_it_is_an_oserror(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="no control groups of version 2"):
        make("", "name")
    with pytest.raises(FileNotFoundError):
        make(str(tmp_path / "absent"), "name")


def test_limit_without_its_controller_is_told_and_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(OSError, match=r"pids.max is not switched on for the groups in"):
        make(str(tmp_path), "name", Limits(processes=5))
    assert os.listdir(tmp_path) == []


def test_those_who_are_in_a_group_move_before_its_controllers_are_switched_on(tmp_path: Path) -> None:
    for file, text in {"controllers": "cpuset cpu memory\n", "subtree_control": "", "procs": "7\n"}.items():
        (tmp_path / f"cgroup.{file}").write_text(text)
    (tmp_path / "keeper").mkdir()
    (tmp_path / "keeper/cgroup.procs").write_text("")
    assert delegate(str(tmp_path)) == frozenset()  # these files are no kernel: what is written is not there
    assert (tmp_path / "keeper/cgroup.procs").read_text() == "7"
    assert (tmp_path / "cgroup.subtree_control").read_text() == "+memory"
    (tmp_path / "cgroup.subtree_control").write_text("cpu memory")
    assert delegate(str(tmp_path)) == controllers(str(tmp_path)) == {"cpu", "memory"}


@pytest.fixture
def group() -> Iterator[Group]:
    try:
        made = make(own_group(), f"run_isolated-test-{secrets.token_hex(6)}")
    except OSError as error:
        pytest.skip(f"control groups cannot be made here: {error}")
    try:
        yield made
    finally:
        made.end(20.0)


# Enters the group, then forks on and on, each time in a session of its own.
HOPS = (
    "import os, sys; from run_isolated.group import Group; Group(sys.argv[1]).enter()\n"
    "os.mkdir(sys.argv[1] + '/inner'); print(os.getpid(), flush=True)\n"
    "if os.fork() == 0:\n"
    "    Group(sys.argv[1] + '/inner').enter()\n"
    "    for _ in range(100_000):\n"
    "        if os.fork(): os._exit(0)\n"
    "        os.setsid()\n"
    "import signal; signal.pause()"
)


@pytest.mark.parametrize("kernel", ["new", "before 5.14"])
def test_real_group_ends_all_of_it_at_once(group: Group, kernel: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with subprocess.Popen([sys.executable, "-c", HOPS, group.path], stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        assert int(child.stdout.readline()) in group.processes()
        assert not group.remove()
        if kernel != "new":
            monkeypatch.setattr(
                "run_isolated.group.write", lambda *to: write(to[0], to[1].replace("kill", "absent"), to[2])
            )
        assert group.end(20.0)
        assert child.stdout.read() == ""  # ends when nobody holds it any more
        assert child.wait() == -9
    assert not os.path.exists(group.path)
    assert group.end(0.0)  # gone is ended


def test_real_group_has_no_limits_without_controllers(group: Group) -> None:
    lacking = {"cpu", "memory", "pids"} - controllers(group.path)
    assert lacking  # a fresh group has none for its children
    assert group.out_of_memory() == 0
    with pytest.raises(OSError, match="is not switched on"):
        make(group.path, "limited", Limits(1 << 30, 5, 1.0))
    assert os.listdir(group.path)
    assert not os.path.exists(f"{group.path}/limited")
