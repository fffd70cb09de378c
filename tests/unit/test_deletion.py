"""Directories that a command made hard to delete; tests that need root say so when they are skipped."""

from __future__ import annotations

import itertools
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from isolate.errors import InternalFailure
from run_isolated import linux
from run_isolated.deletion import delete_tree

NOBODY = 65534
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")


@contextmanager
def mounted(place: Path, *arguments: str) -> Iterator[None]:
    done = subprocess.run(["mount", *arguments, str(place)], capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"mounting is not allowed here: {done.stderr.strip()}")
    try:
        yield
    finally:
        subprocess.run(["umount", str(place)], check=True)


@contextmanager
def nobody() -> Iterator[None]:
    os.seteuid(NOBODY)
    try:
        yield
    finally:
        os.seteuid(0)


def let_nobody_in(place: Path) -> None:
    """Open the folders of this test run; where those above are closed, in a task say, the test is skipped."""
    for parent in place.parents[:2]:  # those pytest made
        parent.chmod(0o755)
    if not all(parent.stat().st_mode & 0o001 for parent in place.parents):
        pytest.skip("another user cannot reach the temporary directory here")


def make(root: Path, *files: str) -> Path:
    for name in files:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text("x")
    return root


@pytest.mark.parametrize("moment", range(8))
def test_what_somebody_else_deletes_meanwhile_is_deleted(tmp_path: Path, moment: int) -> None:
    top = make(tmp_path / "top", "a", "b/c/d", "b/c/e/f", "b/g", "h/i/j", "k")
    calls = itertools.count()

    def somebody_else() -> None:
        if next(calls) == moment:
            shutil.rmtree(top)

    delete_tree(top, somebody_else)
    assert not top.exists()
    assert next(calls) > moment


@needs_root
def test_mount_point_is_named_and_what_is_mounted_is_left_alone(tmp_path: Path) -> None:
    elsewhere = make(tmp_path / "elsewhere", "precious")
    elsewhere.chmod(0o500)
    tree = make(tmp_path / "tree", "a/b/file", "a/other", "c")
    (tree / "a/mount").mkdir()
    with mounted(tree / "a/mount", "--bind", str(elsewhere)):
        with pytest.raises(InternalFailure, match="'a/mount' is a mount point: unmount it"):
            delete_tree(tree)
        assert os.listdir(tree) == ["a"]
        assert os.listdir(tree / "a") == ["mount"]
        assert os.listdir(elsewhere) == ["precious"]
        assert elsewhere.stat().st_mode & 0o777 == 0o500
    delete_tree(tree)
    assert os.listdir(tmp_path) == ["elsewhere"]


@needs_root
def test_file_system_mounted_at_the_top_and_on_a_file(tmp_path: Path) -> None:
    tree = make(tmp_path / "tree", "m/file", "f")
    precious = make(tmp_path, "precious") / "precious"
    with mounted(tree / "m", "-t", "tmpfs", "tmpfs"), mounted(tree / "f", "--bind", str(precious)):
        make(tree / "m", "inside")
        with pytest.raises(InternalFailure) as failure:
            delete_tree(tree)
        assert "'m' is a mount point" in str(failure.value)
        assert "'f' is a mount point" in str(failure.value)
        assert os.listdir(tree / "m") == ["inside"]
    assert precious.read_text() == "x"


@needs_root
def test_others_directories_are_named_with_their_owner_and_the_rest_is_deleted(tmp_path: Path) -> None:
    tree = make(tmp_path / "tree", "theirs/file", "ours/file", "their-file")
    for path in (tmp_path, tree, tree / "ours"):
        os.chown(path, NOBODY, NOBODY)
    let_nobody_in(tmp_path)
    with nobody():
        with pytest.raises(InternalFailure, match=r"'theirs.*' belongs to user 0"):
            delete_tree(tree)
        assert os.listdir(tree) == ["theirs"]


@needs_root
def test_immutable_and_append_only_things_are_deleted(tmp_path: Path) -> None:
    tree = make(tmp_path / "tree", "d/file", "d/log", "e/deep/file")
    for flag, name in (("+i", "d/file"), ("+a", "d/log"), ("+i", "e/deep"), ("+i", "e"), ("+i", "d")):
        if subprocess.run(["chattr", flag, str(tree / name)], capture_output=True).returncode:
            pytest.skip("this file system has no such flags")
    delete_tree(tree)
    assert os.listdir(tmp_path) == []


def test_many_problems_are_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tree = make(tmp_path / "tree", *(f"{number}/file" for number in range(5)))
    mounts = iter(range(100))
    monkeypatch.setattr(linux, "mount_of", lambda _: (0, next(mounts)))
    with pytest.raises(InternalFailure, match=r"is a mount point: unmount it; 2 more$"):
        delete_tree(tree)
    monkeypatch.undo()
    delete_tree(tree)


def test_directory_without_rights_is_deleted_by_its_owner(tmp_path: Path) -> None:
    code = """
import fcntl, os, sys; from pathlib import Path; from run_isolated.deletion import delete_tree
os.geteuid() == 0 and os.seteuid(65534)
tree = Path(sys.argv[1]) / "tree"
(tree / "a/b/c").mkdir(parents=True); (tree / "a/b/c/f").touch(); (tree / "a/f").touch()
for path in ("a/b/c", "a/b", "a", "."): (tree / path).chmod(0)
delete_tree(tree)
"""
    place = tmp_path / "place"
    place.mkdir(mode=0o777)
    place.chmod(0o777)
    tmp_path.chmod(0o755)
    let_nobody_in(tmp_path)
    subprocess.run([sys.executable, "-c", code, str(place)], check=True)
    assert os.listdir(place) == []
