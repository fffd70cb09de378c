"""What the hooks of an administrator do to a bot, with a scripted process of hooks."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from isolate.errors import InvalidInput
from swarming.bot.hooks import Hooks
from swarming.bot.launch import Launch
from swarming.bot.portrait import Portrait
from swarming.bot.protocol import Greeting
from swarming.bot.script import FILE, GROUP_FILE, RENEW_S, Place, Script
from swarming.bot.settings import Settings
from tests.clock import ManualClock
from tests.unit.bot_doubles import until

LAUNCH = Launch(("runner",), {"A": "b"})


class ScriptedPeer:
    """A process of hooks whose hooks are functions of the test."""

    def __init__(self, hooks: Mapping[str, Callable[..., Any]]) -> None:
        self.hooks = hooks
        self.called: list[str] = []
        self._answers: asyncio.Queue[dict[str, Any]] = asyncio.Queue()

    async def send(self, message: Mapping[str, object]) -> None:
        answer: dict[str, Any] = {"number": message["number"]}
        name = message.get("call")
        if not isinstance(name, str):
            answer["value"] = sorted(self.hooks)
        else:
            self.called.append(name)
            arguments = message["arguments"]
            assert isinstance(arguments, tuple)
            found = list(arguments)
            answer |= {"value": self.hooks[name](message["bot"], *found), "arguments": found}
        self._answers.put_nowait(answer)

    async def receive(self) -> dict[str, Any] | None:
        return await self._answers.get()

    async def close(self) -> str:
        return "signal 9"


class Scene:
    """A script under test."""

    def __init__(self, tmp_path: Path, *, external_setup: bool = False, **hooks: Callable[..., Any]) -> None:
        self.clock, self.peer = ManualClock(), ScriptedPeer(hooks)

        async def start() -> ScriptedPeer:
            return self.peer

        self.hooks = Hooks(start, self.clock)
        place = Place("bot-1", tmp_path, tmp_path, "http://localhost", "", external_setup)
        self.file = place.kept(FILE)
        self.script = Script(self.hooks, place, self.clock)

    async def greeted(self, source: str | None = "code", group_source: str | None = None) -> None:
        await self.script.greeted(source, group_source, "v1")


async def test_the_first_greeting_sets_up_and_starts(tmp_path: Path) -> None:
    seen: list[Any] = []
    scene = Scene(
        tmp_path,
        setup_bot=lambda bot: seen.append(bot["id"]),
        on_bot_startup=lambda bot: seen.append(bot["server"]),
        on_handshake=lambda bot: seen.append(bot["server_version"]),
    )
    await scene.greeted()
    await scene.greeted()  # the server was away
    assert seen == ["bot-1", "http://localhost", "v1", "v1"]
    assert scene.file.read_text() == "code"
    await scene.greeted("other code")
    assert len(seen) == 7
    await scene.greeted(None)
    assert not scene.file.exists()


async def test_a_machine_set_up_by_others_is_not_set_up(tmp_path: Path) -> None:
    scene = Scene(tmp_path, external_setup=True, setup_bot=lambda bot: False, on_bot_startup=lambda bot: None)
    await scene.greeted()
    assert scene.peer.called == ["on_bot_startup"]
    assert scene.script.wishes.reboot is None


async def test_a_setup_may_ask_for_a_reboot(tmp_path: Path) -> None:
    scene = Scene(tmp_path, setup_bot=lambda bot: False)
    await scene.greeted()
    assert scene.script.wishes.reboot == "setup_bot() has changed something that needs a reboot"


async def test_code_is_kept_for_the_next_start(tmp_path: Path) -> None:
    await Scene(tmp_path, on_handshake=lambda bot: None).greeted()
    scene = Scene(tmp_path, get_authentication_headers=lambda bot: [{"X-Who": "me"}, None], on_handshake=lambda b: None)
    await scene.script.start()
    assert scene.script.headers == {"X-Who": "me"}
    await scene.greeted("code")
    assert scene.peer.called == ["get_authentication_headers", "on_handshake"]


async def test_code_for_a_group_is_kept_and_goes_with_it(tmp_path: Path) -> None:
    first = Scene(tmp_path, on_handshake=lambda bot: None)
    await first.greeted("all", "group")
    names = [str(tmp_path / FILE), str(tmp_path / GROUP_FILE)]
    assert first.hooks.sources == [("all", names[0]), ("group", names[1])]
    second = Scene(tmp_path, on_handshake=lambda bot: None)
    await second.script.start()
    assert second.hooks.sources == first.hooks.sources
    await second.greeted(None, "group")
    assert second.hooks.sources == [("", names[0]), ("group", names[1])]
    assert [path.name for path in tmp_path.iterdir()] == [GROUP_FILE]
    await second.greeted("all", None)
    assert second.hooks.sources == [("all", names[0])]
    assert [path.name for path in tmp_path.iterdir()] == [FILE]


async def test_without_kept_code_a_start_calls_nothing(tmp_path: Path) -> None:
    scene = Scene(tmp_path, on_bot_startup=lambda bot: None)
    await scene.script.start()
    assert (scene.peer.called, scene.hooks.sources) == ([], [])


async def test_dimensions_are_replaced_and_state_is_added_to(tmp_path: Path) -> None:
    scene = Scene(
        tmp_path,
        get_dimensions=lambda bot: {**bot["dimensions"], "more": ["x"]},
        get_state=lambda bot: {"cost_usd_hour": 2.5, "seen": bot["dimensions"]["more"]},
    )
    await scene.greeted()
    dimensions, state = await scene.script.describe({"os": ["Linux"]}, {"running_time": 1})
    assert dimensions == {"os": ["Linux"], "more": ["x"]}
    assert state == {"running_time": 1, "cost_usd_hour": 2.5, "seen": ["x"]}
    assert scene.script.cost_usd_hour == 2.5


@pytest.mark.parametrize("value", [[], {"os": "Linux"}, {"os": [1]}, "x"])
async def test_dimensions_that_are_none_leave_the_found_ones(tmp_path: Path, value: Any) -> None:
    scene = Scene(tmp_path, get_dimensions=lambda bot: value)
    await scene.greeted()
    dimensions, _ = await scene.script.describe({"os": ["Linux"]}, {})
    assert dimensions == {"os": ["Linux"]}
    assert scene.script.problem.startswith("Hook get_dimensions() returned no dimensions")


async def test_a_wrong_shape_is_told_once_until_it_changes(tmp_path: Path) -> None:
    shapes: list[Any] = [{"a": 1}, {"a": 1}, {"a": 2}, {"a": ["1"]}, {"a": 2}]
    scene = Scene(tmp_path, get_dimensions=lambda bot: shapes.pop(0))
    await scene.greeted()
    told = []
    for _ in range(5):
        await scene.script.describe({}, {})
        told.append((len(scene.script.wishes.take().events), bool(scene.script.problem)))
    assert told == [(1, True), (0, True), (1, True), (0, False), (1, True)]


async def test_what_starts_no_runner_is_a_problem_until_the_hook_changes(tmp_path: Path) -> None:
    scene = Scene(tmp_path, on_before_task=lambda bot, file, command, env: command.insert(0, "/nonexistent"))
    await scene.greeted()
    await scene.script.before_task(Path("f"), LAUNCH)
    await scene.script.refuse_launch("a command that cannot be started")
    await scene.script.describe({}, {})
    assert scene.script.problem == "Hook on_before_task() returned a command that cannot be started"
    await scene.greeted("other code")
    assert scene.script.problem == ""


async def test_text_that_no_server_could_read_is_not_sent(tmp_path: Path) -> None:
    scene = Scene(tmp_path, get_state=lambda bot: {"name": "a\udc80"})
    await scene.greeted()
    assert await scene.script.describe({}, {"a": 1}) == ({}, {"a": 1})
    assert scene.script.problem == "Hook get_state() returned text that is no Unicode"


async def test_a_hook_that_returns_nothing_changes_nothing(tmp_path: Path) -> None:
    scene = Scene(tmp_path, get_dimensions=lambda bot: None, get_state=lambda bot: None, get_settings=lambda bot: None)
    await scene.greeted()
    assert await scene.script.describe({"os": ["Linux"]}, {"a": 1}) == ({"os": ["Linux"]}, {"a": 1})
    assert (scene.script.problem, scene.script.settings) == ("", Settings())


async def test_settings_that_are_none_are_a_problem(tmp_path: Path) -> None:
    scene = Scene(tmp_path, get_settings=lambda bot: {"caches": 1})
    await scene.greeted()
    assert scene.script.problem == "Hook get_settings() returned settings whose 'caches' is not an object"
    assert scene.script.settings == Settings()


async def test_credentials_are_renewed_in_time_and_never_shown(tmp_path: Path) -> None:
    number = 0

    def headers(bot: Any) -> Any:
        nonlocal number
        number += 1
        return [{"X-Token": f"t{number}"}, scene.clock.now() + 3600] if number < 3 else [{"X-Token": "a\nb"}, None]

    scene = Scene(tmp_path, get_authentication_headers=headers)
    await scene.greeted()
    live = scene.script.headers
    renewing = asyncio.create_task(scene.script.keep_authenticated())
    for token in ("t2", None):
        await until(lambda: any(not future.done() for _, _, future in scene.clock._sleepers))
        scene.clock.advance(3600 - RENEW_S)
        await until(lambda token=token: live.get("X-Token") == token)  # type: ignore[misc]
    renewing.cancel()
    assert scene.script.problem == (
        "Hook get_authentication_headers() returned no pair of headers and the time they expire"
    )


async def test_a_task_is_started_as_its_hook_left_it(tmp_path: Path) -> None:
    def before(bot: Any, bot_file: str, command: list[str], env: dict[str, str]) -> None:
        command.insert(0, "nice")
        env["FILE"] = bot_file

    scene = Scene(tmp_path, on_before_task=before)
    await scene.greeted()
    launch = await scene.script.before_task(Path("/w/file"), LAUNCH)
    assert launch == Launch(("nice", "runner"), {"A": "b", "FILE": "/w/file"})


async def test_a_start_that_makes_no_sense_is_a_problem_and_not_used(tmp_path: Path) -> None:
    def before(bot: Any, bot_file: str, command: list[Any], env: Any) -> None:
        command[:] = [1]

    scene = Scene(tmp_path, on_before_task=before)
    await scene.greeted()
    assert await scene.script.before_task(Path("f"), LAUNCH) == LAUNCH
    assert scene.script.problem == "Hook on_before_task() returned no command: a list of strings is needed"


@pytest.mark.parametrize(
    ("command", "env"), [([], {}), ("x", {}), (["a\0"], {}), (["x"], []), (["x"], {"A": 1}), (["x"], {"A=": "b"})]
)
def test_what_cannot_be_started(command: Any, env: Any) -> None:
    with pytest.raises(InvalidInput, match="needed"):
        Launch.checked(command, env)


class Found:
    """A small machine."""

    version = "v"

    def dimensions(self, server_version: str, imposed: Mapping[str, list[str]]) -> dict[str, list[str]]:
        return {"id": ["bot-1"], "os": ["Linux"], "server_version": [server_version], **imposed}

    def state(self, sleep_streak: int) -> dict[str, object]:
        return {"sleep_streak": sleep_streak}


async def test_what_the_server_imposed_wins_over_a_hook(tmp_path: Path) -> None:
    scene = Scene(tmp_path, get_dimensions=lambda bot: {"id": ["x"], "pool": ["mine"], "server_version": ["0"]})
    await scene.greeted()
    portrait = Portrait(Found(), scene.script, list)
    hello = await portrait.hello(Greeting("v7", {"pool": ["imposed"]}, "g7"), 3)
    assert hello.dimensions == {"id": ["bot-1"], "pool": ["imposed"], "server_version": ["v7"]}
    assert hello.state == {"sleep_streak": 3, "bot_group_cfg_version": "g7"}
    assert await portrait.last(None) is hello


async def test_all_that_is_wrong_is_said_at_once_and_only_while_it_is(tmp_path: Path) -> None:
    ill = ["no space"]
    scene = Scene(tmp_path, get_state=lambda bot: {"quarantined": "a fan"})
    await scene.greeted()
    portrait = Portrait(Found(), scene.script, lambda: ill)
    portrait.quarantine("no reboot")
    assert (await portrait.hello(None, 0)).state["quarantined"] == "no reboot; no space; a fan"
    ill.clear()
    assert (await portrait.hello(None, 0)).state["quarantined"] == "no reboot; a fan"
    healthy = Portrait(Found(), Scene(tmp_path / "none").script, lambda: ill)
    assert "quarantined" not in (await healthy.hello(None, 0)).state


async def test_who_watches_a_bot_is_told_once_why_it_takes_no_tasks(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    ill = ["no space"]
    portrait = Portrait(Found(), Scene(tmp_path).script, lambda: ill)
    with caplog.at_level("INFO"):
        for _ in range(2):
            await portrait.hello(None, 0)
        ill.clear()
        for _ in range(2):
            await portrait.hello(None, 0)
    assert [record.getMessage() for record in caplog.records] == ["Takes no tasks: no space", "Takes tasks again"]


def test_the_place_keeps_the_code_beside_the_bot(tmp_path: Path) -> None:
    assert Scene(tmp_path).file == tmp_path / "bot_config.py"
    assert sys.modules.get("bot_config") is None  # no hook ever runs in the process of the bot
