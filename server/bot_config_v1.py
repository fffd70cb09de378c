"""The calls about the hooks of bots: who may read and replace `bot_config.py`, and with `name` the script of a group.

Knows the shape of 2020's FileContent. A bot learns of other hooks with its next poll, so those that wait are asked to
poll again.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import msgspec
from aiohttp import web

from isolate.errors import InvalidInput, Refused
from server.api_routes import BASES, call_routes
from server.api_table import CONFIG_CALLS
from server.bot_config import BotScripts, Script
from server.middleware import IDENTITY, reply
from swarming import wire


class FileContentRequest(msgspec.Struct):
    """The body of `put_bot_config`."""

    content: str | None = None
    name: str | None = None


class BotConfigApi:
    """Handlers over the files; `on_change` is called when bots get other hooks."""

    def __init__(self, scripts: BotScripts, on_change: Callable[[], object]) -> None:
        self._scripts, self._on_change = scripts, on_change

    def routes(self) -> list[web.RouteDef]:
        """Return every route."""
        return call_routes(CONFIG_CALLS, {"server.get_bot_config": self.get, "server.put_bot_config": self.put}, BASES)

    async def get(self, request: web.Request) -> web.Response:
        _only_for_admins(request)
        return reply(_spelt(self._scripts.file(request.query.get("name", "")).current()))

    async def put(self, request: web.Request) -> web.Response:
        _only_for_admins(request)
        said = wire.decode(await request.read(), FileContentRequest)
        if said.content is None:
            raise InvalidInput("content is required; an empty one takes the hooks away")
        file = self._scripts.file(said.name or "")
        before = file.current().version
        now = await asyncio.to_thread(file.replace, said.content, request[IDENTITY].name)
        if now.version != before:
            self._on_change()
        return reply(_spelt(now))


def _only_for_admins(request: web.Request) -> None:
    if not request[IDENTITY].is_admin:
        raise Refused("Only an administrator may see or change the hooks of bots")


def _spelt(script: Script) -> dict[str, object]:
    when = None if script.changed_at is None else wire.ts(script.changed_at)
    return wire.compact(
        {"content": script.content or "", "version": script.version, "who": script.who or None, "when": when}
    )
