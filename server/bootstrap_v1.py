"""The calls of the REST API that help to start a bot: the script, and the token that opens it.

Knows no archive: who makes the script is passed in. Without authentication anybody who reaches the server may have the
script, so the token is empty, which the script understands.
"""

from __future__ import annotations

from collections.abc import Callable

from aiohttp import web

from isolate.errors import Refused
from server.api_routes import BASES, call_routes
from server.api_table import BOOTSTRAP_CALLS
from server.middleware import IDENTITY, reply, server_url

NO_TOKEN = ""


class BootstrapApi:
    """Handlers over `script`, which takes the URL of the server as the caller knows it."""

    def __init__(self, script: Callable[[str], str]) -> None:
        self._script = script

    def routes(self) -> list[web.RouteDef]:
        """Return every route."""
        handlers = {"server.token": self.token, "server.get_bootstrap": self.get_bootstrap}
        return call_routes(BOOTSTRAP_CALLS, handlers, BASES)

    async def token(self, request: web.Request) -> web.Response:
        _only_for_admins(request)
        return reply({"bootstrap_token": NO_TOKEN})

    async def get_bootstrap(self, request: web.Request) -> web.Response:
        _only_for_admins(request)
        return reply({"content": self._script(server_url(request))})


def _only_for_admins(request: web.Request) -> None:
    if not request[IDENTITY].is_admin:
        raise Refused("Only an administrator may add bots")
