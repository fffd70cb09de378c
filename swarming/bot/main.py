"""The life of a bot: introduce itself, ask for something to do, do it, ask again.

Knows no process and no file; what a task needs is behind `Hands`. The invariants: nothing that goes wrong in one cycle
ends the bot, least of all a server that is away; a bot that was told to end finishes its task first.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from enum import Enum
from typing import Protocol

from isolate.clock import Clock
from isolate.errors import InternalFailure, IsolateError, LeaseLost, Unavailable
from swarming.bot import protocol
from swarming.bot.courier import pause_s
from swarming.bot.hooks import Wishes
from swarming.bot.protocol import Command, Greeting, Hello, Manifest, Updated
from swarming.bot.verdict import Why
from swarming.bot.waiting import pause, unless

MISHAP_S = 10.0  # after something that should not happen, so that it does not happen a hundred times a second
LAPSE_S = 20.0  # without a word of its bot an offer lapses after 15 s, and polling again would get the same one
LAST_WORD_S = 5.0  # how long a bot that ends tries to say so

log = logging.getLogger(__name__)


class Ending(Enum):
    """Why a bot ended."""

    STOPPED = "Signal was received"
    TERMINATED = "Terminated by request"
    RESTART = "About to restart"
    REPLACED = "Another bot has taken over"


class Api(Protocol):
    """The calls of `protocol.BotApi` that are about the bot; `update` is for tasks it does not run."""

    async def handshake(self, hello: Hello) -> Greeting: ...

    async def poll(self, hello: Hello) -> Command: ...

    async def event(self, hello: Hello, kind: str, message: str) -> None: ...

    async def update(self, task_id: str, fields: Mapping[str, object]) -> Updated: ...

    async def fail(self, task_id: str, message: str) -> None: ...


class Description(Protocol):
    """What the bot says of itself: `portrait.Portrait`."""

    async def hello(self, greeting: Greeting | None, sleep_streak: int) -> Hello: ...

    async def last(self, greeting: Greeting | None) -> Hello: ...

    async def unfit(self) -> str: ...

    def quarantine(self, reason: str) -> None: ...


class Script(Protocol):
    """The hooks of the administrator: `script.Script`. None of them raises."""

    @property
    def wishes(self) -> Wishes: ...

    async def greeted(self, source: str | None, group_source: str | None, server_version: str) -> None: ...

    async def before_poll(self) -> None: ...

    async def after_poll(self, command: str) -> None: ...

    async def idle(self, since_last_action_s: float) -> None: ...

    async def shut_down(self) -> None: ...


class Work(Protocol):
    """One task: `task.TaskRun`."""

    async def run(self) -> str: ...

    def stop(self, why: Why) -> None: ...


class Hands(Protocol):
    """What the bot does on its machine."""

    async def prepare(self) -> None:
        """Get ready for a task, while there is none."""
        ...

    def work(self, manifest: Manifest) -> Work:
        """Return the task, not yet begun."""
        ...

    async def reboot(self) -> bool:
        """Restart the machine; False where that is not allowed."""
        ...

    async def update(self, version: str) -> None:
        """Get another version of this program ready, to be started by a restart.

        Raises InternalFailure when that is impossible, and NotFound, Unavailable as calls do.
        """
        ...


class Bot:
    """One bot. `run` returns why it ended; `interrupt` is what a signal does."""

    def __init__(self, api: Api, me: Description, hands: Hands, script: Script, clock: Clock) -> None:
        self._api, self._me, self._hands, self._script, self._clock = api, me, hands, script, clock
        self._greeting: Greeting | None = None
        self._ending = asyncio.Event()
        self._work: Work | None = None
        self._sleep_streak = 0
        self._busy_s = clock.monotonic()  # when there was something to do for the last time
        self._failures = 0  # calls in a row that got no answer
        self._complaint = ""  # what was last reported to be wrong, so that it is said once

    def interrupt(self) -> None:
        """End after the task at hand; a second time: end the task, too."""
        if self._ending.is_set() and self._work is not None:
            log.warning("Ending the task at once")
            self._work.stop(Why.SHUTDOWN)
        elif self._work is not None:
            log.warning("Ending after the task at hand; another signal ends it at once")
        self._ending.set()

    async def run(self) -> Ending:
        """Serve until told otherwise."""
        ending: Ending | None = None
        while ending is None and not self._ending.is_set():
            try:
                ending = await self.step()
            except Exception as error:
                log.exception("Unexpected error")
                await self._event("bot_error", f"Unexpected error: {type(error).__name__}: {error}")
                await pause(self._clock, MISHAP_S, self._ending)
        ending = ending or Ending.STOPPED
        await self._script.shut_down()
        if self._greeting is not None and ending is not Ending.REPLACED:
            await self._event("bot_shutdown", ending.value)
        return ending

    async def step(self) -> Ending | None:
        """Make one call and do what the answer says; returns why the bot is to end, if so."""
        await self._hands.prepare()
        try:
            if self._greeting is None:
                await unless(self._ending, self._handshake())
                return await self._grant()
            command = await unless(self._ending, self._poll(self._greeting))
        except LeaseLost as error:
            log.error("%s: %s", Ending.REPLACED.value, error)  # noqa: TRY400 - foreseen, no traceback
            return Ending.REPLACED
        except IsolateError as error:
            await self._failed(error)
            return None
        self._failures, self._complaint = 0, ""
        try:
            ending = None if command is None else await self._obey(command)
            return ending or await self._grant()
        except IsolateError as error:
            await self._failed(error)
            return None

    async def _handshake(self) -> None:
        hello = await self._me.hello(None, self._sleep_streak)
        greeting = await self._api.handshake(hello)
        self._failures, self._complaint = 0, ""
        log.info("Connected as %s, server version %s", *hello.dimensions["id"], greeting.server_version)
        self._greeting = greeting
        await self._script.greeted(greeting.script, greeting.group_script, greeting.server_version)

    async def _poll(self, greeting: Greeting) -> Command:
        await self._script.before_poll()
        command = await self._api.poll(await self._me.hello(greeting, self._sleep_streak))
        await self._script.after_poll(command.NAME)
        return command

    async def _grant(self) -> Ending | None:
        """Do what the hooks asked for while they ran."""
        wishes = self._script.wishes.take()
        for kind, message in wishes.events:
            await self._event(kind, message)
        if wishes.reboot is not None:
            await self._reboot("A hook", wishes.reboot)
        if wishes.restart is not None:
            log.info("Restarting: %s", wishes.restart)
            return Ending.RESTART
        return None

    async def _failed(self, error: IsolateError) -> None:
        """Wait before the next try; a server that was away is greeted again, it may be another one."""
        self._failures += 1
        if str(error) != self._complaint:
            self._complaint = str(error)
            log.warning("%s; trying again until it works", error)
        asked_s = None
        if isinstance(error, Unavailable):
            self._greeting, asked_s = None, error.retry_after_s
        await pause(self._clock, max(pause_s(self._failures), asked_s or 0.0), self._ending)

    async def _obey(self, command: Command) -> Ending | None:
        match command:
            case protocol.Sleep(duration_s, quarantined):
                self._sleep_streak += 1
                if quarantined and self._sleep_streak == 1:
                    log.warning("The server keeps this bot in quarantine")
                await self._script.idle(self._clock.monotonic() - self._busy_s)
                await pause(self._clock, duration_s, self._ending)
            case protocol.Run(manifest):
                await self._run(manifest)
            case protocol.Unfit(task_id, reason):
                await self._refuse(task_id, reason)
            case protocol.Terminate(task_id):
                await self._api.update(task_id, {"duration": 0, "exit_code": 0})
                return Ending.TERMINATED
            case protocol.Restart(message):
                log.info("Restarting: %s", message)
                return Ending.RESTART
            case protocol.Reboot(message):
                await self._reboot("The server", message)
            case protocol.Update(version):
                return await self._update(version)
        return None

    async def _run(self, manifest: Manifest) -> None:
        self._sleep_streak = 0
        if reason := await self._me.unfit():  # since the poll, which may have waited long for this task
            log.warning("Task %s is left to another bot: %s", manifest.task_id, reason)
            await self._event("bot_error", f"Task {manifest.task_id} is left to another bot: {reason}")
            await pause(self._clock, LAPSE_S, self._ending)
            return
        log.info("Task %s started", manifest.task_id)
        self._work = self._hands.work(manifest)
        try:
            outcome = await self._work.run()
        finally:
            self._work, self._busy_s = None, self._clock.monotonic()
        log.info("Task %s ended: %s", manifest.task_id, outcome)

    async def _refuse(self, task_id: str, reason: str) -> None:
        """Take the offer and fail it, so that it does not come again."""
        log.warning("Task %s cannot run here: %s", task_id, reason)
        await self._api.update(task_id, {"cost_usd": 0.0})
        await self._api.fail(task_id, reason)

    async def _update(self, version: str) -> Ending | None:
        """Become another version; one that cannot be is reported once, and this one goes on."""
        log.info("Updating to %s", version)
        try:
            await self._hands.update(version)
        except InternalFailure as error:
            log.error("%s", error)  # noqa: TRY400 - foreseen, no traceback
            await self._event("bot_error", str(error))
            return None
        await self._event("bot_log", f"About to restart: Updating to {version}")
        return Ending.RESTART

    async def _reboot(self, who: str, message: str) -> None:
        log.error("%s asks for a reboot of this machine: %s", who, message)
        await self._event("bot_rebooting", message)
        if await self._hands.reboot():
            await pause(self._clock, MISHAP_S, self._ending)  # it is about to end
            return
        fault = f"This bot may not reboot its machine; it was asked to: {message}"
        self._me.quarantine(fault)
        await self._event("bot_error", fault)

    async def _event(self, kind: str, message: str) -> None:
        """Tell the server if it listens; nothing depends on it."""
        try:
            async with asyncio.timeout(LAST_WORD_S):
                await self._api.event(await self._me.last(self._greeting), kind, message)
        except (IsolateError, TimeoutError) as error:
            log.warning("Could not report %s: %s", kind, error)
        except Exception:
            log.exception("Could not report %s", kind)
