"""The only HTTP client: one session, time-outs, retries with jitter, statuses turned into errors.

Knows no call of any API. The invariant: whatever goes wrong leaves here as one of `isolate.errors`, its message fit for
a user. Proxies named in the environment are not used: what this talks to is near, and named by its URL.
"""

from __future__ import annotations

import asyncio
import json
import logging
import math
import os
import random
import ssl
from collections.abc import AsyncIterator, Callable, Collection, Iterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass
from typing import Any, Self, cast

from isolate import errors
from isolate.clock import Clock, SystemClock
from isolate.monitor import Monitor, NullMonitor
from isolate.pace import Body, SourceFailed, Watch
from isolate.problem import error_of, problem_of
from isolate.retry import Retrier, RetryPolicy
from isolate.urls import is_loopback, normalize_url


@contextmanager
def _no_certificates() -> Iterator[None]:
    """Let no import read the certificates of the system, as aiohttp does at once, twice: doc/decisions/028."""
    contexts = cast("Any", ssl.SSLContext)
    real, contexts.set_default_verify_paths = contexts.set_default_verify_paths, lambda _context: None
    try:
        yield
    finally:
        contexts.set_default_verify_paths = real


with _no_certificates():
    import aiohttp

__all__ = ["HttpClient", "Response", "RetryPolicy", "error_of", "is_loopback", "normalize_url"]

CONNECT_S = 10.0
TIMEOUT_S = 60.0
MAX_REPLY_BYTES = 64 << 20  # of a JSON reply; the largest, a page of task results, is far below
MAX_PROBLEM_BYTES = 64 << 10
READ_BYTES = 1 << 20  # one block's worth between two awaits

_NO_TLS = frozenset({"WRONG_VERSION_NUMBER", "HTTP_REQUEST", "RECORD_LAYER_FAILURE"})  # plain HTTP, to OpenSSL

_LOG = logging.getLogger(__name__)  # each request, for who asks with -v

Params = Mapping[str, str | int] | list[tuple[str, str]]


@dataclass(frozen=True, slots=True)
class _Call:
    """What one attempt needs to know; see `HttpClient.request`."""

    method: str
    path: str
    data: Body
    headers: Mapping[str, str] | None
    params: Params | None
    timeout_s: float
    also: Collection[int] = ()


