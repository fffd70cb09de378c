"""Bulk bytes of the isolate API of 2020: the URLs behind `gs_upload_url` and `url`.

Knows tickets, streams and nothing of JSON calls. What a client sends is verified while it arrives; it is told the MD5
of what was received whatever the verdict, because that is what it compares. The invariants: nothing is visible before
it is verified and durable; one segment of each transfer is in memory.
"""

from __future__ import annotations

import asyncio
import base64
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing

from aiohttp import web

from isolate.cas.digest import Hasher, md5_hasher
from isolate.cas.old_bytes import MAX_SEGMENT_BYTES, most_encoded_bytes
from isolate.errors import BlobsMissing, InvalidRecord, Refused, TooLarge, UploadCorrupt
from server.api_routes import Handler
from server.cas_intake import Intake
from server.middleware import reply, server_url
from server.problem import status_of
from server.stores.budget import ByteBudget
from server.stores.shared import SharedBlobStores
from server.tickets import Purpose, Ticket, TicketOffice
from server.traffic import Traffic

PATH = "/bulk"
RECEIVE_BYTES = 64 << 20  # of bodies on their way in
STALL_S = 60.0  # a receiver that takes nothing for longer is cut off
SMALL_BYTES = 64 << 10  # hashed at once: a hop into a thread takes as long
MAX_WRONG = 10_000  # uploads remembered as wrong until they are finalized: 2 MB
SAFE = {"Content-Security-Policy": "default-src 'none'; sandbox", "X-Content-Type-Options": "nosniff"}


class Bulk:
    """Handlers of the bulk URLs."""

    def __init__(self, stores: SharedBlobStores, office: TicketOffice, traffic: Traffic) -> None:
        self._stores, self._office, self._traffic = stores, office, traffic
        self._intake = Intake(ByteBudget(RECEIVE_BYTES, "bulk uploads"))
        self._wrong: dict[Ticket, None] = {}  # the oldest first

    def take_wrong(self, ticket: Ticket) -> bool:
        """Say whether bytes came for `ticket` and were wrong; they are forgotten by that."""
        was_wrong = ticket in self._wrong
        self._wrong.pop(ticket, None)
        return was_wrong

    def routes(self) -> list[web.RouteDef]:
        """Return the routes."""
        put, get = (counted(self._traffic, handler) for handler in (self.put, self.get))
        return [web.put(f"{PATH}/{{ticket}}", put), web.get(f"{PATH}/{{ticket}}", get)]

    def url(self, request: web.Request, ticket: Ticket, purpose: Purpose) -> str:
        """Return where the bytes of `ticket` are sent to or fetched from; a path only: old clients rewrite queries."""
        return f"{server_url(request)}{PATH}/{self._office.issue(ticket, purpose)}"

    async def put(self, request: web.Request) -> web.Response:
        ticket = self._office.redeem(request.match_info["ticket"], Purpose.PUT)
        length = request.content_length
        if length is None:
            raise Refused("Content-Length is required", 411)
        if length > (limit := most_encoded_bytes(ticket.blob.size)):
            raise TooLarge(f"Body of {length} bytes for a blob of {ticket.blob.size}, limit {limit}")
        hasher = md5_hasher()
        async with (
            self._intake.budget.lease(3 * min(length, MAX_SEGMENT_BYTES)),  # as received, as a segment, as a record
            aclosing(self._received(request, hasher)) as pieces,
        ):
            await self._take(ticket, pieces, length)
        checksum = base64.b64encode(hasher.digest()).decode()
        return web.Response(headers={"x-goog-hash": f"md5={checksum}", "x-goog-stored-content-length": str(length)})

    async def get(self, request: web.Request) -> web.StreamResponse:
        ticket = self._office.redeem(request.match_info["ticket"], Purpose.GET)
        digest, store = ticket.blob.digest, self._stores.shared(ticket.namespace)
        found = await store.held(digest)
        if found is None:
            raise BlobsMissing([digest])
        size, part = found.encoded_bytes, slice(0, None)
        response = web.StreamResponse(headers={"Content-Type": "application/octet-stream", **SAFE})
        response.content_length = size  # None: sent in chunks
        if size is not None and "If-Range" not in request.headers and (wanted := _range(request)) is not None:
            start, stop, _ = wanted.indices(size)
            if start >= stop:
                return _no_such_range(size)
            part = slice(start, stop)
            response.set_status(206)
            response.headers["Content-Range"] = f"bytes {start}-{stop - 1}/{size}"
            response.content_length = stop - start
        async with aclosing(_part_of(store.encoded(found), part)) as pieces:
            if request.method == "GET":
                async for piece in pieces:  # nothing is sent before the first is there: bad bytes can still be a 404
                    await _send(request, response, piece)
                    self._traffic.count(downloads_bytes=len(piece))
                self._traffic.count(downloads=1)
        if not response.prepared:
            await response.prepare(request)
        await response.write_eof()
        return response

    async def _take(self, ticket: Ticket, pieces: AsyncIterator[bytes], length: int) -> None:
        """Store a body, or read it to its end when nobody needs it."""
        old = self._stores.shared(ticket.namespace).old
        is_long = length > MAX_SEGMENT_BYTES  # a short one is looked up when it is committed
        if not (is_long and await old.find([ticket.blob.digest])):
            try:
                await old.store(ticket.blob, pieces, length, bulk=True)
                self._traffic.count(uploads=1, uploads_bytes=length)
            except (UploadCorrupt, InvalidRecord) as error:
                self._stores.reject(error)
                self._wrong[ticket] = None
                if len(self._wrong) > MAX_WRONG:
                    del self._wrong[next(iter(self._wrong))]
        async for _ in pieces:
            pass

    async def _received(self, request: web.Request, hasher: Hasher) -> AsyncGenerator[bytes, None]:
        async for piece in self._intake.segments(request, MAX_SEGMENT_BYTES):
            if len(piece) > SMALL_BYTES:
                await asyncio.to_thread(hasher.update, piece)
            else:
                hasher.update(piece)
            yield piece


