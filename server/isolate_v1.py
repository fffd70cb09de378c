"""The isolate API of 2020: `/_ah/api/isolateservice/v1/…`, also without `/_ah`.

Knows routes and the order of a transfer: look up, then send within JSON or in bulk, then say that it is done. What is
stored is what was received; what came in blocks is encoded for these clients when they ask. As in 2020 finalizing says
that bytes came, not that they were right: wrong ones are gone by then, and missing for whoever asks.
"""

from __future__ import annotations

import base64
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing
from typing import Any

from aiohttp import web

from isolate.cas.digest import Codec
from isolate.cas.old_bytes import most_encoded_bytes
from isolate.errors import BlobsMissing, InvalidInput, InvalidRecord, UploadCorrupt
from server import isolate_wire as wire
from server.api_routes import Handler, call_routes
from server.bulk import Bulk, counted
from server.cas_intake import Intake
from server.isolate_table import CALLS
from server.middleware import reply
from server.stores.budget import ByteBudget
from server.stores.shared import Held, SharedBlobStore, SharedBlobStores
from server.tickets import Purpose, Ticket, TicketOffice
from server.traffic import Traffic

BASES = ("/_ah/api/isolateservice/v1", "/api/isolateservice/v1")
MAX_BODY_BYTES = 2 << 20  # a look-up of 1000 items, or base64 of an .isolated that does not shrink
RECEIVE_BYTES = 48 << 20  # bodies being read and parsed
BODY_WEIGHT = 4  # JSON, its text, the decoded bytes and the record


class IsolateApi:
    """Handlers over the blob stores."""

    def __init__(self, stores: SharedBlobStores, office: TicketOffice, traffic: Traffic, version: str) -> None:
        self._stores, self._office, self._traffic, self._version = stores, office, traffic, version
        self._bulk = Bulk(stores, office, traffic)
        self._intake = Intake(ByteBudget(RECEIVE_BYTES, "requests"))

    def routes(self) -> list[web.RouteDef]:
        """Return every route of this API."""
        handlers: dict[str, Handler] = {
            "isolateservice.server_details": self.server_details,
            "isolateservice.preupload": self.preupload,
            "isolateservice.store_inline": self.store_inline,
            "isolateservice.finalize_gs_upload": self.finalize,
            "isolateservice.retrieve": self.retrieve,
        }
        handlers = {name: counted(self._traffic, handler) for name, handler in handlers.items()}
        # The helper of 2020 for this call sends a POST, its description says GET.
        posted = [web.post(f"{base}/server_details", handlers["isolateservice.server_details"]) for base in BASES]
        return [*call_routes(CALLS, handlers, BASES), *posted, *self._bulk.routes()]

    async def server_details(self, _: web.Request) -> web.Response:
        return reply({"server_version": self._version})

    async def preupload(self, request: web.Request) -> web.Response:
        limit = self._stores.limits.max_blob_bytes
        async with self._body(request, lambda body: wire.lookup(wire.decode(body), limit)) as (namespace, items):
            self._traffic.count(contains_requests=1, contains_lookups=len(items))
            store = self._stores.shared(namespace)
            present = await store.kept({item.blob.digest for item in items})
            missing = [
                self._invitation(request, index, Ticket(namespace, item.blob, item.is_isolated), bulk=item.goes_in_bulk)
                for index, item in enumerate(items)
                if item.blob.digest not in present
            ]
        return reply({"items": missing} if missing else {})

    async def store_inline(self, request: web.Request) -> web.Response:
        def parse(body: bytes) -> tuple[Ticket, bytes]:
            fields = wire.decode(body)
            return self._office.redeem(wire.ticket_text(fields), Purpose.INLINE), wire.content(fields)

        async with self._body(request, parse) as (ticket, content):
            if len(content) > most_encoded_bytes(ticket.blob.size):
                raise InvalidInput(f"Embedded digest does not match provided data: {len(content)} bytes are too many")
            old = self._stores.shared(ticket.namespace).old
            try:
                await old.store(ticket.blob, _one(content), len(content), bulk=False)
            except UploadCorrupt as error:
                self._stores.reject(error)
                raise InvalidInput(f"Embedded digest does not match provided data: {error}") from error
            except InvalidRecord as error:
                self._stores.reject(error)
                raise InvalidInput(f"Data is corrupted: {error}") from error
            self._traffic.count(uploads=1, uploads_bytes=len(content))
        return reply({"ok": True})

    async def finalize(self, request: web.Request) -> web.Response:
        def parse(body: bytes) -> Ticket:
            return self._office.redeem(wire.ticket_text(wire.decode(body)), Purpose.FINALIZE)

        async with self._body(request, parse) as ticket:
            digest = ticket.blob.digest
            kept = await self._stores.shared(ticket.namespace).kept({digest})
            if digest not in kept and not self._bulk.take_wrong(ticket):
                raise InvalidInput(
                    "File should be in Google Storage. It was not sent to gs_upload_url, or what was sent is not "
                    f"{digest.hex()} of {ticket.blob.size} bytes{_encoded_hint(ticket)}"
                )
        return reply({"ok": True})

    async def retrieve(self, request: web.Request) -> web.Response:
        async with self._body(request, lambda body: wire.retrieval(wire.decode(body))) as wanted:
            store = self._stores.shared(wanted.namespace)
            held = await store.held(wanted.digest)
            if held is None:
                raise BlobsMissing([wanted.digest])
            if wanted.offset < 0 or (held.encoded_bytes is not None and wanted.offset > held.encoded_bytes):
                raise _bad_offset(wanted.offset)
            content = await _inline(store, held)
        if content is None:
            ticket = Ticket(wanted.namespace, held.blob, is_isolated=False)
            return reply({"url": self._bulk.url(request, ticket, Purpose.GET)})
        if wanted.offset > len(content):
            raise _bad_offset(wanted.offset)
        self._traffic.count(downloads=1, downloads_bytes=len(content) - wanted.offset)
        return reply({"content": base64.b64encode(content[wanted.offset :]).decode()})

    def _invitation(self, request: web.Request, index: int, ticket: Ticket, *, bulk: bool) -> dict[str, str]:
        purpose = Purpose.FINALIZE if bulk else Purpose.INLINE
        item = {"index": str(index), "upload_ticket": self._office.issue(ticket, purpose)}
        if bulk:
            item["gs_upload_url"] = self._bulk.url(request, ticket, Purpose.PUT)
        return item

    def _body(self, request: web.Request, parse: Callable[[bytes], Any]) -> Any:
        return self._intake.parsed(request, MAX_BODY_BYTES, parse, BODY_WEIGHT)


async def _inline(store: SharedBlobStore, held: Held) -> bytes | None:
    """Return the bytes of a blob that travels within JSON, None for one that travels in bulk."""
    if held.blob.size > wire.MAX_INLINE_ISOLATED_BYTES:
        return None
    at_choice = held.old if held.blob.size >= wire.MIN_BULK_BYTES else None
    if at_choice is not None and await store.came_in_bulk(at_choice):  # it goes as it came
        return None
    async with aclosing(store.encoded(held)) as pieces:
        return b"".join([bytes(piece) async for piece in pieces])


async def _one(content: bytes) -> AsyncIterator[bytes]:
    yield content


def _bad_offset(offset: int) -> InvalidInput:
    return InvalidInput(f"Invalid offset {offset}. Offset must be between 0 and content length.")


def _encoded_hint(ticket: Ticket) -> str:
    return " as one zlib stream" if ticket.namespace.codec is Codec.ZLIB else ""
