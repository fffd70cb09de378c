"""The data directory: one owner, one format, a mark of an unclean stop."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path

import pytest

from isolate.errors import Busy, FormatTooNew, InvalidInput, NoSpace
from server.bot_archive import FOLDER
from server.bot_config import FILE
from server.settings import SETTINGS_DIR
from server.stores import datadir
from server.stores.datadir import FORMAT, DataDirectory


def test_a_new_directory_gets_a_format(tmp_path: Path) -> None:
    directory = DataDirectory.open(tmp_path / "a" / "b")
    assert json.loads((directory.path / "format.json").read_text()) == {"format": FORMAT}
    assert directory.stopped_cleanly
    directory.close()


def test_a_second_owner_is_refused_until_the_first_is_gone(tmp_path: Path) -> None:
    first = DataDirectory.open(tmp_path)
    with pytest.raises(Busy, match=f"Another server is using {tmp_path}"):
        DataDirectory.open(tmp_path)
    first.close()
    DataDirectory.open(tmp_path).close()


def test_an_unclean_stop_is_noticed_until_it_is_settled(tmp_path: Path) -> None:
    DataDirectory.open(tmp_path).close()
    (tmp_path / "running").write_text("4711\n")
    for _ in range(2):
        second = DataDirectory.open(tmp_path)
        assert not second.stopped_cleanly
        second.close()
    second = DataDirectory.open(tmp_path)
    second.settled = True
    second.close()
    third = DataDirectory.open(tmp_path)
    assert third.stopped_cleanly
    third.close()


def test_a_newer_format_is_refused_and_not_held(tmp_path: Path) -> None:
    DataDirectory.open(tmp_path).close()
    (tmp_path / "format.json").write_text(json.dumps({"format": FORMAT + 1}))
    for _ in range(2):
        with pytest.raises(FormatTooNew, match=f"format {FORMAT + 1}"):
            DataDirectory.open(tmp_path)


@pytest.mark.parametrize("text", ["", "{}", "[]", '{"format": "one"}', "\x00"])
def test_a_format_that_says_nothing_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "format.json").write_text(text)
    with pytest.raises(InvalidInput, match="does not say"):
        DataDirectory.open(tmp_path)


def test_somebody_elses_directory_is_refused(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("precious")
    with pytest.raises(InvalidInput, match=r"thesis\.tex"):
        DataDirectory.open(tmp_path)
    assert not (tmp_path / "format.json").exists()


def test_maintenance_makes_no_directory(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="is not the data directory of a server"):
        DataDirectory.open_existing(tmp_path / "absent")
    assert list(tmp_path.iterdir()) == []
    DataDirectory.open(tmp_path).close()
    DataDirectory.open_existing(tmp_path).close()


@pytest.mark.parametrize("name", ["lost+found", SETTINGS_DIR, FOLDER, FILE])
def test_what_may_come_before_the_first_server_is_in_nobodys_way(tmp_path: Path, name: str) -> None:
    (tmp_path / name).mkdir()
    DataDirectory.open(tmp_path).close()
    assert {name, "format.json"} <= {entry.name for entry in tmp_path.iterdir()}


def test_a_file_is_no_directory(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InvalidInput, match="Cannot keep data"):
        DataDirectory.open(tmp_path / "file")


def test_who_only_looks_leaves_no_mark(tmp_path: Path) -> None:
    DataDirectory.open(tmp_path).close()
    looking = DataDirectory.open_existing(tmp_path)
    assert not (tmp_path / "running").exists()
    looking.close()
    (tmp_path / "running").write_text("")
    looking = DataDirectory.open_existing(tmp_path)
    looking.close()
    assert not looking.stopped_cleanly
    assert (tmp_path / "running").exists()


def test_a_full_disk_takes_the_mark_which_is_empty(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    DataDirectory.open(tmp_path).close()

    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "write", full)
    directory = DataDirectory.open(tmp_path)
    assert (tmp_path / "running").stat().st_size == 0
    directory.close()


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT])
def test_a_disk_without_room_for_a_name_is_no_mistake_of_the_caller(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    DataDirectory.open(tmp_path).close()

    def full(_: Path) -> None:
        raise OSError(code, os.strerror(code))

    with monkeypatch.context() as patch:
        patch.setattr(datadir, "_mark", full)
        with pytest.raises(NoSpace, match=f"Cannot keep data in {tmp_path}: {os.strerror(code)}"):
            DataDirectory.open(tmp_path)
        DataDirectory.open_existing(tmp_path).close()
    DataDirectory.open(tmp_path).close()


def test_a_pipe_in_place_of_the_format_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "format.json")
    with pytest.raises(InvalidInput, match="does not say"):
        DataDirectory.open(tmp_path)
