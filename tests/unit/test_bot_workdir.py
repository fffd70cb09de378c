"""The directory of a bot."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from isolate.errors import Busy, InvalidInput
from run_isolated.command_group import MARK
from swarming.bot.workdir import WorkDirectory


def test_one_bot_for_each_directory(tmp_path: Path) -> None:
    message = f"process {os.getpid()}.*--id and --dir"
    with WorkDirectory.taken(tmp_path), pytest.raises(Busy, match=message), WorkDirectory.taken(tmp_path):
        pass
    with WorkDirectory.taken(tmp_path) as again:
        assert again.root == tmp_path


def test_the_layout_is_made(tmp_path: Path) -> None:
    with WorkDirectory.taken(tmp_path / "bot"):
        assert {entry.name for entry in (tmp_path / "bot").iterdir()} == {
            "c",
            "config",
            "isolated_cache",
            "logs",
            "w",
            "swarming.lck",
        }


@pytest.mark.parametrize("root", [Path("/"), Path.home()])
def test_a_directory_of_somebody_else_is_refused(root: Path) -> None:
    with pytest.raises(InvalidInput, match="--dir"), WorkDirectory.taken(root):
        pass


def test_a_place_that_cannot_be_a_directory_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(InvalidInput, match="Cannot use"), WorkDirectory.taken(tmp_path / "file"):
        pass


def test_cleaning_spares_what_is_not_of_a_task(tmp_path: Path) -> None:
    precious = tmp_path / "precious"
    precious.mkdir()
    (precious / "data").touch()
    with WorkDirectory.taken(tmp_path / "bot") as directory:
        (directory.root / "notes").touch()
        (directory.work / "ir-1" / "ir").mkdir(parents=True)
        (directory.work / "ir-1").chmod(0)
        (directory.work / "link").symlink_to(precious)
        directory.spool.touch()
        directory.clean()
        assert list(directory.work.iterdir()) == []
        assert (directory.root / "notes").exists()
    assert (precious / "data").exists()


def test_processes_of_a_crashed_bot_are_ended(tmp_path: Path) -> None:
    with WorkDirectory.taken(tmp_path / "bot") as directory:
        left = directory.work / "ir-1"
        left.mkdir()
        env = {**os.environ, MARK: str(left)}
        with subprocess.Popen(
            [sys.executable, "-c", "print(flush=True); input()"],
            env=env,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            start_new_session=True,
        ) as leftover:
            assert leftover.stdout is not None
            leftover.stdout.readline()
            assert directory.end_tasks() >= 1
            assert leftover.wait(20) == -9
