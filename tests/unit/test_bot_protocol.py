"""The bot API as a bot sees it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from isolate.errors import InvalidInput, Refused
from swarming.bot import protocol
from swarming.bot.protocol import BotApi, Hello, parse_command, parse_manifest

MANIFEST: dict[str, Any] = {
    "task_id": "5cee488008811",
    "bot_id": "b",
    "bot_authenticated_as": "bot:b",
    "host": "http://localhost",
    "command": ["echo", "x"],
    "extra_args": None,
    "relative_cwd": None,
    "dimensions": {"pool": ["default"]},
    "env": {"A": "b"},
    "env_prefixes": None,
    "caches": [],
    "cipd_input": None,
    "containment": {},
    "grace_period": 30,
    "hard_timeout": 60,
    "io_timeout": 0,
    "isolated": {"input": None, "namespace": "blake3-zstd", "server": "http://localhost"},
    "cas_input_root": None,
    "outputs": ["out"],
    "secret_bytes": "YWJj\nZGVm\n",
    "realm": {},
    "resultdb": None,
    "service_accounts": {},
}
HELLO = Hello({"id": ["b"]}, {"sleep_streak": 0}, "v")


class RecordingHttp:
    """Keeps the calls and gives one answer to all."""

    def __init__(self, reply: Any) -> None:
        self.reply = reply
        self.calls: list[tuple[str, Any, Mapping[str, str], float, int | None]] = []

    async def json(
        self,
        method: str,
        path: str,
        *,
        body: object = None,
        headers: Mapping[str, str] | None = None,
        timeout_s: float = 60,
        attempts: int | None = None,
    ) -> Any:
        assert method == "POST"
        self.calls.append((path, body, headers or {}, timeout_s, attempts))
        return self.reply


def test_a_manifest_becomes_a_task() -> None:
    task = parse_manifest(MANIFEST)
    assert task.command == ("echo", "x")
    assert task.is_raw
    assert (task.hard_timeout_s, task.io_timeout_s, task.grace_period_s) == (60, 0, 30)
    assert task.isolated is None
    assert task.isolate_server == "http://localhost"
    assert task.secret_bytes == "YWJjZGVm"
    assert task.outputs == ("out",)


def test_extra_arguments_are_no_raw_command() -> None:
    task = parse_manifest({**MANIFEST, "command": None, "extra_args": ["--x"], "isolated": {"input": "ab"}})
    assert task.command == ("--x",)
    assert not task.is_raw
    assert task.isolated == "ab"


def test_a_key_more_or_less_is_refused() -> None:
    with pytest.raises(InvalidInput, match="surprise"):
        parse_manifest({**MANIFEST, "surprise": 1})
    with pytest.raises(InvalidInput, match="outputs"):
        parse_manifest({key: value for key, value in MANIFEST.items() if key != "outputs"})


@pytest.mark.parametrize("key", list(protocol.UNSUPPORTED))
def test_what_this_bot_does_not_have_is_refused(key: str) -> None:
    with pytest.raises(InvalidInput, match="no support"):
        parse_manifest({**MANIFEST, key: [{"name": "x"}]})


@pytest.mark.parametrize(
    ("reply", "expected"),
    [
        ({"cmd": "sleep", "duration": 1.5, "quarantined": True}, protocol.Sleep(1.5, quarantined=True)),
        ({"cmd": "terminate", "task_id": "x1"}, protocol.Terminate("x1")),
        ({"cmd": "bot_restart", "message": "m"}, protocol.Restart("m")),
        ({"cmd": "restart", "message": "m"}, protocol.Reboot("m")),
        ({"cmd": "host_reboot", "message": "m"}, protocol.Reboot("m")),
        ({"cmd": "run", "manifest": MANIFEST}, protocol.Run(parse_manifest(MANIFEST))),
    ],
)
def test_commands(reply: Any, expected: protocol.Command) -> None:
    assert parse_command(reply) == expected


def test_an_offer_that_cannot_be_taken_names_its_task() -> None:
    command = parse_command({"cmd": "run", "manifest": {**MANIFEST, "cipd_input": {"server": "x"}}})
    assert command == protocol.Unfit("5cee488008811", "This bot has no support for CIPD packages")


@pytest.mark.parametrize("reply", [None, [], "x", {}, {"cmd": "dance"}, {"cmd": "run", "manifest": None}])
def test_replies_that_are_no_command(reply: Any) -> None:
    with pytest.raises(Refused):
        parse_command(reply)


async def test_every_call_carries_the_session_and_is_made_once() -> None:
    http = RecordingHttp({"server_version": "v", "bot_group_cfg": {"dimensions": {"pool": ["p"]}}})
    api = BotApi(http, "b", "the-session")
    greeting = await api.handshake(HELLO)
    assert greeting == protocol.Greeting("v", {"pool": ["p"]}, None)
    http.reply = {}
    await api.event(HELLO, "bot_log", "hi")
    await api.fail("x1", "broken")
    assert [call[0].rpartition("bot/")[2] for call in http.calls] == ["handshake", "event", "task_error/x1"]
    assert all(call[2]["X-Isolate-Session"] == "the-session" and call[4] == 1 for call in http.calls)
    assert http.calls[1][1] == {**HELLO.to_json(), "event": "bot_log", "message": "hi"}
    assert http.calls[2][1] == {"id": "b", "task_id": "x1", "message": "broken"}


async def test_a_poll_waits_longer_than_the_server_does() -> None:
    http = RecordingHttp({"cmd": "sleep", "duration": 1})
    await BotApi(http, "b", "s").poll(HELLO)
    _, _, headers, timeout_s, _ = http.calls[0]
    assert 25 <= float(headers["X-Isolate-Wait"]) <= 30
    assert timeout_s > 30


@pytest.mark.parametrize(("asked", "expected"), [(None, None), (1, 1.0), (0, 0.1), (1000, 30.0)])
async def test_how_often_to_report_is_kept_in_bounds(asked: float | None, expected: float | None) -> None:
    reply = {"ok": True, "must_stop": False} | ({} if asked is None else {"update_every_s": asked})
    updated = await BotApi(RecordingHttp(reply), "b", "s").update("x1", {})
    assert updated == protocol.Updated(must_stop=False, update_every_s=expected)


def test_named_caches_and_priority_come_along() -> None:
    caches = [{"name": "git", "path": "cache/git", "hint": "1234"}, {"name": "ccache", "path": "cc", "hint": "-1"}]
    task = parse_manifest({**MANIFEST, "caches": caches, "containment": {"lower_priority": True}})
    assert task.caches == (("git", "cache/git", 1234), ("ccache", "cc", -1))
    assert task.lower_priority


@pytest.mark.parametrize("cache", [{"name": "c"}, {"name": "c", "path": "p", "hint": "many"}])
def test_a_cache_that_is_none_is_refused(cache: dict[str, str]) -> None:
    with pytest.raises(InvalidInput, match="no named cache"):
        parse_manifest({**MANIFEST, "caches": [cache]})


def test_an_update_names_its_version() -> None:
    assert parse_command({"cmd": "update", "version": "abc"}) == protocol.Update("abc")


async def test_credentials_go_with_every_call_as_they_are_then() -> None:
    http, credentials = RecordingHttp({}), {"X-Token": "1"}
    api = BotApi(http, "b", "s", credentials)
    await api.event(HELLO, "bot_log", "x")
    credentials["X-Token"] = "2"
    await api.event(HELLO, "bot_log", "x")
    assert [headers["X-Token"] for _, _, headers, _, _ in http.calls] == ["1", "2"]
