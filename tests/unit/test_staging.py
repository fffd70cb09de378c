"""isolate.staging: what is made beside a place goes, whatever became of who made it."""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
from pathlib import Path
from tempfile import mkdtemp

import pytest

from isolate.errors import InternalFailure
from isolate.monitor import NullMonitor, TallyMonitor
from isolate.staging import SUFFIX, staging

DIES = """
import os, sys
from pathlib import Path
from isolate.monitor import NullMonitor
from isolate.staging import staging
with staging(Path(sys.argv[1]), sys.argv[2], NullMonitor()) as beside:
    (beside / "tree").mkdir()
    (beside / "tree" / "file").write_text("half")
    (beside / "tree").chmod(0o500)
    os.kill(os.getpid(), 9)
"""


def die(place: Path, name: str) -> None:
    assert subprocess.run([sys.executable, "-c", DIES, place, name], check=False).returncode == -9


def test_it_is_gone_at_the_end_also_after_an_error(tmp_path: Path) -> None:
    with staging(tmp_path, "name", NullMonitor()) as beside:
        assert os.listdir(tmp_path) == [beside.name]
        (beside / "file").write_text("x")
    with pytest.raises(ZeroDivisionError), staging(tmp_path, "name", NullMonitor()):
        _ = 1 / 0
    assert os.listdir(tmp_path) == []


def test_that_of_a_killed_process_goes_with_the_next_of_the_name(tmp_path: Path) -> None:
    die(tmp_path, "name")
    die(tmp_path, "other")
    assert len(os.listdir(tmp_path)) == 2
    with staging(tmp_path, "name", NullMonitor()):
        assert len(os.listdir(tmp_path)) == 2
    (left,) = os.listdir(tmp_path)
    assert left.startswith(".other-")


def test_who_lives_keeps_what_it_has(tmp_path: Path) -> None:
    with staging(tmp_path, "name", NullMonitor()) as first, staging(tmp_path, "name", NullMonitor()) as second:
        assert first.is_dir()
        assert first != second


def test_what_is_not_ours_stays(tmp_path: Path) -> None:
    names = [f".name-abc{SUFFIX}", f".name-abcdefghi{SUFFIX}", ".name-settings", f"name-abcdefgh{SUFFIX}"]
    for name in names:
        (tmp_path / name).mkdir()
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / f".name-linklink{SUFFIX}").symlink_to("elsewhere")
    (tmp_path / f".name-filefile{SUFFIX}").write_text("mine")
    os.mkfifo(tmp_path / f".name-pipepipe{SUFFIX}")
    before = sorted(os.listdir(tmp_path))
    with staging(tmp_path, "name", NullMonitor()):
        pass
    assert sorted(os.listdir(tmp_path)) == before


def test_a_name_may_be_as_long_as_names_may_be(tmp_path: Path) -> None:
    with staging(tmp_path, "ü" * 127, NullMonitor()) as beside:
        assert beside.is_dir()


def test_one_that_is_taken_before_it_is_locked_is_made_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[str] = []

    def taken(suffix: str, prefix: str, place: Path) -> str:
        path = mkdtemp(suffix, prefix, place)
        made.append(path)
        if len(made) == 1:
            os.rmdir(path)
        elif len(made) == 2:
            thieves.append(os.open(path, os.O_RDONLY))
            fcntl.flock(thieves[0], fcntl.LOCK_EX)
        return path

    thieves: list[int] = []
    monkeypatch.setattr("isolate.staging.mkdtemp", taken)
    with staging(tmp_path, "name", NullMonitor()) as beside:
        assert str(beside) == made[2]
    os.close(thieves[0])


def test_what_cannot_be_deleted_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: Path) -> None:
        raise InternalFailure(f"Cannot delete {path}")

    monitor = TallyMonitor()
    monkeypatch.setattr("isolate.staging.delete_tree", refuse)
    with staging(tmp_path, "name", monitor) as beside:
        pass
    assert [str(one) for one in monitor.problems] == [f"Cannot delete {beside}"]
