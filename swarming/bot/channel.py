"""Messages between a bot and its runner: one JSON object per line over a socket pair.

Knows no meaning of a message. The invariant: a message arrives whole or not at all, and the end of the other process is
the end of the stream, so nobody ever waits for the dead.
"""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import Mapping
from typing import Any

MAX_MESSAGE_BYTES = 16 << 20  # a job at every limit of a task request (outputs, env, command) is about 4 MiB


class Channel:
    """One end of the socket pair."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer

    @classmethod
    async def over(cls, end: socket.socket) -> Channel:
        """Take over one end of a socket pair."""
        return cls(*await asyncio.open_unix_connection(sock=end, limit=MAX_MESSAGE_BYTES))

    async def send(self, message: Mapping[str, object]) -> None:
        """Send a message; raises ConnectionError when the other process is gone."""
        self._writer.write(json.dumps(message).encode() + b"\n")
        await self._writer.drain()

    async def receive(self) -> dict[str, Any] | None:
        """Return the next message, None when the other process has ended."""
        try:
            line = await self._reader.readuntil(b"\n")
        except (asyncio.IncompleteReadError, ConnectionError):
            return None
        message: dict[str, Any] = json.loads(line)
        return message

    async def close(self) -> None:
        """Close this end; the other process sees the end of the stream."""
        self._writer.close()
        try:
            await self._writer.wait_closed()
        except ConnectionError:
            return
