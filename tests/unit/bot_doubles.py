"""A scripted server for the bot, at the boundary of its protocol, and a scripted runner."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from swarming.bot.hooks import Wishes
from swarming.bot.launch import Launch
from swarming.bot.protocol import Command, Greeting, Hello, Manifest, Sleep, Updated
from swarming.bot.settings import Settings

GOING_ON = Updated(must_stop=False, update_every_s=None)
LIMIT_S = 20.0

T = TypeVar("T")


async def until(condition: Callable[[], bool]) -> None:
    """Let the loop run until `condition` holds; the limit only ends a test that is broken."""
    async with asyncio.timeout(LIMIT_S):
        while not condition():
            await asyncio.sleep(0)


def manifest(**changes: Any) -> Manifest:
    """Return a small task."""
    values: dict[str, Any] = {
        "task_id": "5cee488008811",
        "command": ("true",),
        "is_raw": True,
        "relative_cwd": "",
        "env": {},
        "env_prefixes": {},
        "isolated": None,
        "isolate_server": None,
        "namespace": None,
        "outputs": (),
        "secret_bytes": None,
        "hard_timeout_s": 0.0,
        "io_timeout_s": 0.0,
        "grace_period_s": 30.0,
        "dimensions": {"pool": ["default"]},
    }
    return Manifest(**{**values, **changes})


class ScriptedApi:
    """Answers each call from its script; an exception in it is raised. What was said is kept."""

    def __init__(self, *commands: Command | BaseException) -> None:
        self.commands = list(commands)
        self.updates: list[dict[str, Any]] = []
        self.failures: list[str] = []
        self.events: list[tuple[str, str]] = []
        self.hellos: list[Hello] = []
        self.handshakes = 0
        self.update_answers: list[Updated | BaseException] = []
        self.greetings: list[Greeting | BaseException] = []
        self.on_empty: Callable[[], None] = lambda: None

    async def handshake(self, hello: Hello) -> Greeting:
        self.handshakes += 1
        self.hellos.append(hello)
        return _answer(self.greetings, Greeting("v1", {}, "g1"))

    async def poll(self, hello: Hello) -> Command:
        self.hellos.append(hello)
        if not self.commands:
            self.on_empty()
        idle: Command = Sleep(0.0, quarantined=False)
        return _answer(self.commands, idle)

    async def event(self, hello: Hello, kind: str, message: str) -> None:
        self.hellos.append(hello)
        self.events.append((kind, message))

    async def update(self, task_id: str, fields: Mapping[str, object]) -> Updated:
        self.updates.append({"task_id": task_id, **fields})
        return _answer(self.update_answers, GOING_ON)

    async def fail(self, task_id: str, message: str) -> None:
        self.failures.append(f"{task_id}: {message}")


def _answer(script: list[T | BaseException], otherwise: T) -> T:
    answer = script.pop(0) if script else otherwise
    if isinstance(answer, BaseException):
        raise answer
    return answer


class ScriptedScript:
    """Hooks that note when they are called; `launch` is what `on_before_task` wants."""

    def __init__(self) -> None:
        self.calls: list[tuple[Any, ...]] = []
        self.wishes = Wishes()
        self.settings = Settings()
        self.cost_usd_hour: float | None = None
        self.launch: Launch | None = None
        self.on_call: Callable[[str], None] = lambda name: None
        self.holding: asyncio.Event | None = None  # what `on_before_task` waits for

    def _note(self, name: str, *arguments: Any) -> None:
        self.calls.append((name, *arguments))
        self.on_call(name)

    async def greeted(self, source: str | None, group_source: str | None, server_version: str) -> None:
        self._note("greeted", source, group_source, server_version)

    async def before_poll(self) -> None:
        self._note("before_poll")

    async def after_poll(self, command: str) -> None:
        self._note("after_poll", command)

    async def idle(self, since_last_action_s: float) -> None:
        self._note("idle", since_last_action_s)

    async def shut_down(self) -> None:
        self._note("shut_down")

    async def before_task(self, bot_file: Path, launch: Launch) -> Launch:
        self._note("before_task", bot_file, launch)
        if self.holding is not None:
            await self.holding.wait()
        return self.launch or launch

    async def refuse_launch(self, reason: str) -> None:
        self._note("refuse_launch", reason)

    async def after_task(self, **told: Any) -> None:
        self._note("after_task", told)


class ScriptedRunner:
    """A runner whose words come from a test."""

    def __init__(self) -> None:
        self.told: list[dict[str, Any]] = []
        self.killed = self.ended = False
        self.closed = False
        self._words: asyncio.Queue[dict[str, Any] | None] = asyncio.Queue()
        self._output, self._printed = os.pipe()
        self._taken = False

    def say(self, message: dict[str, Any] | None) -> None:
        """Let it say something; None is its end."""
        self._words.put_nowait(message)

    def finish(self, **finished: Any) -> None:
        """Let it answer with a result."""
        self.say({"finished": {"exit_code": 0, "duration_s": 1.5, **finished}})

    def prints(self, data: bytes) -> None:
        """Let the task print something."""
        while data:
            data = data[os.write(self._printed, data) :]

    @property
    def is_alive(self) -> bool:
        return not (self.killed or self.ended)

    async def send(self, message: Mapping[str, object]) -> None:
        if self.killed:
            raise BrokenPipeError
        self.told.append(dict(message))

    async def receive(self) -> dict[str, Any] | None:
        return await self._words.get()

    def end(self) -> None:
        """Let it end by itself, with status 0."""
        self.ended = True
        self.say(None)

    def kill(self) -> None:
        if not self.ended:
            self.killed = True
            self.say(None)

    def take_output(self) -> int:
        self._taken = True
        return self._output

    async def close(self) -> str:
        if not self.closed:
            self.closed = True
            os.close(self._printed)
            if not self._taken:
                os.close(self._output)
        return "signal 9" if self.killed else "status 0"
