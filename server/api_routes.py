"""From the table of calls to routes: every call under every base, with what holds for all of them.

Knows no handler by itself. A `fields=` mask selects parts of a JSON reply; OPTIONS says which methods there are, but
not who may ask: without authentication no page from elsewhere may ask anything.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence

import msgspec
from aiohttp import web

from server import masks, openapi
from server.api_messages import MESSAGES
from server.api_table import ALL_CALLS, Call
from server.discovery import Api
from server.middleware import JSON, reply
from server.pages import api_page

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
BASES = ("/_ah/api/swarming/v1", "/api/swarming/v1")
METHODS = "DELETE, GET, OPTIONS, POST, PUT"
HEADERS = "Origin, Authorization, Content-Type, Accept, User-Agent"
SWARMING = Api("swarming", "v1", "Swarming", "Tasks and the bots that run them.", ALL_CALLS, MESSAGES)


def call_routes(calls: Sequence[Call], handlers: Mapping[str, Handler], bases: Sequence[str]) -> list[web.RouteDef]:
    """Return the routes of `calls`; each has exactly one handler."""
    assert handlers.keys() == {call.name for call in calls}
    routes = [
        web.route(call.method, f"{base}/{call.path}", masked(handlers[call.name])) for base in bases for call in calls
    ]
    return [*routes, *(web.options(path, preflight) for path in sorted({route.path for route in routes}))]


def documentation_routes(version: str) -> list[web.RouteDef]:
    """Return the routes that describe the API: for programs and for people."""
    document = msgspec.json.encode(openapi.description(version, BASES))
    text = api_page.render(version, BASES[0])

    async def for_programs(_: web.Request) -> web.Response:
        return web.Response(body=document, content_type=JSON, charset="utf-8")

    async def for_people(_: web.Request) -> web.Response:
        return web.Response(text=text, content_type="text/html", headers={"Content-Security-Policy": api_page.POLICY})

    async def elsewhere(_: web.Request) -> web.Response:
        return reply({}, 302, {"Location": "/api/"})

    explorers = [web.get("/_ah/api/explorer", elsewhere), web.get("/api", elsewhere)]
    return [web.get("/api/openapi.json", for_programs), web.get("/api/", for_people), *explorers]


def masked(handler: Handler) -> Handler:
    """Return a handler that sends only what the caller's `fields` select."""

    async def selected(request: web.Request) -> web.StreamResponse:
        response = await handler(request)
        text = request.query.get("fields")
        mask = masks.parse(text) if text else None
        if mask is None or not isinstance(response, web.Response) or not isinstance(response.body, bytes):
            return response
        return reply(masks.apply(mask, msgspec.json.decode(response.body)), response.status)

    return selected


async def preflight(_: web.Request) -> web.Response:
    """Say what may be asked."""
    headers = {"Access-Control-Allow-Headers": HEADERS, "Access-Control-Allow-Methods": METHODS, "Allow": METHODS}
    return web.Response(headers=headers)
