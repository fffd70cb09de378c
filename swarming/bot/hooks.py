"""The hooks of `bot_config.py` as the bot sees them: calls to a process of their own, each with a time limit.

Knows no server and no task. The invariant: no hook can stop or break the bot. One that raises, hangs or ends its
process is a problem with a message, which stands until the same hook succeeds or the code changes; no call raises.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import socket
import sys
from asyncio.subprocess import DEVNULL, STDOUT, Process
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from isolate.clock import Clock
from swarming.bot.channel import Channel
from swarming.bot.waiting import within

MODULE = "swarming.bot.hook_process"
HOOK_LIMIT_S = 60.0  # a hook may look at devices or mount something; half a minute more would cost a bot its polls
PAUSES_S = (10.0, 30.0, 60.0, 300.0)  # before hooks that hung or killed their process are tried again

_LOAD = "bot_config.py"

log = logging.getLogger(__name__)


class HookPeer(Protocol):
    """The process that runs the hooks."""

    async def send(self, message: Mapping[str, object]) -> None:
        """Send an order; raises ConnectionError when the process is gone."""
        ...

    async def receive(self) -> dict[str, Any] | None:
        """Return what it says next, None when it has ended."""
        ...

    async def close(self) -> str:
        """End it and all it started; return how it ended."""
        ...


class HookProcess:
    """A `HookPeer` that is a process."""

    def __init__(self, process: Process, channel: Channel) -> None:
        self._process, self._channel = process, channel

    @classmethod
    async def start(cls, cwd: Path, env: Mapping[str, str], log_file: Path) -> HookProcess:
        """Start the process; it waits for the code."""
        ours, its = socket.socketpair()
        try:
            with its, log_file.open("ab") as stream:
                process = await asyncio.create_subprocess_exec(
                    sys.executable,
                    "-P",
                    "-u",  # what a hook prints is in the log before the hook can do harm
                    "-m",
                    MODULE,
                    str(its.fileno()),
                    str(os.getpid()),
                    pass_fds=[its.fileno()],
                    stdin=DEVNULL,
                    stdout=stream,
                    stderr=STDOUT,
                    cwd=cwd,
                    env=dict(env),
                    start_new_session=True,
                )
        except OSError:
            ours.close()
            raise
        return cls(process, await Channel.over(ours))

    async def send(self, message: Mapping[str, object]) -> None:
        await self._channel.send(message)

    async def receive(self) -> dict[str, Any] | None:
        return await self._channel.receive()

    async def close(self) -> str:
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, signal.SIGKILL)
        await self._channel.close()
        code = await self._process.wait()
        return f"signal {-code}" if code < 0 else f"status {code}"


@dataclass(slots=True)
class Wishes:
    """What hooks asked of the bot, until the bot has taken it."""

    events: list[tuple[str, str]] = field(default_factory=list)
    restart: str | None = None
    reboot: str | None = None

    def take(self) -> Wishes:
        """Return all of them; they are forgotten here."""
        taken = Wishes(self.events, self.restart, self.reboot)
        self.events, self.restart, self.reboot = [], None, None
        return taken


@dataclass(frozen=True, slots=True)
class Answer:
    """What a hook returned, and its arguments as it left them."""

    value: Any
    arguments: list[Any]


class HookFailed(Exception):
    """A hook raised; never leaves this module."""


class LoadFailed(HookFailed):
    """The code of the hooks could not be loaded."""


class Hooks:
    """Calls the hooks, one at a time; without code there are none."""

    def __init__(self, start: Callable[[], Awaitable[HookPeer]], clock: Clock, limit_s: float = HOOK_LIMIT_S) -> None:
        self.wishes = Wishes()
        self.sources: list[tuple[str, str]] = []  # texts and the names of their files; none: no hooks
        self._start, self._clock, self._limit_s = start, clock, limit_s
        self._peer: HookPeer | None = None
        self._defined: frozenset[str] = frozenset()
        self._lock = asyncio.Lock()
        self._number = 0
        self._is_asking = False  # an order that the process may be at
        self._problems: dict[str, str] = {}
        self._losses = 0  # of the process, in a row
        self._retry_s = 0.0  # monotonic time before which it is not started again

    @property
    def problem(self) -> str:
        """What is wrong with the hooks, "" when nothing is."""
        return "; ".join(self._problems.values())

    def defines(self, name: str) -> bool:
        """Whether there is such a hook; unknown until the code was loaded."""
        return name in self._defined

    async def load(self, *sources: tuple[str, str]) -> None:
        """Use this code from now on, (text, file name) of one or two files; what was wrong before is forgotten."""
        async with self._lock:
            await self._drop()
            self.sources = list(sources)
            self._defined, self._problems, self._losses, self._retry_s = frozenset(), {}, 0, 0.0
            if sources:
                await self._guarded(_LOAD, self._ready)

    async def call(self, name: str, facts: Mapping[str, object], *arguments: object) -> Answer | None:
        """Call a hook; None when there is none, or it failed, or failed a moment ago."""
        if not self.sources:
            return None
        async with self._lock:
            if self._clock.monotonic() < self._retry_s:
                return None
            return await self._guarded(name, lambda: self._called(name, facts, arguments))

    async def refuse(self, name: str, reason: str) -> None:
        """Note that what a hook returned cannot be used; that it returns, again and again, does not settle it."""
        await self._fail(_result_of(name), f"Hook {name}() returned {reason}")

    async def accept(self, name: str) -> None:
        """Note that what a hook returned can be used."""
        if self._problems.pop(_result_of(name), None):
            log.info("What hook %s() returns can be used again", name)

    async def close(self) -> None:
        """End the process."""
        async with self._lock:
            await self._drop()

    async def _called(self, name: str, facts: Mapping[str, object], arguments: tuple[object, ...]) -> Answer | None:
        await self._ready()
        if name not in self._defined:
            return None
        reply = await self._ask({"call": name, "bot": facts, "arguments": arguments})
        return Answer(reply["value"], reply["arguments"])

    async def _ready(self) -> None:
        """Have a process with the code loaded; raises LoadFailed, and as `_ask` does."""
        if self._peer is None:
            self._peer = await self._start()
            try:
                reply = await self._ask({"sources": self.sources})
            except HookFailed as error:
                await self._lose()
                raise LoadFailed(*error.args) from error
            self._defined = frozenset(reply["value"])

    async def _guarded(self, name: str, work: Callable[[], Awaitable[Answer | None]]) -> Answer | None:
        """Return what `work` does; a failure becomes a problem, a success ends it."""
        what = _LOAD if name == _LOAD else f"Hook {name}()"
        try:
            done: Answer | None = await within(self._clock, self._limit_s, _coroutine(work))
        except TimeoutError:
            await self._lose()
            await self._fail(name, f"{what} hung: it did not return within {self._limit_s:g} s")
        except LoadFailed as error:
            await self._fail(_LOAD, f"{_LOAD} failed: {error}")
        except HookFailed as error:
            await self._fail(name, f"{what} failed: {error}")
        except (ConnectionError, EOFError):
            await self._fail(name, f"{what} ended the process it ran in, with {await self._lose()}")
        except OSError as error:
            await self._fail(name, f"{what} cannot be called: {error.strerror}")
        except (ValueError, KeyError, asyncio.LimitOverrunError):
            await self._lose()
            await self._fail(name, f"{what} answered too much, or disturbed the channel to the bot")
        except asyncio.CancelledError:
            if self._is_asking:
                await asyncio.shield(self._drop())  # it may be in the middle of something
            raise
        else:
            self._losses = 0
            for settled in (name, _LOAD):
                if self._problems.pop(settled, None):
                    log.info("%s works again", what)
            return done
        return None

    async def _ask(self, order: Mapping[str, object]) -> dict[str, Any]:
        """Send an order and return its answer; raises HookFailed, ConnectionError, EOFError."""
        assert self._peer is not None
        self._number += 1
        self._is_asking = True
        await self._peer.send({"number": self._number, **order})
        while (message := await self._peer.receive()) is not None:
            if message.get("number") == self._number:
                self._is_asking = False
                if "error" in message:
                    raise HookFailed(message["error"])
                return message
            self._note_wish(message)
        raise EOFError

    def _note_wish(self, message: Mapping[str, Any]) -> None:
        match message.get("wish"):
            case "event":
                self.wishes.events.append((message["event_type"], message["message"]))
            case "restart":
                self.wishes.restart = message["message"]
            case "reboot":
                self.wishes.reboot = message["message"]

    async def _fail(self, name: str, message: str) -> None:
        if self._problems.get(name) != message:
            log.error("%s", message)
            self.wishes.events.append(("bot_error", message))
        self._problems[name] = message

    async def _lose(self) -> str:
        """Do without the process for a while; return how it ended."""
        end = await self._drop()
        self._retry_s = self._clock.monotonic() + self._next_pause_s()
        return end

    def _next_pause_s(self) -> float:
        pause_s = PAUSES_S[min(self._losses, len(PAUSES_S) - 1)]
        self._losses += 1
        return pause_s

    async def _drop(self) -> str:
        peer, self._peer, self._is_asking = self._peer, None, False
        return "" if peer is None else await peer.close()


def _result_of(name: str) -> str:
    return f"result of {name}"


async def _coroutine(work: Callable[[], Awaitable[Answer | None]]) -> Answer | None:
    return await work()
