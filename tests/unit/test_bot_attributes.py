"""Dimensions and state of a bot."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest

from isolate.errors import InvalidInput
from swarming import wire_bot
from swarming.bot.attributes import Attributes, Identity, check_value, parse_dimensions
from swarming.bot.machine import read_machine
from swarming.bot.workdir import NAMED_CACHES
from swarming.bot_archive import code_version
from tests.clock import ManualClock


@pytest.fixture
def identity(tmp_path: Path) -> Identity:
    return Identity("bot-1", {"pool": ["nightly"], "os": ["Plan9"]}, 0.25, tmp_path)


def test_the_server_wins_over_the_operator_and_the_operator_over_what_is_found(identity: Identity) -> None:
    found = Attributes(identity, read_machine(), {}, ManualClock()).dimensions("v7", {"pool": ["imposed"]})
    assert found["pool"] == ["imposed"]
    assert found["os"] == ["Plan9"]
    assert found["id"] == ["bot-1"]
    assert found["server_version"] == ["v7"]


def test_without_a_pool_a_bot_is_in_the_default_one(identity: Identity) -> None:
    found = Attributes(replace(identity, extra={}), read_machine(), {}, ManualClock()).dimensions("", {})
    assert found["pool"] == ["default"]
    assert "server_version" not in found


def test_a_server_finds_nothing_wrong_with_them(identity: Identity) -> None:
    me = Attributes(identity, read_machine(), {"PATH": "/bin"}, ManualClock())
    said = {"dimensions": me.dimensions("v7", {}), "state": me.state(3), "version": me.version}
    hello = wire_bot.hello(said)
    assert hello.problem == ""
    assert hello.bot_id == "bot-1"


def test_state_counts_the_time_since_the_start(identity: Identity) -> None:
    clock = ManualClock()
    me = Attributes(identity, read_machine(), {"PATH": "/bin"}, clock)
    clock.advance(90)
    state = me.state(3)
    assert state["running_time"] == 90
    assert state["started_ts"] == round(clock.now()) - 90
    assert state["sleep_streak"] == 3
    assert state["cost_usd_hour"] == 0.25
    assert state["env"] == {"PATH": "/bin"}


def test_a_list_of_named_caches_that_a_task_made_a_pipe_holds_nobody_up(identity: Identity) -> None:
    (identity.base_dir / NAMED_CACHES).mkdir()
    os.mkfifo(identity.base_dir / NAMED_CACHES / "state.json")
    assert "named_caches" not in Attributes(identity, read_machine(), {}, ManualClock()).state(0)


@pytest.mark.parametrize(
    ("env", "expected"),
    [
        ({"LANG": "de_DE.UTF-8"}, "de_DE.UTF-8"),
        ({"LANG": "de_DE.UTF-8", "LC_CTYPE": "C.UTF-8", "LC_ALL": ""}, "C.UTF-8"),
        ({"LANG": " | "}, "C"),
        ({}, "C"),
    ],
)
def test_the_environment_says_the_locale_and_the_host(identity: Identity, env: dict[str, str], expected: str) -> None:
    assert Attributes(identity, read_machine(), env, ManualClock()).dimensions("", {})["locale"] == [expected]
    assert "docker_host_hostname" not in Attributes(identity, read_machine(), env, ManualClock()).state(0)
    inside = Attributes(identity, read_machine(), {**env, "DOCKER_HOST_HOSTNAME": "rack-1"}, ManualClock())
    assert inside.state(0)["docker_host_hostname"] == "rack-1"


def test_repeated_dimensions_have_several_values() -> None:
    assert parse_dimensions([("a", "1"), ("b", "x"), ("a", "2")]) == {"a": ["1", "2"], "b": ["x"]}


@pytest.mark.parametrize("pair", [("1a", "x"), ("", "x"), ("id", "x"), ("server_version", "x"), ("k" * 65, "x")])
def test_keys_that_cannot_be_set(pair: tuple[str, str]) -> None:
    with pytest.raises(InvalidInput, match="Dimension"):
        parse_dimensions([pair])


@pytest.mark.parametrize("value", ["", " x", "a|b", "x" * 257, "a\nb"])
def test_values_that_cannot_be(value: str) -> None:
    with pytest.raises(InvalidInput, match="What"):
        check_value("What", value)


def test_limits_are_inclusive() -> None:
    assert check_value("What", "x" * 256) == "x" * 256
    assert len(parse_dimensions([(f"k{number}", "x") for number in range(32)])) == 32
    with pytest.raises(InvalidInput, match="33"):
        parse_dimensions([(f"k{number}", "x") for number in range(33)])


def test_the_version_is_that_of_the_code() -> None:
    assert code_version() == code_version()
    assert len(code_version()) == 64
