"""Outputs are taken from inside, and from nowhere else."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

import pytest

from run_isolated import outputs
from run_isolated.deletion import delete_tree
from run_isolated.outputs import collect, refused


@pytest.fixture
def run_dir(tmp_path: Path) -> Path:
    made = tmp_path / "ir"
    made.mkdir()
    (tmp_path / "io").mkdir()
    (tmp_path / "secret").write_text("secret")
    return made


@pytest.fixture
def out_dir(run_dir: Path) -> Path:
    return run_dir.parent / "io"


def tree(root: Path) -> dict[str, str | None]:
    """Return the files with their contents, and the directories, below `root`; links would be named as such."""
    return {
        str(path.relative_to(root)): "link!" if path.is_symlink() else path.read_text() if path.is_file() else None
        for path in root.rglob("*")
    }


def test_files_and_directories_are_linked(run_dir: Path, out_dir: Path) -> None:
    (run_dir / "a/b/empty").mkdir(parents=True)
    (run_dir / "a/b/file").write_text("x")
    (run_dir / "single").write_text("y")
    (run_dir / "not-asked").write_text("z")
    said: list[str] = []
    collect(run_dir, out_dir, ["a", "single", "a/b/file"], said.append)
    assert tree(out_dir) == {"a": None, "a/b": None, "a/b/empty": None, "a/b/file": "x", "single": "y"}
    assert (out_dir / "single").samefile(run_dir / "single")
    assert said == []


def test_file_is_copied_where_it_cannot_be_linked(
    run_dir: Path, out_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_args: object, **_kwargs: object) -> None:
        raise OSError(errno.EXDEV, "Invalid cross-device link")

    monkeypatch.setattr(os, "link", fail)
    (run_dir / "tool").write_text("x")
    (run_dir / "tool").chmod(0o500)
    collect(run_dir, out_dir, ["tool"], pytest.fail)
    assert (out_dir / "tool").read_text() == "x"
    assert (out_dir / "tool").stat().st_mode & 0o777 == 0o500


def test_links_inside_are_followed(run_dir: Path, out_dir: Path) -> None:
    (run_dir / "real").mkdir()
    (run_dir / "real/file").write_text("x")
    (run_dir / "to-file").symlink_to("real/file")
    (run_dir / "to-directory").symlink_to(run_dir / "real")
    collect(run_dir, out_dir, ["to-file", "to-directory"], pytest.fail)
    assert tree(out_dir) == {"to-file": "x", "to-directory": None, "to-directory/file": "x"}


def test_links_out_of_the_run_directory_are_not_followed(run_dir: Path, out_dir: Path) -> None:
    (run_dir / "d").mkdir()
    (run_dir / "file").symlink_to(run_dir.parent / "secret")
    (run_dir / "d/up").symlink_to("../..")
    (run_dir / "d/ok").write_text("x")
    said: list[str] = []
    collect(run_dir, out_dir, ["file", "d", "d/up/secret"], said.append)
    assert tree(out_dir) == {"d": None, "d/ok": "x"}
    assert len(said) == 3
    assert all("leads out of the run directory" in line for line in said)


def test_link_of_the_command_in_the_output_directory_is_not_written_through(run_dir: Path, out_dir: Path) -> None:
    outside = run_dir.parent / "outside"
    outside.mkdir()
    (run_dir / "d").mkdir()
    (run_dir / "d/file").write_text("x")
    (out_dir / "d").symlink_to(outside)
    said: list[str] = []
    collect(run_dir, out_dir, ["d", "d/file"], said.append)
    assert list(outside.iterdir()) == []
    assert len(said) == 2


def test_cycles_end_and_absent_or_special_outputs_are_reported(run_dir: Path, out_dir: Path) -> None:
    (run_dir / "d").mkdir()
    (run_dir / "d/self").symlink_to(".")
    (run_dir / "ping/pong").mkdir(parents=True)
    (run_dir / "ping/pong/back").symlink_to("../../ping")
    (run_dir / "loop").symlink_to("loop")
    os.mkfifo(run_dir / "pipe")
    said: list[str] = []
    collect(run_dir, out_dir, ["d", "ping", "loop", "pipe", "absent"], said.append)
    assert tree(out_dir) == {"d": None, "ping": None, "ping/pong": None}
    assert [line.split(";")[0] for line in said] == [
        "Output 'd/self' is a link to a directory it is in, or lies too deep",
        "Output 'ping/pong/back' is a link to a directory it is in, or lies too deep",
        "Output 'loop' is neither a file nor a directory",
        "Output 'pipe' is neither a file nor a directory",
        "Output 'absent' does not exist",
    ]


def test_number_of_outputs_is_limited(run_dir: Path, out_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outputs, "MAX_COLLECTED", 3)
    for name in "abcd":
        (run_dir / name).write_text("x")
    said: list[str] = []
    collect(run_dir, out_dir, ["a", "b", "c"], said.append)
    assert said == []
    collect(run_dir, out_dir, ["a", "b", "c", "d"], said.append)
    assert said == ["More than 3 outputs; 'd' and the rest are skipped"]
    assert sorted(tree(out_dir)) == ["a", "b", "c"]


def test_file_that_the_command_put_there_itself_is_kept(run_dir: Path, out_dir: Path) -> None:
    (run_dir / "file").write_text("from the run directory")
    (out_dir / "file").write_text("from the command")
    collect(run_dir, out_dir, ["file"], pytest.fail)
    assert tree(out_dir) == {"file": "from the command"}


def test_what_cannot_be_uploaded_is_named(out_dir: Path) -> None:
    (out_dir / "d").mkdir()
    (out_dir / "d/file").write_text("x")
    (out_dir / "inside").symlink_to("d/file")
    (out_dir / "dangling").symlink_to("absent")
    (out_dir / "d/leaves").symlink_to("../../secret")
    (out_dir / "chain").symlink_to("d/leaves")
    (out_dir / "absolute").symlink_to("/etc")
    os.mkfifo(out_dir / "pipe")
    os.mknod(out_dir / "socket", stat.S_IFSOCK | 0o600)  # binding one would limit the length of the path
    said: list[str] = []
    assert refused(out_dir, said.append) == {"d/leaves", "chain", "absolute", "pipe", "socket"}
    assert len(said) == 5


def test_locked_outputs_become_readable(out_dir: Path) -> None:
    (out_dir / "d").mkdir()
    (out_dir / "d/file").write_text("x")
    (out_dir / "d/file").chmod(0)
    (out_dir / "d").chmod(0)
    assert refused(out_dir, pytest.fail) == frozenset()
    assert os.access(out_dir / "d", os.R_OK | os.X_OK)
    assert (out_dir / "d/file").read_text() == "x"


@pytest.mark.parametrize(("parts", "bad"), [(255, 0), (256, 0), (257, 1), (300, 1)])
def test_depth_is_limited_as_in_manifests(out_dir: Path, parts: int, bad: int) -> None:
    place = out_dir
    for _ in range(parts):
        place /= "d"
        place.mkdir()
    said: list[str] = []
    assert len(refused(out_dir, said.append)) == bad
    assert len(said) == bad


def test_depth_that_no_path_can_name_costs_nothing_else(run_dir: Path, out_dir: Path) -> None:
    (run_dir / "good").write_text("good")
    for top in (run_dir, out_dir):
        place = os.open(top, os.O_RDONLY)
        for _ in range(30):
            os.mkdir("d" * 200, dir_fd=place)
            deeper = os.open("d" * 200, os.O_RDONLY, dir_fd=place)
            os.close(place)
            place = deeper
        os.close(place)
    said: list[str] = []
    collect(run_dir, out_dir, ["d" * 200, "good"], said.append)
    assert (out_dir / "good").read_text() == "good"
    bad = refused(out_dir, said.append)
    assert [len(path) > 3000 for path in bad] == [True]
    assert 1 <= len(said) <= 3
    assert all("too deep; skipped" in line and len(line) < 300 for line in said)
    for top in (run_dir, out_dir):
        delete_tree(top)  # which not everybody can