def _lost_nothing(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """Say nothing of a connection that was lost between the end of a body and telling so: its request fails of it.

    aiohttp leaves that one exception in the task that wrote the body, where nobody can fetch it.
    """
    if not isinstance(context.get("exception"), aiohttp.ClientConnectionResetError):
        loop.default_exception_handler(context)


class Response:
    """A reply whose body is still on its way."""

    def __init__(self, reply: aiohttp.ClientResponse, base_url: str) -> None:
        self.status = reply.status
        self.headers: Mapping[str, str] = reply.headers
        self._reply = reply
        self._base_url = base_url

    @property
    def retry_after_s(self) -> float | None:
        """How long the other side asks us to wait; None when it does not say so in seconds."""
        try:
            asked_s = float(self.headers["Retry-After"])
        except (KeyError, ValueError):
            return None
        return max(0.0, asked_s) if math.isfinite(asked_s) else None

    @property
    def is_delimited(self) -> bool:
        """Whether an end that comes too early would be noticed."""
        return "Content-Length" in self.headers or "Transfer-Encoding" in self.headers

    async def chunks(self) -> AsyncIterator[bytes]:
        """Yield the body as it comes; raises Unavailable when it is cut off."""
        with _translated(self._base_url):
            async for piece in self._reply.content.iter_any():
                yield piece

    async def read(self, limit_bytes: int = MAX_REPLY_BYTES) -> bytes:
        """Return the whole body; raises TooLarge past the limit."""
        body = bytearray()
        async for piece in self.chunks():
            body += piece
            if len(body) > limit_bytes:
                raise errors.TooLarge(f"Reply of {self._base_url} has more than {limit_bytes} bytes")
        return bytes(body)

    async def json(self) -> Any:
        """Return the body, None when it is empty; raises Refused when it is no JSON."""
        body = await self.read()
        try:
            return json.loads(body) if body else None
        except (ValueError, RecursionError) as error:
            raise errors.Refused(f"{self._base_url} does not answer in JSON: is it the right server?", 0) from error

    async def problem(self) -> tuple[errors.IsolateError, dict[str, Any]]:
        """Return what an error reply means, and what its body's `error` says."""
        try:
            body = await self.read(MAX_PROBLEM_BYTES)
        except (errors.TooLarge, errors.Unavailable):
            body = b""  # the status alone must do
        return error_of(self.status, body, self._base_url, self.retry_after_s), problem_of(body)


class HttpClient:
    """Calls one server; an async context manager that owns the connections.

    `draw` gives the jitter of pauses, a number in 0…1.
    """

    def __init__(
        self,
        base_url: str,
        *,
        user_agent: str,
        headers: Mapping[str, str] | None = None,
        connections: int = 8,
        clock: Clock | None = None,
        monitor: Monitor | None = None,
        policy: RetryPolicy | None = None,
        draw: Callable[[], float] = random.random,
    ) -> None:
        self.base_url = normalize_url(base_url)
        self.clock = clock or SystemClock()
        self.monitor = monitor or NullMonitor()
        self._headers = {"User-Agent": user_agent, "Accept-Encoding": "identity", **(headers or {})}
        self._connections = connections
        self._retried = Retrier(policy or RetryPolicy(), self.clock, self.monitor, draw)
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Self:
        loop = asyncio.get_running_loop()
        if loop.get_exception_handler() is None:
            loop.set_exception_handler(_lost_nothing)
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=self._connections, ssl=self._trusted()),
            cookie_jar=aiohttp.DummyCookieJar(),
            headers=self._headers,
            read_bufsize=READ_BYTES,
            trust_env=False,
        )
        return self

    def _trusted(self) -> ssl.SSLContext | bool:
        """Return the certificates to believe, for a server that shows one."""
        return ssl.create_default_context() if self.base_url.startswith("https:") else True

    async def __aexit__(self, *_: object) -> None:
        session, self._session = self._session, None
        if session is not None:
            await session.close()

    async def json(
        self,
        method: str,
        path: str,
        *,
        params: Params | None = None,
        body: object = None,
        headers: Mapping[str, str] | None = None,
        timeout_s: float = TIMEOUT_S,
        attempts: int | None = None,
    ) -> Any:
        """Send `body` as JSON, return the JSON of the reply, None for an empty one.

        `timeout_s` is for each attempt as a whole. Raises what `error_of` says; Unavailable only after every retry.
        """
        data = None if body is None else json.dumps(body).encode()
        sent = {**({} if data is None else {"Content-Type": "application/json"}), **(headers or {})}
        call = _Call(method, path, data, sent, params, timeout_s)

        async def once() -> Any:
            with _translated(self.base_url):
                async with asyncio.timeout(timeout_s), self._open(call) as reply:
                    return await reply.json()

        return await self._retried(once, attempts)

    @asynccontextmanager
    async def request(
        self,
        method: str,
        path: str,
        *,
        data: Body = None,
        headers: Mapping[str, str] | None = None,
        params: Params | None = None,
        timeout_s: float = TIMEOUT_S,
        attempts: int | None = None,
        also: Collection[int] = (),
        may_retry: Callable[[], bool] = lambda: True,
    ) -> AsyncIterator[Response]:
        """Send `data` and give the reply while it streams.

        `data` may be a function that starts the body, once for each attempt; what it raises is raised here, unchanged.
        `timeout_s` is how long the other side may keep us waiting at any one point; the time a body takes to be
        produced does not count. Error statuses raise what `error_of` says, except those in `also`. Retries end with
        the arrival of a reply, and where `may_retry` says no.
        """
        call = _Call(method, path, data, headers, params, timeout_s, also)
        async with AsyncExitStack() as stack:
            yield await self._retried(lambda: stack.enter_async_context(self._open(call)), attempts, may_retry)

    @asynccontextmanager
    async def _open(self, call: _Call) -> AsyncIterator[Response]:
        """One attempt."""
        started_s = self.clock.monotonic()
        try:
            with _translated(self.base_url):
                reply = await self._send(call)
        except SourceFailed as failed:
            raise failed.args[0] from None
        except errors.IsolateError as error:
            _LOG.info("%s %s%s: %s", call.method, self.base_url, call.path, error)
            raise
        passed_ms = (self.clock.monotonic() - started_s) * 1e3
        _LOG.info("%s %s: %d in %.0f ms", call.method, reply.url, reply.status, passed_ms)
        try:
            response = Response(reply, self.base_url)
            if reply.status >= 300 and reply.status not in call.also:
                raise (await response.problem())[0]
            yield response
        finally:
            if reply.content.at_eof():
                reply.release()
            else:
                reply.close()

    async def _send(self, call: _Call) -> aiohttp.ClientResponse:
        assert self._session is not None, "the client is used outside its `async with`"
        async with Watch(call.timeout_s) as watch:
            return await self._session.request(
                call.method,
                self.base_url + call.path,
                data=watch.body(call.data),
                headers=call.headers,
                params=call.params,
                allow_redirects=False,
                # A body that cannot be had again is not begun before the other side is known to listen: a connection
                # that died while idle shows here, where a retry is still possible.
                expect100=callable(call.data),
                timeout=aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_S, sock_read=call.timeout_s),
            )


@contextmanager
def _translated(url: str) -> Iterator[None]:
    """Turn what aiohttp and the sockets raise into errors of ours, once."""
    try:
        yield
    except (aiohttp.ClientSSLError, aiohttp.ServerFingerprintMismatch) as error:
        reason = getattr(getattr(error, "os_error", None), "reason", None)
        if reason in _NO_TLS:
            raise errors.Refused(f"{url} does not speak HTTPS: is it http://{url.partition('://')[2]}?", 0) from error
        raise errors.Refused(f"Cannot trust {url}: {error}", 0) from error
    except aiohttp.ClientConnectorError as error:
        number = error.os_error.errno or 0  # resolvers use negative ones
        reason = os.strerror(number).lower() if number > 0 else str(error.os_error.strerror or error.os_error)
        raise errors.Unavailable(f"Cannot reach {url}: {reason}") from error
    except TimeoutError as error:
        raise errors.Unavailable(f"{url} did not answer in time") from error
    except aiohttp.ServerDisconnectedError as error:
        raise errors.Unavailable(f"{url} closed the connection without an answer") from error
    except aiohttp.ClientPayloadError as error:
        raise errors.Unavailable(f"Reply of {url} was cut off") from error
    except (aiohttp.ClientError, OSError) as error:
        raise errors.Unavailable(f"Connection to {url} failed: {error}") from error
