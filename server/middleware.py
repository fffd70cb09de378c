"""Everything that holds for every request: an id, the guard, the drain, and errors as JSON.

Knows no route. The invariant: whatever happens below, the reply carries `X-Request-Id`, is never a traceback, and an
error that is nobody's fault but ours is in the log under that id.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import logging
from collections.abc import Awaitable, Callable, Collection
from typing import Any

import msgspec
from aiohttp import web

from isolate.clock import Clock
from isolate.errors import IsolateError, Unavailable
from server.auth import Identity, LoopbackGuard
from server.problem import error_body, error_headers, status_of

JSON = "application/json"
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
REQUEST_ID = web.RequestKey("request_id", str)
IDENTITY = web.RequestKey("identity", Identity)
OWN_SERVERS: web.AppKey[Collection[str]] = web.AppKey(
    "own_servers", Collection
)  # every URL of this server, without a slash at the end

log = logging.getLogger("server")


def reply(body: Any, status: int = 200, headers: dict[str, str] | None = None) -> web.Response:
    """Return `body` as JSON."""
    try:
        data = msgspec.json.encode(body)
    except UnicodeEncodeError:  # a path that is not UTF-8; escaped, it stays readable
        data = json.dumps(body).encode()
    return web.Response(body=data, status=status, content_type=JSON, charset="utf-8", headers=headers)


def server_url(request: web.BaseRequest) -> str:
    """Return how the sender reaches this server; the guard has seen the name."""
    return f"http://{request.headers['Host']}"


def own_servers(request: web.Request) -> Collection[str]:
    """Return every URL that means this server."""
    return request.app[OWN_SERVERS]


class Gate:
    """The one way into the server: every request passes `handle`, and `close` shuts it.

    Below the paths `plain_below` errors are plain strings, as bots of 2020 expect them.
    """

    def __init__(self, guard: LoopbackGuard, clock: Clock, id_prefix: str, plain_below: tuple[str, ...] = ()) -> None:
        self._guard, self._clock, self._prefix, self._plain_below = guard, clock, id_prefix, plain_below
        self._numbers = itertools.count(1)
        self._inside = 0
        self._closed = False
        self._empty = asyncio.Event()

    @property
    def own_servers(self) -> Collection[str]:
        """Every URL of this server."""
        return self._guard.origins

    async def close(self) -> None:
        """Answer 503 to everything from now on; returns when what was inside already is through."""
        self._closed = True
        if self._inside:
            await self._empty.wait()

    def middleware(self) -> Any:
        """Return the middleware for the application."""

        @web.middleware
        async def gate(request: web.Request, handler: Handler) -> web.StreamResponse:
            self._inside += 1
            try:
                return await self._handle(request, handler)
            finally:
                self._inside -= 1
                if self._closed and not self._inside:
                    self._empty.set()

        return gate

    async def add_headers(self, request: web.BaseRequest, response: web.StreamResponse) -> None:
        """Complete the head of every reply: the hook for `on_response_prepare`."""
        response.headers["X-Request-Id"] = request.get(REQUEST_ID, "")
        response.headers.setdefault("X-Content-Type-Options", "nosniff")

    async def _handle(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        request[REQUEST_ID] = request_id = f"{self._prefix}-{next(self._numbers):x}"
        started_s = self._clock.monotonic()
        try:
            request[IDENTITY] = self._guard.identify(request.headers)
            if self._closed:
                raise Unavailable("The server is shutting down", retry_after_s=1)
            response = await handler(request)
        except web.HTTPException as error:
            if error.status < 400:
                raise  # a redirect
            response = self._http_problem(request, error)
        except IsolateError as error:
            response = self._problem(request, error)
        except ConnectionError:
            raise  # the client left; there is nobody to answer
        except Exception as error:  # noqa: BLE001 - the last boundary: whatever it is becomes a 500 and a log entry
            response = self._problem(request, error)
        if log.isEnabledFor(logging.DEBUG):
            spent_ms = 1000 * (self._clock.monotonic() - started_s)
            log.debug("%s %s %s %d %.1f ms", request_id, request.method, request.path_qs, response.status, spent_ms)
        return response

    def _problem(self, request: web.Request, error: Exception) -> web.Response:
        if status_of(error) == 500:
            log.error("%s %s %s failed", request[REQUEST_ID], request.method, request.path, exc_info=error)
        if has_begun(request):
            raise ConnectionResetError from error  # too late for a status: cutting the stream is the only honest answer
        return self._spelt(request, error_body(error), status_of(error), error_headers(error))

    def _http_problem(self, request: web.Request, error: web.HTTPException) -> web.Response:
        """Return what the framework itself refused (404, 405, 413) in the shape of all other errors.

        JSON also for 404: the client of 2020 retries any other kind for minutes.
        """
        code = (error.reason or "error").lower().replace(" ", "_")
        message = {
            404: "No such page or call",
            405: f"This call wants another method: {error.headers.get('Allow', 'see the documentation')}",
            413: "The body of the request is too large",
        }.get(error.status, error.reason)
        headers = {"Allow": error.headers["Allow"]} if "Allow" in error.headers else {}
        return self._spelt(request, {"error": {"code": code, "message": message}}, error.status, headers)

    def _spelt(self, request: web.Request, body: dict[str, Any], status: int, headers: dict[str, str]) -> web.Response:
        if request.path.startswith(self._plain_below):
            message, code = body["error"]["message"], body["error"]["code"]
            body = {"error": message, "code": code}  # the code is for our own bots
            if status in {401, 403}:
                body["text"] = message  # where the library that looked at credentials in 2020 had it
        return reply(body, status, headers)


def has_begun(request: web.Request) -> bool:
    """Whether the head of the reply is sent already."""
    return request.writer is not None and request.writer.output_size > 0
