"""Work directories: deleted whatever is in them, and nothing else is."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from isolate.errors import InternalFailure
from isolate.monitor import TallyMonitor
from run_isolated.result import Stopped
from run_isolated.workdir import WorkDir, abandoned, delete_tree, sweep


def names(root: Path) -> list[str]:
    return sorted(os.listdir(root))


def test_directories_are_fresh_private_and_deleted(tmp_path: Path) -> None:
    root = tmp_path / "a/b"
    made, other = WorkDir.make(root, keep=False), WorkDir.make(root, keep=False)
    assert made.path != other.path
    for path in (made.path, made.run, made.out, made.temp):
        assert path.stat().st_mode & 0o777 == 0o700
    assert names(made.path) == ["io", "ir", "it", "owner"]
    (made.run / "file").write_text("x")
    made.close()
    assert names(root) == [other.path.name]
    other.close()
    assert names(root) == []


def test_kept_directory_stays_and_is_nobody_elses_business(tmp_path: Path) -> None:
    made = WorkDir.make(tmp_path, keep=True)
    (made.out / "file").write_text("x")
    made.close()
    assert (made.out / "file").read_text() == "x"
    assert list(abandoned(tmp_path)) == []


@pytest.fixture
def scarce() -> Iterator[list[int]]:
    """Give all descriptors that this process may have, which is not many."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    lowest = os.open(os.devnull, os.O_RDONLY)
    highest = max(map(int, os.listdir("/proc/self/fd")))  # what other tests left open is not free
    resource.setrlimit(resource.RLIMIT_NOFILE, (highest + 20, hard))
    held = [lowest]
    try:
        with suppress(OSError):
            while True:
                held.append(os.dup(lowest))
        yield held
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        for descriptor in held:
            os.close(descriptor)


@pytest.mark.parametrize("free", [0, 1, 2])
def test_a_directory_that_cannot_be_made_for_want_of_descriptors_is_gone(
    tmp_path: Path, scarce: list[int], free: int
) -> None:
    for _ in range(free):
        os.close(scarce.pop())
    with pytest.raises(InternalFailure, match="Too many open files"):
        WorkDir.make(tmp_path, keep=False)
    os.close(scarce.pop())
    assert names(tmp_path) == []


def test_a_want_of_descriptors_is_not_taken_for_a_mount(tmp_path: Path, scarce: list[int]) -> None:
    (tmp_path / "tree/folder/full").mkdir(parents=True)
    for _ in range(2):
        os.close(scarce.pop())
    with pytest.raises(InternalFailure, match="Too many open files"):
        delete_tree(tmp_path / "tree")


@pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="nobody tells where an open directory is")
@pytest.mark.parametrize("instead", [None, "directory", "link"])
def test_directory_that_a_command_moved_is_deleted_where_it_is(tmp_path: Path, instead: str | None) -> None:
    root, elsewhere = tmp_path / "root", tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "theirs").write_text("x")
    made = WorkDir.make(root, keep=False)
    (made.run / "file").write_text("x")
    made.path.rename(elsewhere / "moved")
    if instead == "directory":
        (made.path / "ir").mkdir(parents=True)
    elif instead == "link":
        made.path.symlink_to(elsewhere)
    made.close()
    assert (names(root), names(elsewhere)) == ([], ["theirs"])


def test_kept_directory_that_a_command_moved_is_nobody_elses_business(tmp_path: Path) -> None:
    made = WorkDir.make(tmp_path / "root", keep=True)
    made.path.rename(tmp_path / "moved")
    made.close()
    assert names(tmp_path / "moved") == ["io", "ir", "it"]


def test_root_that_cannot_be_made_is_an_internal_failure(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InternalFailure, match="Cannot make a work directory"):
        WorkDir.make(tmp_path / "file", keep=False)


def test_directory_of_a_live_run_is_not_abandoned(tmp_path: Path) -> None:
    made = WorkDir.make(tmp_path, keep=False)
    assert list(abandoned(tmp_path)) == []
    made.close()


