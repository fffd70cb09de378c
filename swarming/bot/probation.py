"""What a version on trial tells its guard while it lives: whether the server answers, and whether it does its work.

A wrapper of the calls to the server; knows no process and no file but the descriptor of the guard. The invariant: what
was said to work was answered for a while, and has by then brought a task to its end or asked for one without failing
any: a version that dies of its first task does so on trial.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import suppress

from isolate.clock import Clock
from swarming.bot import slots
from swarming.bot.main import Api
from swarming.bot.protocol import Command, Greeting, Hello, Updated

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

    def __init__(self, calls: Api, guardian: Guardian, clock: Clock, tried_s: float) -> None:
        self._calls, self._guardian, self._clock, self._tried_s = calls, guardian, clock, tried_s
        self._since_s: float | None = None  # the first answer to a poll
        self._told_s: float | None = None
        self._has_ended_one = self._has_failed = self._works = False

    async def handshake(self, hello: Hello) -> Greeting:
        return await self._calls.handshake(hello)

    async def poll(self, hello: Hello) -> Command:
        command = await self._calls.poll(hello)
        now_s = self._heard()
        if self._since_s is None:
            self._since_s = now_s
        self._prove(now_s, may_stay=self._has_ended_one or not self._has_failed)
        return command

    async def event(self, hello: Hello, kind: str, message: str) -> None:
        await self._calls.event(hello, kind, message)

    async def update(self, task_id: str, fields: Mapping[str, object]) -> Updated:
        updated = await self._calls.update(task_id, fields)
        now_s = self._heard()
        # With "duration" it is the end of a command; a task that goes on has shown nothing yet.
        self._has_ended_one = self._has_ended_one or "duration" in fields
        self._prove(now_s, may_stay=self._has_ended_one)
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

    def _prove(self, now_s: float, *, may_stay: bool) -> None:
        is_tried = self._since_s is not None and now_s - self._since_s >= self._tried_s
        if is_tried and may_stay and not self._works:
            self._works = True
            self._guardian.tell(slots.WORKS)