def counted(traffic: Traffic, handler: Handler) -> Handler:
    """Return a handler whose requests, and failures of ours, are counted."""

    async def handle(request: web.Request) -> web.StreamResponse:
        traffic.count(requests=1)
        try:
            return await handler(request)
        except ConnectionError:
            raise  # the client left
        except Exception as error:
            if status_of(error) >= 500:
                traffic.count(failures=1)
            raise

    return handle


def _range(request: web.Request) -> slice | None:
    """Return the one range that is asked for; None for all, also where the header makes no sense."""
    try:
        wanted = request.http_range
    except ValueError:
        return None
    return None if wanted.start is None else wanted


def _no_such_range(size: int) -> web.Response:
    error = {"code": "range_not_satisfiable", "message": f"There are {size} bytes, and none in this range"}
    return reply({"error": error}, 416, {"Content-Range": f"bytes */{size}"})


async def _part_of(
    pieces: AsyncGenerator[bytes | memoryview, None], part: slice
) -> AsyncGenerator[bytes | memoryview, None]:
    """Yield what of `pieces` is in `part`, and read no further than that."""
    at = 0
    async with aclosing(pieces):
        async for piece in pieces:
            found = piece[max(0, part.start - at) : None if part.stop is None else max(0, part.stop - at)]
            at += len(piece)
            if found:
                yield found
            if part.stop is not None and at >= part.stop:
                return


async def _send(request: web.Request, response: web.StreamResponse, data: bytes | memoryview) -> None:
    try:
        async with asyncio.timeout(STALL_S):
            if not response.prepared:
                await response.prepare(request)
            await response.write(data)
    except TimeoutError as error:
        raise ConnectionResetError("The receiver takes nothing") from error
