"""Bytes that are no HTTP get JSON with a reason, and the server goes on."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import AsyncIterator
from contextlib import closing

import pytest
from aiohttp import web

from server.middleware import reply
from server.protocol import JsonRunner


async def fine(_: web.Request) -> web.Response:
    return reply({"fine": True})


@pytest.fixture
async def port() -> AsyncIterator[int]:
    app = web.Application()
    app.add_routes([web.get("/fine", fine), web.post("/fine", fine)])
    runner = JsonRunner(app, access_log=None)
    await runner.setup()
    with closing(socket.create_server(("127.0.0.1", 0))) as listener:
        await web.SockSite(runner, listener).start()
        yield listener.getsockname()[1]
        await runner.cleanup()


async def exchange(port: int, data: bytes) -> tuple[bytes, bytes]:
    """Send bytes; returns the head and the body of the answer."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(data)
    found = await reader.read()
    writer.close()
    head, _, body = found.partition(b"\r\n\r\n")
    return head, body


@pytest.mark.parametrize(
    "data",
    [
        b"hello\r\n\r\n",
        b"GET /fine HTTP/9.9\r\n\r\n",
        b"GET /fine HTTP/1.1\r\nHost\r\n\r\n",
        b"GET /fine HTTP/1.1\r\nHost: x\r\nBad Header: 1\r\n\r\n",
        b"POST /fine HTTP/1.1\r\nHost: x\r\nContent-Length: x\r\n\r\n",
        b"POST /fine HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"GET /fine HTTP/1.1\r\nHost: x\r\nLong: " + b"x" * 20_000 + b"\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n",
    ],
    ids=lambda data: repr(data[:30]),
)
async def test_what_is_no_http_is_answered_in_json(port: int, data: bytes) -> None:
    head, body = await exchange(port, data)
    assert b" 400 " in head.splitlines()[0], head
    assert b"Content-Type: application/json" in head
    error = json.loads(body)["error"]
    assert error["message"].startswith("Bad Request")
    assert "Traceback" not in error["message"]
    assert b" 200 " in (await exchange(port, b"GET /fine HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"))[0]