def test_directory_of_a_killed_run_is_abandoned_once(tmp_path: Path) -> None:
    code = (
        "import os, sys; from pathlib import Path; from run_isolated.workdir import WorkDir\n"
        "made = WorkDir.make(Path(sys.argv[1]), keep=False); os.kill(os.getpid(), 9)"
    )
    assert subprocess.run([sys.executable, "-c", code, str(tmp_path)]).returncode == -9
    assert len(names(tmp_path)) == 1
    for path in abandoned(tmp_path):
        assert list(abandoned(tmp_path)) == []  # we are its owner now
        delete_tree(path)
    assert names(tmp_path) == []


def test_deletion_of_what_a_dead_run_left_can_be_left_to_the_next(tmp_path: Path) -> None:
    dead = WorkDir.make(tmp_path, keep=False)
    for number in range(10):
        (dead.run / f"d{number}").mkdir()
        (dead.run / f"d{number}/f").touch()
    os.close(dead.owner)
    os.close(dead.folder)
    checks = 0

    def check() -> None:
        nonlocal checks
        checks += 1
        if checks > 5:
            raise Stopped("in a hurry")

    settled: list[Path] = []
    monitor = TallyMonitor()
    with pytest.raises(Stopped):
        sweep(tmp_path, settled.append, check, monitor)
    assert names(tmp_path) == [dead.path.name]
    assert "owner" in names(dead.path)
    sweep(tmp_path, settled.append, lambda: None, monitor)
    assert names(tmp_path) == []
    assert (settled, monitor.problems) == ([dead.path] * 2, [])


def test_strangers_are_never_taken_for_abandoned(tmp_path: Path) -> None:
    (tmp_path / "ir-0123456789ab").mkdir()  # the name alone
    (tmp_path / "ir-mine").mkdir()
    (tmp_path / "ir-mine/owner").write_text("")
    (tmp_path / "ir-ba9876543210").symlink_to("ir-mine/owner")
    assert list(abandoned(tmp_path)) == []
    assert list(abandoned(tmp_path / "absent")) == []


def test_hostile_tree_is_deleted_and_nothing_beside_it(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir(mode=0o500)
    (tmp_path / "file").write_text("kept")
    tree = tmp_path / "tree"
    for name in ("no-access/inner/deep", "read-only/inner", "empty", "owner-is-a-directory/owner"):
        (tree / name).mkdir(parents=True)
    (tree / "no-access/inner/deep/file").write_text("x")
    (tree / "read-only/inner/file").write_text("x")
    (tree / "read-only/inner").chmod(0o500)
    (tree / "read-only").chmod(0o500)
    (tree / "no-access/inner").chmod(0)
    (tree / "no-access").chmod(0)
    (tree / "to-directory").symlink_to(outside)
    (tree / "to-file").symlink_to(tmp_path / "file")
    (tree / "loop").symlink_to("loop")
    os.link(tmp_path / "file", tree / "hard-link")
    os.mkfifo(tree / "pipe")
    (tree / os.fsdecode(b"not \xff utf-8\n")).write_text("x")
    tree.chmod(0)
    delete_tree(tree)
    assert names(tmp_path) == ["file", "outside"]
    assert (tmp_path / "file").read_text() == "kept"
    assert outside.stat().st_mode & 0o777 == 0o500


def test_depth_beyond_the_longest_path_is_deleted(tmp_path: Path) -> None:
    code = "import os, sys; os.chdir(sys.argv[1])\nfor _ in range(1500): os.mkdir('d' * 8); os.chdir('d' * 8)"
    tree = tmp_path / "tree"
    tree.mkdir()
    subprocess.run([sys.executable, "-c", code, str(tree)], check=True)
    delete_tree(tree)
    assert names(tmp_path) == []


def test_link_in_place_of_a_tree_goes_and_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "real/file").write_text("x")
    (tmp_path / "link").symlink_to("real")
    delete_tree(tmp_path / "link")
    assert names(tmp_path) == ["real"]
    assert (tmp_path / "real/file").exists()


def test_absent_tree_is_deleted_already(tmp_path: Path) -> None:
    delete_tree(tmp_path / "absent")
    assert names(tmp_path) == []
