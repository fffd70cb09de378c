"""Bodies of requests, received within a budget: whole small ones, and streams of blocks record by record.

Knows no store. The invariants: memory is leased before it is filled, for one record at a time, and never while another
lease is held; a sender that stops sending is cut off.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TypeVar

from aiohttp import web

from isolate.cas.block import MAX_HEADER_BYTES, Block, End, Record, open_record, record_length
from isolate.cas.digest import Algorithm
from isolate.cas.layout import layout_of
from isolate.errors import InvalidInput, InvalidRecord, Refused, TooLarge
from server.stores.budget import ByteBudget

INLINE_BYTES = 16 << 10  # of digests: parsed at once, since a hop into a thread takes longer

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Intake:
    """Receives bodies; `idle_s` is how long a sender may be silent."""

    budget: ByteBudget
    idle_s: float = 60.0

    @asynccontextmanager
    async def parsed(
        self, request: web.Request, max_bytes: int, parse: Callable[[bytes], T], weight: int = 1
    ) -> AsyncIterator[T]:
        """Receive a whole body and give what `parse` makes of it, a large one in a thread; raises TooLarge.

        `weight` says how many bytes are held for each byte of the body while the `async with` lasts.
        """
        announced = request.content_length
        if announced is not None and announced > max_bytes:
            raise TooLarge(f"Body of {announced} bytes, limit {max_bytes}")
        async with self.budget.lease(weight * (max_bytes if announced is None else announced)):
            body = bytearray()
            while piece := await self._piece(request):
                body += piece
                if len(body) > max_bytes:
                    raise TooLarge(f"Body of more than {max_bytes} bytes")
            if len(body) <= INLINE_BYTES:
                yield parse(bytes(body))
            else:
                yield await asyncio.to_thread(parse, bytes(body))

    async def segments(self, request: web.Request, segment_bytes: int) -> AsyncIterator[bytes]:
        """Yield the body in pieces of `segment_bytes`, the last one shorter; one that is empty for an empty body.

        The caller holds the lease.
        """
        buffer, yielded = bytearray(), False
        while piece := await self._piece(request):
            buffer += piece
            while len(buffer) > segment_bytes:  # not `>=`: whether a full one is the last is not known yet
                segment = bytes(memoryview(buffer)[:segment_bytes])
                del buffer[:segment_bytes]
                yielded = True
                yield segment
        if buffer or not yielded:
            yield bytes(buffer)

    async def blocks(self, request: web.Request, algorithm: Algorithm) -> AsyncGenerator[Block, None]:
        """Yield the blocks of a body that ends with an end mark; raises InvalidRecord at the first wrong record.

        Their checks are not compared here: who verifies their contents does that in the same go.
        """
        held = b""  # what has arrived of the next record
        while True:
            while not (length := record_length(held[:MAX_HEADER_BYTES]) if held else 0):
                if not (piece := await self._piece(request)):
                    raise InvalidRecord("Stream was cut off: it has no end mark")
                held += piece
            async with self.budget.lease(length):
                data, held = await self._record(request, held, length)
                record = await _opened(data, algorithm)
                if isinstance(record, End):
                    break
                if not isinstance(record, Block):
                    raise InvalidRecord("Only blocks can be uploaded")
                del data
                yield record
        if held or await self._piece(request):
            raise InvalidRecord("Stream goes on behind its end mark")

    async def _record(self, request: web.Request, held: bytes, length: int) -> tuple[bytes, bytes]:
        """Return the record of `length` bytes that begins with `held`, and what arrived behind it."""
        pieces, arrived = [held], len(held)
        while arrived < length:
            if not (piece := await self._piece(request)):
                raise InvalidRecord("Stream was cut off in the middle of a record")
            pieces.append(piece)
            arrived += len(piece)
        last = pieces[-1]
        cut = len(last) - (arrived - length)
        pieces[-1] = last[:cut]
        return pieces[0] if len(pieces) == 1 else b"".join(pieces), last[cut:]

    async def _piece(self, request: web.Request) -> bytes:
        """Return what has arrived, nothing at the end of the body."""
        try:
            async with asyncio.timeout(self.idle_s):
                return await request.content.readany()
        except TimeoutError as error:
            raise Refused(f"Nothing arrived for {self.idle_s:g} s", 408) from error
        except (web.RequestPayloadError, ConnectionError) as error:
            # The request keeps it. If it knew this call, and its callers, they and their blocks would live on with it.
            error.__traceback__ = None
            raise InvalidInput(f"Body cannot be read: {' '.join(str(error).split())}") from error


async def _opened(data: bytes, algorithm: Algorithm) -> Record:
    """Return the record `data`; one of many entries is opened in a thread."""
    layout = layout_of(data)
    if layout is not None and layout.entries_bytes <= INLINE_BYTES:
        return open_record(data, algorithm)
    return await asyncio.to_thread(open_record, data, algorithm)
