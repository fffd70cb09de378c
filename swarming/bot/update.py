"""Becoming another version of this program: fetch it, unpack it beside this one, try it, and only then let it go on.

Knows no poll; the first steps of the other version are watched by `guard`. The invariant: whatever is wrong with the
other version, this one still works, is what a restart of the machine starts, and says so to the server, which then
leaves it in peace.
"""

from __future__ import annotations

import asyncio
import logging
import sys
import zipfile
from asyncio.subprocess import DEVNULL, PIPE, STDOUT
from collections.abc import Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Protocol

from isolate.clock import Clock
from isolate.errors import InternalFailure, InvalidInput
from isolate.http import Response
from swarming import unpack
from swarming.bot.slots import BOT, refusal
from swarming.bot.waiting import within
from swarming.bot_archive import MAX_ARCHIVE_BYTES, VERSION, archive_version

TRIAL_S = 120.0  # for a program that starts for the first time, on a slow disk
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


class Updater:
    """Changes the program; `trial` are the arguments with which another version shows whether it works."""

    def __init__(self, http: Http, folder: Path, trial: Sequence[str], env: Mapping[str, str], clock: Clock) -> None:
        before = refusal(folder)
        self.refused = None if before is None else before.version  # what did not work here, for the server to know
        self.chosen: str | None = None  # the version to go on with, under a guard
        self._http, self._folder, self._trial, self._env, self._clock = http, folder, trial, env, clock

    async def update(self, version: str) -> None:
        """Make `version` the one to go on with; raises InternalFailure, and what a call raises."""
        if own_version() is None:
            self.refused = version
            raise InternalFailure("This bot was not started from an archive of the server, it cannot update itself")
        if not VERSION.fullmatch(version):
            raise InternalFailure(f"{version[:100]!r} is not the version of a bot")
        archive = self._folder / f".download.{version}"
        try:
            await self._fetch(version, archive)
            python = await asyncio.to_thread(self._unpacked, archive, version)
            await self._try(python, version)
        except (InternalFailure, InvalidInput, OSError, zipfile.BadZipFile) as error:
            self.refused = version
            raise InternalFailure(f"Version {version[:10]} does not work here, this one stays: {error}") from error
        finally:
            archive.unlink(missing_ok=True)
        self.chosen = version

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
        found = archive_version(archive)
        if found != version:
            raise InternalFailure(f"its archive has the content of {found[:10]}")
        return unpack.unpack(archive, self._folder, version)

    async def _try(self, python: Path, version: str) -> None:
        """Let the other version introduce itself to the server; raises InternalFailure with its last words."""
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
            raise InternalFailure(f"it did not introduce itself within {TRIAL_S:g} s") from None
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
        if process.returncode:
            lines = said.decode(errors="replace").split("\n")
            last = next((line.strip() for line in reversed(lines) if line.strip()), "no word")
            raise InternalFailure(f"its trial ended with status {process.returncode}: {last[:500]}")
