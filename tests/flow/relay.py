"""A network that misbehaves between bots and their server: requests and replies are lost, cut, delayed and repeated.

Speaks just enough HTTP/1.1 for the calls of a bot, and shares no code with either side. What a server confirmed is
handed to `seen`, whether or not the reply arrives. Which fault comes next is drawn from the `rng`, so a seed names a
sequence of faults, though not when each comes.
"""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager, suppress
from typing import Any

FAULTS = ("lose request", "lose reply", "cut reply", "twice", "echo", "slow")
FAULT_RATE = 0.25
SLOW_S = 0.3
ECHO_S = 0.5  # until a repeated request arrives, other ones having overtaken it

Seen = Callable[[str, dict[str, Any], int], None]  # path, body, status


class Relay:
    """One listening port; `target` is the port of the server at this moment."""

    def __init__(self, target: Callable[[], int], seen: Seen, rng: random.Random) -> None:
        self.port = 0
        self.faults: dict[str, int] = dict.fromkeys(FAULTS, 0)
        self._target, self._seen, self._rng = target, seen, rng
        self._echoes: set[asyncio.Task[None]] = set()
        self._is_honest = False

    @asynccontextmanager
    async def running(self) -> AsyncIterator[Relay]:
        """Listen while the block lasts."""
        server = await asyncio.start_server(self._serve, "127.0.0.1", 0, limit=1 << 24)
        self.port = server.sockets[0].getsockname()[1]
        try:
            yield self
        finally:
            server.close()
            for echo in self._echoes:
                echo.cancel()

    def be_honest(self) -> None:
        """Let everything through from now on."""
        self._is_honest = True

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                body = await reader.readexactly(_length(head))
                reply, is_whole = await self._carry(head, body, reader)
                writer.write(reply)
                await writer.drain()
                if not is_whole:
                    break
        writer.close()

    async def _carry(self, head: bytes, body: bytes, client: asyncio.StreamReader) -> tuple[bytes, bool]:
        """Return the reply as the bot is to have it, and whether that is all of it; else its connection breaks."""
        fault = "" if self._is_honest or self._rng.random() > FAULT_RATE else self._rng.choice(FAULTS)
        if fault:
            self.faults[fault] += 1
        if fault == "lose request":
            return b"", False
        if fault == "slow":
            await asyncio.sleep(self._rng.random() * SLOW_S)
        reply = await self._unless_gone(self._pass(head, body), client)
        if fault == "twice" and reply:
            reply = await self._unless_gone(self._pass(head, body), client)
        if fault == "echo":
            echo = asyncio.create_task(self._again(head, body))
            self._echoes.add(echo)
            echo.add_done_callback(self._echoes.discard)
        if fault == "lose reply":
            return b"", False
        if fault == "cut reply":
            return reply[: len(reply) // 2], False
        return reply, bool(reply)

    async def _again(self, head: bytes, body: bytes) -> None:
        await asyncio.sleep(self._rng.random() * ECHO_S)
        with suppress(OSError):
            await self._pass(head, body)

    async def _unless_gone(self, call: Coroutine[Any, Any, bytes], client: asyncio.StreamReader) -> bytes:
        """Return the reply of a server; nothing when the bot does not wait for it any more, or the server is away."""
        calling, gone = asyncio.ensure_future(call), asyncio.ensure_future(client.read(1))
        try:
            await asyncio.wait((calling, gone), return_when=asyncio.FIRST_COMPLETED)
            return calling.result() if calling.done() else b""
        except OSError:
            return b""
        finally:
            for one in (calling, gone):
                one.cancel()
            await asyncio.wait((calling, gone))

    async def _pass(self, head: bytes, body: bytes) -> bytes:
        """Make the call and return the whole reply; raises OSError when there is none."""
        port = self._target()
        reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=1 << 24)
        try:
            writer.write(_addressed(head, port) + body)
            answer = await reader.readuntil(b"\r\n\r\n")
            answer += await reader.readexactly(_length(answer))
        except asyncio.IncompleteReadError as error:
            raise ConnectionResetError("The server went away") from error
        finally:
            writer.close()
        path = head.split(b" ", 2)[1].decode()
        self._seen(path, json.loads(body) if body else {}, int(answer.split(b" ", 2)[1]))
        return answer


def _length(head: bytes) -> int:
    for line in head.lower().split(b"\r\n"):
        if line.startswith(b"content-length:"):
            return int(line.partition(b":")[2])
    return 0


def _addressed(head: bytes, port: int) -> bytes:
    """Return a request's head for the server itself, which answers to its own name only."""
    lines = head[:-4].split(b"\r\n")
    kept = [line for line in lines if not line.lower().startswith((b"host:", b"connection:"))]
    return b"\r\n".join([kept[0], b"Host: 127.0.0.1:%d" % port, b"Connection: close", *kept[1:]]) + b"\r\n\r\n"
