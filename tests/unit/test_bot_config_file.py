"""The hooks of bots in a data directory, and the calls about them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from isolate.errors import InvalidInput
from server.bot_config import FILE, MAX_BYTES, BotConfigFile, Script
from tests.clock import ManualClock


@pytest.fixture
def file(tmp_path: Path) -> BotConfigFile:
    return BotConfigFile(tmp_path, ManualClock())


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


def test_another_server_finds_the_same(file: BotConfigFile, tmp_path: Path) -> None:
    assert BotConfigFile(tmp_path, ManualClock()).current() == file.current()
    before = file.replace("a = 1\n", "joe")
    assert BotConfigFile(tmp_path, ManualClock()).current() == before


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
