"""A lean HTTP/1.1 client for load: one connection, one request at a time, no more work than the bytes need.

It shares no code with the server, and costs a fraction of what a full client costs, so that on a machine that client
and server share the figures are the server's.
"""

from __future__ import annotations

import asyncio
import json
from typing import Any, cast


def encoded(body: Any) -> bytes:
    """Return a body that is sent many times, so that it is made once."""
    return json.dumps(body).encode()


class Wire(asyncio.Protocol):
    """One connection that is kept."""

    def __init__(self, host: str, port: int) -> None:
        self._host, self._port = host, port
        self._transport: asyncio.Transport | None = None
        self._buffer = bytearray()
        self._answer: asyncio.Future[tuple[int, bytes]] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # what uvloop makes is one in all but its class

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        end = self._buffer.find(b"\r\n\r\n")
        if end < 0 or self._answer is None:
            return
        head = bytes(self._buffer[:end]).lower()
        place = head.find(b"content-length:")
        length = int(head[place + 15 : head.find(b"\r", place) if b"\r" in head[place:] else end]) if place >= 0 else 0
        if len(self._buffer) < end + 4 + length:
            return
        body = bytes(self._buffer[end + 4 : end + 4 + length])
        self._buffer.clear()
        answer, self._answer = self._answer, None
        if not answer.done():
            answer.set_result((int(head[9:12]), body))

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        if self._answer is not None and not self._answer.done():
            self._answer.set_exception(exc or ConnectionResetError("Closed by the server"))

    async def call(self, method: str, path: str, body: Any = None, headers: str = "") -> Any:
        """Return the JSON of an answer; raises RuntimeError for one that is no 200."""
        loop = asyncio.get_running_loop()
        if self._transport is None:
            await loop.create_connection(lambda: self, self._host, self._port)
        assert self._transport is not None
        data = b"" if body is None else body if isinstance(body, bytes) else encoded(body)
        head = (
            f"{method} {path} HTTP/1.1\r\nHost: {self._host}:{self._port}\r\nContent-Type: application/json\r\n"
            f"Content-Length: {len(data)}\r\n{headers}\r\n"
        )
        self._answer = loop.create_future()
        self._transport.write(head.encode() + data)
        status, content = await self._answer
        if status != 200:
            raise RuntimeError(f"{method} {path}: {status} {content[:200]!r}")
        return json.loads(content)

    def close(self) -> None:
        """Close the connection."""
        if self._transport is not None:
            self._transport.close()
