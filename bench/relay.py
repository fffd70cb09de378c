"""A TCP relay in front of a server that counts bytes and requests; only for runs whose time is not measured.

Knows no more HTTP than that a client waits for the answer before it asks again on one connection: a request is a piece
that begins with a method and comes first of all, or after an answer.
"""

from __future__ import annotations

import asyncio
import re
import threading
from contextlib import suppress
from dataclasses import dataclass
from typing import Self

_REQUEST = re.compile(rb"(GET|HEAD|POST|PUT|DELETE) /")
_PIECE_BYTES = 256 << 10


@dataclass(slots=True)
class Wire:
    """What went over the wire, headers included, as the client sees it."""

    sent_bytes: int = 0
    received_bytes: int = 0
    requests: int = 0


class Relay:
    """Listens on a port of its own while the block runs; `port` is where, `wire` what was counted."""

    def __init__(self, server_port: int) -> None:
        self.wire = Wire()
        self.port = 0
        self._server_port = server_port
        self._loop = asyncio.new_event_loop()
        self._ready = threading.Event()
        self._over = asyncio.Event()
        self._connections: set[asyncio.Task[None]] = set()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        self._ready.wait()
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._over.set)
        self._thread.join()

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.run_until_complete(self._serve())
        self._loop.close()

    async def _serve(self) -> None:
        server = await asyncio.start_server(self._connect, "127.0.0.1", 0)
        self.port = server.sockets[0].getsockname()[1]
        self._ready.set()
        await self._over.wait()
        server.close()
        for connection in list(self._connections):
            connection.cancel()
        if self._connections:
            await asyncio.wait(self._connections)

    async def _connect(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task: asyncio.Task[None] | None = asyncio.current_task()
        assert task is not None, "the server runs this in a task"
        self._connections.add(task)
        try:
            await self._pass_on(reader, writer)
        finally:
            self._connections.discard(task)

    async def _pass_on(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        from_server, to_server = await asyncio.open_connection("127.0.0.1", self._server_port)
        turn = _Turn(b"127.0.0.1:%d" % self.port, b"127.0.0.1:%d" % self._server_port)
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._up(reader, to_server, turn))
                group.create_task(self._down(from_server, writer, turn))
        except* ConnectionError:
            pass  # one side hung up, which ends the connection of the other
        finally:
            for end in (writer, to_server):
                end.close()
            for end in (writer, to_server):
                with suppress(ConnectionError):
                    await end.wait_closed()

    async def _up(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, turn: _Turn) -> None:
        while data := await reader.read(_PIECE_BYTES):
            self.wire.sent_bytes += len(data)
            if turn.is_clients and _REQUEST.match(data):
                self.wire.requests += 1
                turn.is_clients = False
                # The server answers only those who name it as it is called.
                data = data.replace(turn.ours, turn.theirs, 1)
            writer.write(data)
            await writer.drain()
        writer.write_eof()

    async def _down(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, turn: _Turn) -> None:
        while data := await reader.read(_PIECE_BYTES):
            self.wire.received_bytes += len(data)
            turn.is_clients = True
            writer.write(data)
            await writer.drain()
        writer.write_eof()


@dataclass(slots=True)
class _Turn:
    """Whose turn it is on one connection, and how both call the server."""

    ours: bytes
    theirs: bytes
    is_clients: bool = True
