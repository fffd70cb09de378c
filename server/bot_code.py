"""Serves the code of bots: `/bootstrap`, `/bot_code` and the archives by version.

Knows the archives in the data directory and no bot. The invariant: what is served as a version has that version,
because it is computed from the content whenever a file has changed.
"""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import logging
import os
from collections.abc import Mapping
from pathlib import Path

from aiohttp import web

from isolate.errors import InvalidInput, NotFound
from server.bot_archive import FOLDER
from server.bot_groups import BotGroup
from server.middleware import server_url
from swarming import unpack
from swarming.bot_archive import PLATFORM, archive_version, code_version
from swarming.bots import BotHello

VERSIONED = "/swarming/api/v1/bot/bot_code"
MAX_AGE_S = 3600
# Any Python there ever was says in one line that it will not do.
_LOOK_AT_PYTHON = """import sys
if sys.version_info < (3, 11):
    found = (sys.executable,) + sys.version_info[:2]
    sys.exit("swarming-bot: error: %s is Python %d.%d: a bot needs 3.11 or newer" % found)
"""

log = logging.getLogger("server")


class BotArchives:
    """The archives of one server, by platform."""

    def __init__(self, data_dir: Path) -> None:
        self._folder = data_dir / FOLDER
        self._known: dict[str, tuple[tuple[int, int, int], str | None]] = {}  # name -> stamp, version
        self._last = self._stamps()
        self._installed = ""  # version of what is installed beside this server, once somebody asked

    def path(self, platform: str) -> Path:
        """Return where the archive of a platform is, or would be."""
        return self._folder / f"{platform}.zip"

    def version(self, platform: str) -> str | None:
        """Return the version of the archive for a platform, None when there is none; cheap while nothing changes."""
        return self._version(platform) if PLATFORM.fullmatch(platform) else None

    def _version(self, name: str) -> str | None:
        path = self._folder / f"{name}.zip"
        try:
            stamp = _stamp(path)
        except OSError:
            return None
        known = self._known.get(name)
        if known is None or known[0] != stamp:
            try:
                version: str | None = archive_version(path)
            except InvalidInput as error:
                log.error("No bot can become what is in the file: %s", error)  # noqa: TRY400 - foreseen, no traceback
                version = None
            known = self._known[name] = (stamp, version)
        return known[1]

    def expected(self) -> str:
        """Return the version of the bots of this machine: of the archive for it, else of what is installed here."""
        found = self.version(unpack.platform_key())
        if found is None and not self._installed:
            self._installed = code_version()
        return found or self._installed

    def due(self, hello: BotHello, group: BotGroup) -> str | None:
        """Return the version that a bot is to become, None when it may stay what it is.

        Only a bot that came from an archive of ours says for which platform; one that could not become a version is
        not asked again. A bot of 2020 is told only of the archive that its group names.
        """
        if not hello.session:
            named = self._version(group.archive.removesuffix(".zip")) if group.archive else None
            return None if named == hello.version else named
        told = hello.state.get("bot_archive")
        platform = told.get("platform") if isinstance(told, Mapping) else None
        if not isinstance(told, Mapping) or not isinstance(platform, str):
            return None
        version = self.version(platform)
        return None if version in {None, hello.version, told.get("refused")} else version

    def has_changed(self) -> bool:
        """Say whether some archive is another one than at the last call."""
        before, self._last = self._last, self._stamps()
        return self._last != before

    def _stamps(self) -> dict[str, tuple[int, int, int]]:
        found = {}
        for path in self._folder.glob("[!.]*.zip"):
            with contextlib.suppress(OSError):  # it was just replaced
                found[path.stem] = _stamp(path)
        return found

    def by_version(self, version: str) -> Path | None:
        """Return the archive that has this version now."""
        return next((self._folder / f"{name}.zip" for name in self._stamps() if self._version(name) == version), None)


def _stamp(path: Path) -> tuple[int, int, int]:
    found = os.stat(path)
    return found.st_mtime_ns, found.st_size, found.st_ino


def bootstrap_script(host_url: str) -> str:
    """Return the program that fetches a bot from the server at `host_url` and starts it."""
    # In 2020 the script began with these two lines, and tools look for them. What follows is a text until the version
    # is known, because a Python that is too old could not even read it.
    head = f"host_url = {host_url!r}\nbootstrap_token = ''\n{_LOOK_AT_PYTHON}"
    return f"{head}exec(r'''{inspect.getsource(unpack)}''')\nbootstrap(host_url, sys.argv[1:])\n"


class BotCodeApi:
    """Handlers over the archives."""

    def __init__(self, archives: BotArchives) -> None:
        self._archives = archives

    def routes(self) -> list[web.RouteDef]:
        """Return every route."""
        return [
            web.get("/bootstrap", self.bootstrap),
            web.get("/bot_code", self.code),
            web.get(f"{VERSIONED}/{{version:[0-9a-f]{{40,64}}}}", self.versioned),
        ]

    async def bootstrap(self, request: web.Request) -> web.Response:
        text = bootstrap_script(server_url(request))
        disposition = {"Content-Disposition": "attachment; filename=swarming_bot_bootstrap.py"}
        return web.Response(text=text, content_type="text/x-python", headers=disposition)

    async def code(self, request: web.Request) -> web.StreamResponse:
        platform = request.query.get("platform") or unpack.platform_key()
        version = await asyncio.to_thread(self._archives.version, platform)
        if version is None:
            raise NotFound(
                f"This server has no bot for {platform[:100]}; its administrator makes one with "
                f"`swarming-server bot-archive build --platform {platform[:100]}`"
            )
        raise web.HTTPFound(f"{VERSIONED}/{version}")

    async def versioned(self, request: web.Request) -> web.StreamResponse:
        version = request.match_info["version"]
        if request.query_string:
            raise web.HTTPFound(request.path)
        path = await asyncio.to_thread(self._archives.by_version, version)
        if path is None:
            raise web.HTTPFound("/bot_code")
        headers = {
            "Content-Type": "application/octet-stream",
            "Content-Disposition": "attachment; filename=swarming_bot.zip",
            "Cache-Control": f"public, max-age={MAX_AGE_S}",
        }
        return web.FileResponse(path, headers=headers)
