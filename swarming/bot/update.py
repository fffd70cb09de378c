"""Becoming another version of this program: fetch it, unpack it beside this one, try it, and only then let it go on.

Knows no poll; the first steps of the other version are watched by `guard`. The invariants: whatever is wrong with the
other version, this one still works, is what a restart of the machine starts, and says so to the server, which then
leaves it in peace; and what is wrong with the moment (a full disk, a server that is away, a machine that is slow) is
never held against a version: it is tried again later.
"""

from __future__ import annotations

import asyncio
import logging
import signal
import sys
import zipfile
from asyncio.subprocess import DEVNULL, PIPE, STDOUT
from collections.abc import Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn, Protocol

from isolate.clock import Clock
from isolate.errors import InternalFailure, InvalidInput, NoSpace, NotFound, Unavailable
from isolate.http import Response
from swarming import unpack
from swarming.bot.slots import BOT, NOT_NOW, refusal
from swarming.bot.waiting import within
from swarming.bot_archive import MAX_ARCHIVE_BYTES, VERSION, archive_version

TRIAL_S = 120.0  # for a program that starts for the first time, on a slow disk
SLOW_TRIALS = 3  # a version that took too long, or was killed, so often is too slow here, or too large
PAUSES_S = (60.0, 300.0, 900.0, 3600.0)  # before a version is tried again
BOT_CODE = "/swarming/api/v1/bot/bot_code/"

log = logging.getLogger(__name__)


class Http(Protocol):
    """What is needed of `isolate.http.HttpClient`."""

    def request(
        self, method: str, path: str, *, headers: Mapping[str, str] | None = None
    ) -> AbstractAsyncContextManager[Response]: ...


def own_version() -> str | None:
    """Return the version of the archive this process runs from, None when it was installed in another way."""
    place = Path(sys.prefix)
    return place.name if place.parent.name == unpack.FOLDER and VERSION.fullmatch(place.name) else None


class BadMoment(Exception):
    """It cannot be done now, which says nothing about the version; never leaves this module."""


class TooSlow(BadMoment):
    """Nobody can tell whether the version is slow, or everything is."""


@dataclass(slots=True)
class Postponed:
    """A version that waits for a better moment."""

    version: str
    failures: int = 0
    slow_trials: int = 0
    until_s: float = 0.0  # monotonic

    def again(self, error: BadMoment, now_s: float) -> float:
        """Note a failure; return how long to wait."""
        pause_s = PAUSES_S[min(self.failures, len(PAUSES_S) - 1)]
        self.failures, self.slow_trials = self.failures + 1, self.slow_trials + isinstance(error, TooSlow)
        self.until_s = now_s + pause_s
        return pause_s


class Updater:
    """Changes the program; `trial` are the arguments with which another version shows whether it works."""

    def __init__(self, http: Http, folder: Path, trial: Sequence[str], env: Mapping[str, str], clock: Clock) -> None:
        before = refusal(folder)
        self._bad = None if before is None else before.version
        self._postponed: Postponed | None = None
        self.chosen: str | None = None  # the version to go on with, under a guard
        self._http, self._folder, self._trial, self._env, self._clock = http, folder, trial, env, clock

    @property
    def refused(self) -> str | None:
        """The version the server shall not ask for: one that does not work here, or one that has to wait."""
        waiting = self._postponed
        is_waiting = waiting is not None and self._clock.monotonic() < waiting.until_s
        return waiting.version if waiting is not None and is_waiting else self._bad

    async def update(self, version: str) -> None:
        """Make `version` the one to go on with; raises InternalFailure, and what a call raises."""
        if own_version() is None:
            self._bad = version
            raise InternalFailure("This bot was not started from an archive of the server, it cannot update itself")
        if not VERSION.fullmatch(version):
            raise InternalFailure(f"{version[:100]!r} is not the version of a bot")
        try:
            await self._prepare(version)
        except (OSError, Unavailable, NotFound, NoSpace) as error:
            self._postpone(version, BadMoment(str(error)))
        except BadMoment as error:
            self._postpone(version, error)
        except (InternalFailure, InvalidInput, zipfile.BadZipFile) as error:
            self._refuse(version, error)
        self.chosen = version

    async def _prepare(self, version: str) -> None:
        """Have a version here that has shown that it works."""
        archive = self._folder / f".download.{version}"
        try:
            await self._fetch(version, archive)
            python = await asyncio.to_thread(self._unpacked, archive, version)
        finally:
            archive.unlink(missing_ok=True)
        await self._try(python, version)

    def _postpone(self, version: str, error: BadMoment) -> NoReturn:
        if self._postponed is None or self._postponed.version != version:
            self._postponed = Postponed(version)
        pause_s = self._postponed.again(error, self._clock.monotonic())
        if self._postponed.slow_trials >= SLOW_TRIALS:
            self._refuse(version, error)
        raise InternalFailure(f"Cannot become {version[:10]} now, trying again in {pause_s:g} s: {error}") from error

    def _refuse(self, version: str, error: Exception) -> NoReturn:
        self._bad, self._postponed = version, None
        unpack.discard(self._folder, version)
        raise InternalFailure(f"Version {version[:10]} does not work here, this one stays: {error}") from error

    async def _fetch(self, version: str, archive: Path) -> None:
        size = 0
        with archive.open("wb") as file:
            async with self._http.request("GET", BOT_CODE + version) as reply:
                async for piece in reply.chunks():
                    size += len(piece)
                    if size > MAX_ARCHIVE_BYTES:
                        raise InternalFailure(f"its archive has more than {MAX_ARCHIVE_BYTES} bytes")
                    await asyncio.to_thread(file.write, piece)

    def _unpacked(self, archive: Path, version: str) -> Path:
        try:
            found = archive_version(archive)
        except InvalidInput as error:
            if isinstance(error.__cause__, OSError):  # it is there, and cannot be read
                raise BadMoment(str(error)) from error
            raise
        if found != version:
            raise InternalFailure(f"its archive has the content of {found[:10]}")
        return unpack.unpack(archive, self._folder, version)

    async def _try(self, python: Path, version: str) -> None:
        """Let the other version introduce itself to the server; raises InternalFailure, BadMoment."""
        log.info("Trying version %s", version[:10])
        process = await asyncio.create_subprocess_exec(
            python,
            "-P",
            "-m",
            BOT,
            *self._trial,
            stdin=DEVNULL,
            stdout=PIPE,
            stderr=STDOUT,
            env=self._env,
        )
        try:
            said, _ = await within(self._clock, TRIAL_S, process.communicate())
        except TimeoutError:
            raise TooSlow(f"it did not introduce itself within {TRIAL_S:g} s") from None
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
        if process.returncode:
            lines = said.decode(errors="replace").split("\n")
            last = next((line.strip() for line in reversed(lines) if line.strip()), "no word")
            text = f"its trial ended with status {process.returncode}: {last[:500]}"
            if process.returncode == NOT_NOW:
                raise BadMoment(text)
            if process.returncode == -signal.SIGKILL:  # the kernel does it where memory ends
                raise TooSlow(text)
            raise InternalFailure(text)
