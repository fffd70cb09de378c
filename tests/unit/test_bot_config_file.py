"""The hooks of bots in a data directory, and the calls about them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from isolate.errors import InvalidInput
from server.bot_config import FILE, MAX_BYTES, BotConfigFile, BotScripts, Script
from server.bot_groups import BotGroup


@pytest.fixture
def file(tmp_path: Path) -> BotConfigFile:
    return BotConfigFile(tmp_path / FILE)


def test_without_a_file_there_are_no_hooks(file: BotConfigFile) -> None:
    assert file.current() == Script(None, "default")


def test_the_version_follows_the_content(file: BotConfigFile) -> None:
    first = file.replace("a = 1\n", "joe")
    assert (first.content, first.who) == ("a = 1\n", "joe")
    assert file.current() == first
    second = file.replace("a = 2\n", "ann")
    assert second.version != first.version
    assert file.replace("a = 1\n", "ann").version == first.version


def test_an_edit_in_place_counts_and_nobody_is_named(file: BotConfigFile, tmp_path: Path) -> None:
    before = file.replace("a = 1\n", "joe")
    (tmp_path / FILE).write_text("a = 22\n")
    after = file.current()
    assert (after.content, after.who) == ("a = 22\n", "")
    assert after.version != before.version


def test_an_edit_that_is_no_python_is_not_used(
    file: BotConfigFile, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    before = file.replace("a = 1\n", "joe")
    (tmp_path / FILE).write_text("def (\n")
    assert file.current() == before
    assert file.current() == before
    assert caplog.text.count("is not used") == 1


def test_a_pipe_is_no_script_and_stops_nobody(
    file: BotConfigFile, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    os.mkfifo(tmp_path / FILE)
    assert file.current() == Script()
    assert caplog.messages == [f"{tmp_path / FILE} is not used: it is a pipe, not a file"]


def test_another_server_finds_the_same(file: BotConfigFile, tmp_path: Path) -> None:
    assert BotConfigFile(tmp_path / FILE).current() == file.current()
    before = file.replace("a = 1\n", "joe")
    assert BotConfigFile(tmp_path / FILE).current() == before


def test_an_empty_one_takes_the_hooks_away(file: BotConfigFile, tmp_path: Path) -> None:
    file.replace("a = 1\n", "joe")
    assert file.replace(" \n", "joe") == Script()
    assert not (tmp_path / FILE).exists()


def test_what_did_not_change_is_not_read_again(file: BotConfigFile, tmp_path: Path) -> None:
    before = file.replace("a = 1\n", "joe")
    os.chmod(tmp_path / FILE, 0)
    assert file.current() is before


@pytest.mark.parametrize("content", ["def (", "a\0b", "\udc80", "(" * 10_000, "#" * (MAX_BYTES + 1)])
def test_what_no_bot_could_load_is_refused(file: BotConfigFile, content: str) -> None:
    with pytest.raises(InvalidInput, match=r"bot_config\.py"):
        file.replace(content, "joe")
    assert file.current() == Script()


def test_a_group_may_have_a_script_of_its_own(tmp_path: Path) -> None:
    scripts, group = BotScripts(tmp_path, tmp_path / "config" / "scripts"), BotGroup(script="gpu.py")
    nothing = scripts.of(group)
    assert (nothing.for_all, nothing.of_group, nothing.version) == (Script(), Script(), "default")
    mine = scripts.file("gpu.py").replace("a = 1\n", "joe")
    assert (tmp_path / "config" / "scripts" / "gpu.py").read_text() == "a = 1\n"
    assert scripts.of(group).of_group == mine
    assert scripts.of(group).version == mine.version
    everyones = scripts.file().replace("b = 1\n", "joe")
    assert scripts.of(group).version == f"{everyones.version}+{mine.version}"
    assert scripts.of(BotGroup()).version == everyones.version


@pytest.mark.parametrize("name", ["../x.py", "a/b.py", ".py", "x", "x.pyc", "a b.py", "x" * 101 + ".py", "\0.py"])
def test_a_script_has_a_plain_name(tmp_path: Path, name: str) -> None:
    with pytest.raises(InvalidInput, match="is no name of a script"):
        BotScripts(tmp_path, tmp_path).file(name)
