"""What a version on trial tells its guard while it lives: whether the server answers, and whether it does its work.

A wrapper of the calls to the server; knows no process and no file but the descriptor of the guard. The invariant: what
was said to work has brought a task to its end, or was answered for a while and failed no task.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import suppress

from isolate.clock import Clock
from swarming.bot import slots
from swarming.bot.main import Api
from swarming.bot.protocol import Command, Greeting, Hello, Updated

TRIED_S = 60.0  # of answers to polls, when there is no task: two long polls
TELL_EVERY_S = 15.0


class Guardian:
    """The way to the guard; without one nothing is said."""

    def __init__(self, descriptor: int | None) -> None:
        self._descriptor = descriptor
        if descriptor is not None:
            os.set_inheritable(descriptor, False)  # a process of a task must not look like the bot

    @property
    def is_there(self) -> bool:
        """Whether this version is watched."""
        return self._descriptor is not None

    def tell(self, *words: str) -> None:
        """Say a line."""
        if self._descriptor is not None:
            with suppress(OSError):  # it was killed, and so are we
                os.write(self._descriptor, " ".join(words).encode() + b"\n")


class Proving:
    """Calls that show the guard how this version gets on."""

    def __init__(self, calls: Api, guardian: Guardian, clock: Clock) -> None:
        self._calls, self._guardian, self._clock = calls, guardian, clock
        self._since_s: float | None = None  # the first answer to a poll
        self._told_s: float | None = None
        self._has_failed = self._works = False

    async def handshake(self, hello: Hello) -> Greeting:
        return await self._calls.handshake(hello)

    async def poll(self, hello: Hello) -> Command:
        command = await self._calls.poll(hello)
        now_s = self._heard()
        if self._since_s is None:
            self._since_s = now_s
        if now_s - self._since_s >= TRIED_S and not self._has_failed:
            self._prove()
        return command

    async def event(self, hello: Hello, kind: str, message: str) -> None:
        await self._calls.event(hello, kind, message)

    async def update(self, task_id: str, fields: Mapping[str, object]) -> Updated:
        updated = await self._calls.update(task_id, fields)
        self._heard()
        if "duration" in fields:  # the end of a command
            self._prove()
        return updated

    async def fail(self, task_id: str, message: str) -> None:
        self._has_failed = True
        await self._calls.fail(task_id, message)

    def _heard(self) -> float:
        now_s = self._clock.monotonic()
        if self._told_s is None or now_s - self._told_s >= TELL_EVERY_S:
            self._told_s = now_s
            self._guardian.tell(slots.HEARD)
        return now_s

    def _prove(self) -> None:
        if not self._works:
            self._works = True
            self._guardian.tell(slots.WORKS)
