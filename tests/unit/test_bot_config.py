"""Flags and environment of a bot."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from isolate.errors import InvalidInput
from swarming import wire_bot
from swarming.bot.config import NOT_IN_IDS, BotConfig, load
from swarming.bot.machine import short_hostname


def config(environment: dict[str, str], **flags: object) -> BotConfig:
    given = {"server": None, "directory": None, "bot_id": None, **flags}
    return load(**given, environment=environment)  # type: ignore[arg-type]


def test_flags_win_over_the_environment() -> None:
    known = {"SWARMING_SERVER": "http://localhost:1", "SWARMING_BOT_ID": "from-env"}
    assert config(known).server == "http://localhost:1"
    assert config(known).identity.bot_id == "from-env"
    flagged = config(known, server="localhost:2", bot_id="flag")
    assert (flagged.server, flagged.identity.bot_id) == ("http://localhost:2", "flag")


def test_without_an_id_a_bot_is_called_like_its_host() -> None:
    assert config({"SWARMING_SERVER": "localhost"}).identity.bot_id == short_hostname()


def test_every_id_has_a_directory_of_its_own(tmp_path: Path) -> None:
    known = {"SWARMING_SERVER": "localhost", "XDG_DATA_HOME": str(tmp_path)}
    assert config(known, bot_id="a").directory == tmp_path / "swarming-bot" / "a"
    assert config(known, bot_id="a", directory=tmp_path / "x").directory == tmp_path / "x"


@pytest.mark.parametrize(
    ("environment", "flags", "word"),
    [
        ({}, {}, "--server"),
        ({"SWARMING_SERVER": "localhost"}, {"bot_id": "a/b"}, "a/b"),
        ({"SWARMING_SERVER": "localhost"}, {"bot_id": " x"}, "unpadded"),
        ({"SWARMING_SERVER": "localhost"}, {"dimensions": [("id", "x")]}, "--id"),
        ({"SWARMING_SERVER": "http://localhost?x=1"}, {}, "localhost"),
        ({"SWARMING_SERVER": "localhost"}, {"cost_usd_hour": math.nan}, "--cost-usd-hour nan"),
        ({"SWARMING_SERVER": "localhost"}, {"hook_limit_s": math.inf}, "--hook-timeout inf"),
        ({"SWARMING_SERVER": "localhost"}, {"reboot_command": "a '"}, "--reboot-command .*No closing quotation"),
    ],
)
def test_what_makes_no_sense_is_refused(environment: dict[str, str], flags: dict[str, object], word: str) -> None:
    with pytest.raises(InvalidInput, match=word):
        config(environment, **flags)


@pytest.mark.parametrize("letter", sorted(NOT_IN_IDS))
def test_an_id_the_server_would_refuse_is_refused_here(letter: str) -> None:
    with pytest.raises(InvalidInput, match="id"):
        config({"SWARMING_SERVER": "localhost"}, bot_id=f"a{letter}b")
    with pytest.raises(InvalidInput, match="id"):
        wire_bot.hello({"dimensions": {"id": [f"a{letter}b"]}, "state": {}, "version": ""})


def test_tasks_do_not_inherit_what_belongs_to_another_task() -> None:
    known = {"SWARMING_SERVER": "localhost", "PATH": "/bin", "LUCI_CONTEXT": "/secret", "SWARMING_TASK_ID": "x1"}
    env = config(known).env
    assert {"SWARMING_SERVER": "localhost", "PATH": "/bin"}.items() <= env.items()
    assert env.keys() - known.keys() == {"SWARMING_HEADLESS", "SWARMING_BOT_ID"}


def test_the_reboot_command_is_split_like_a_shell_does() -> None:
    found = config({"SWARMING_SERVER": "localhost"}, reboot_command="sudo -n 'shut down'")
    assert found.reboot_command == ("sudo", "-n", "shut down")
