"""The transfer API `/cas/v2/{namespace}/…`: blobs in blocks, both ways, streamed.

Knows no file and no SQL; errors are raised and become replies in the middleware. The invariants: neither a request nor
a reply is ever held whole, except digests and recipes, which are small and counted; a reply that has begun and cannot
go on says so and has no end mark.
"""

from __future__ import annotations

import asyncio
from contextlib import AbstractAsyncContextManager, aclosing
from dataclasses import dataclass
from functools import partial

import msgspec
from aiohttp import web

from isolate import __version__
from isolate.cas import wire
from isolate.cas.block import End, Record, StreamError, encode_record
from isolate.cas.codec import zstd_compress
from isolate.cas.digest import Algorithm, Blob, Namespace
from isolate.errors import BlobsMissing, InvalidInput, IsolateError
from server.cas_intake import Intake
from server.cas_wish import Wish
from server.middleware import reply
from server.problem import error_body
from server.stores.blobs import LocalBlobStore, LocalBlobStores
from server.stores.budget import ByteBudget
from server.stores.shared import SharedBlobStore, SharedBlobStores

ZSTD_LEVEL = 1  # of blobs encoded while a browser waits
LOOKUP_WEIGHT = 6  # a digest of 32 bytes that is looked up takes about 200


@dataclass(frozen=True, slots=True, kw_only=True)
class CasLimits:
    """Limits of the API itself; those of the store are the store's."""

    receive_bytes: int = 48 << 20  # bodies and records on their way in
    idle_s: float = 60.0  # a sender that is silent for longer is cut off
    stall_s: float = 60.0  # a receiver that takes nothing for longer is cut off
    compose_wait_s: float = 5.0  # then 202, and the client asks again


def cas_routes(stores: LocalBlobStores | SharedBlobStores, limits: CasLimits | None = None) -> list[web.RouteDef]:
    """Return the routes of the API on `stores`."""
    api = CasApi(stores, limits or CasLimits())

    def path(call: str) -> str:
        return wire.call_path("{namespace}", call)

    return [
        web.get(path("info"), api.info),
        web.post(path("missing"), api.missing),
        web.post(path("blocks"), api.blocks),
        web.post(path("compose"), api.compose),
        web.post(path("read"), api.read),
        web.get(path("blob/{hex}"), api.blob),
    ]


class CasApi:
    """One handler for each call."""

    def __init__(self, stores: LocalBlobStores | SharedBlobStores, limits: CasLimits) -> None:
        self._stores, self._limits = stores, limits
        self._intake = Intake(ByteBudget(limits.receive_bytes, "requests"), limits.idle_s)

    async def info(self, request: web.Request) -> web.StreamResponse:
        namespace = _namespace(request)
        limits = self._stores.limits
        info = wire.StoreInfo(
            promised_s=limits.promised_s,
            kept_s=limits.kept_in_s(namespace),
            server_version=__version__,
            max_blob_bytes=limits.max_blob_bytes,
        )
        return reply(info.body())

    async def missing(self, request: web.Request) -> web.StreamResponse:
        store = self._store(request)
        async with self._digests(request, store.namespace.algorithm, LOOKUP_WEIGHT) as digests:
            present = await store.sizes(digests)
            absent = b"".join(digest for digest in digests if digest not in present)
        return web.Response(body=absent, content_type=wire.DIGESTS_TYPE)

    async def blocks(self, request: web.Request) -> web.StreamResponse:
        store = self._store(request)
        async with aclosing(self._intake.blocks(request, store.namespace.algorithm)) as blocks:
            written = await store.write(blocks)
        return reply(wire.written_body(written))

    async def compose(self, request: web.Request) -> web.StreamResponse:
        store = self._store(request)
        algorithm = store.namespace.algorithm
        async with self._intake.parsed(
            request, wire.MAX_COMPOSE_BYTES, lambda body: wire.parse_compose(_json(body), algorithm)
        ) as (blob, chunks):
            done = await store.compose_within(blob, chunks, self._limits.compose_wait_s)
        if done:
            return reply({})
        return reply({}, 202, {"Retry-After": "1"})

    async def read(self, request: web.Request) -> web.StreamResponse:
        store = self._store(request)
        algorithm = store.namespace.algorithm
        async with self._digests(request, algorithm) as digests:
            blobs = [Blob(digest, 0) for digest in digests]
        response = web.StreamResponse(headers={"Content-Type": wire.RECORDS_TYPE})
        async with aclosing(store.read(blobs)) as records:
            try:
                async for record in records:
                    await self._send(request, response, encode_record(record, algorithm))
                last: Record = End()
            except IsolateError as error:
                if not response.prepared:
                    raise
                last = StreamError(error_body(error))
        await self._send(request, response, encode_record(last, algorithm))
        await response.write_eof()
        return response

    async def blob(self, request: web.Request) -> web.StreamResponse:
        store = self._store(request)
        digest = store.namespace.algorithm.parse_hex(request.match_info["hex"])
        sizes = await store.sizes([digest])
        if digest not in sizes:
            raise BlobsMissing([digest])
        wish = Wish.of(request.headers, digest, sizes[digest], is_get=request.method == "GET")
        if wish.is_known:
            return web.Response(status=304, headers=wish.headers)
        if wish.stop < wish.start:
            problem = {"code": "range_not_satisfiable", "message": f"The blob has {sizes[digest]} bytes"}
            return reply({"error": problem}, 416, {"Content-Range": f"bytes */{sizes[digest]}"})
        response = web.StreamResponse(status=wish.status, headers=wish.headers)
        if request.method == "GET" and wish.stop > wish.start:
            async with aclosing(store.pieces(digest, wish.start, wish.stop)) as pieces:
                async for piece in pieces:  # nothing is sent before the first is there: bad bytes can still be a 404
                    encode = partial(zstd_compress, piece, ZSTD_LEVEL)  # frames in a row are one valid body
                    await self._send(request, response, await asyncio.to_thread(encode) if wish.zstd else piece)
        await response.prepare(request)
        await response.write_eof()
        return response

    def _store(self, request: web.Request) -> LocalBlobStore | SharedBlobStore:
        return self._stores.namespace(_namespace(request))

    def _digests(
        self, request: web.Request, algorithm: Algorithm, weight: int = 1
    ) -> AbstractAsyncContextManager[list[bytes]]:
        return self._intake.parsed(
            request, wire.MAX_DIGESTS_BYTES, lambda body: wire.parse_digests(body, algorithm), weight
        )

    async def _send(self, request: web.Request, response: web.StreamResponse, data: bytes | memoryview) -> None:
        """Send a piece of the body, behind the head if that is still to come."""
        try:
            async with asyncio.timeout(self._limits.stall_s):
                if not response.prepared:
                    await response.prepare(request)
                await response.write(data)
        except TimeoutError as error:
            raise ConnectionResetError("The receiver takes nothing") from error


def _namespace(request: web.Request) -> Namespace:
    return Namespace.parse(request.match_info["namespace"])


def _json(body: bytes) -> object:
    try:
        return msgspec.json.decode(body)
    except (ValueError, RecursionError) as error:  # bad JSON, and bad UTF-8 within it
        raise InvalidInput(f"Body is not JSON: {error}") from error
