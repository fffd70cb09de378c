"""What `HttpStore` does when the server or the connection misbehaves; the exam in `contract/` covers the rest."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest
from aiohttp import web

from isolate.cas import remote, wire
from isolate.cas.block import Absent, Block, ChunkList, End, Record, StreamError, encode_record
from isolate.cas.digest import Blob, Namespace
from isolate.cas.remote import HttpStore
from isolate.cas.store import Written
from isolate.errors import (
    ChunksMissing,
    InvalidDigest,
    InvalidInput,
    NoSpace,
    Refused,
    Stale,
    Unavailable,
    UploadCorrupt,
)
from isolate.http import HttpClient, RetryPolicy
from isolate.monitor import TallyMonitor
from tests.loopback import SkippingClock, serving, unused_url
from tests.records import blob_of, block_of, stream

NAMESPACE = Namespace.parse("blake3-zstd")
ALGORITHM = NAMESPACE.algorithm
CONTENTS = [f"content {number}".encode() * 100 for number in range(6)]
BLOBS = [blob_of(content) for content in CONTENTS]
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Connected:
    """A store, and what it did."""

    def __init__(self, client: HttpClient, clock: SkippingClock, monitor: TallyMonitor) -> None:
        self.store = HttpStore(client, NAMESPACE)
        self.clock = clock
        self.monitor = monitor


@asynccontextmanager
async def to(url: str) -> AsyncIterator[Connected]:
    clock, monitor = SkippingClock(), TallyMonitor()
    policy = RetryPolicy(attempts=3, first_delay_s=1)
    async with HttpClient(
        url, user_agent="test", clock=clock, monitor=monitor, policy=policy, draw=lambda: 0.5
    ) as client:
        yield Connected(client, clock, monitor)


@asynccontextmanager
async def answering(call: str, handler: Handler, method: str = "POST") -> AsyncIterator[Connected]:
    routes = [web.route(method, wire.call_path("blake3-zstd", call), handler)]
    async with serving(routes) as url, to(url) as connected:
        yield connected


def bytes_of(*records: Record) -> bytes:
    return b"".join(encode_record(record, ALGORITHM) for record in records)


async def everything(store: HttpStore, blobs: list[Blob]) -> list[Block | ChunkList | Absent]:
    return [record async for record in store.read(blobs)]


class Reader:
    """Answers `read` with a script of bodies, and remembers what was asked for."""

    def __init__(self, *bodies: bytes) -> None:
        self.asked: list[list[bytes]] = []
        self._bodies = list(bodies)

    async def answer(self, request: web.Request) -> web.Response:
        self.asked.append(wire.parse_digests(await request.read(), ALGORITHM))
        return web.Response(body=self._bodies.pop(0), content_type=wire.RECORDS_TYPE)


# read


async def test_a_stream_that_was_cut_off_is_resumed() -> None:
    first, second = block_of(*CONTENTS[:2]), block_of(*CONTENTS[2:])
    reader = Reader(bytes_of(first) + bytes_of(second)[:50], bytes_of(second, End()))
    async with answering("read", reader.answer) as connected:
        assert await everything(connected.store, BLOBS) == [first, second]
    assert reader.asked == [[blob.digest for blob in BLOBS], [blob.digest for blob in BLOBS[2:]]]
    assert connected.monitor.counters["resumed_reads"] == 1


async def test_a_damaged_stream_is_resumed() -> None:
    recipe, absent = ChunkList(BLOBS[0], (BLOBS[0],)), Absent((BLOBS[1].digest,))
    damaged = bytearray(bytes_of(block_of(CONTENTS[2])))
    damaged[-1] ^= 1
    good = block_of(CONTENTS[2])
    reader = Reader(bytes_of(recipe, absent) + bytes(damaged), bytes_of(good, End()))
    async with answering("read", reader.answer) as connected:
        assert await everything(connected.store, BLOBS[:3]) == [recipe, absent, good]
    assert reader.asked[1] == [BLOBS[2].digest]


async def test_a_stream_that_brings_nothing_is_given_up() -> None:
    reader = Reader(bytes_of(block_of(CONTENTS[0])), b"")
    async with answering("read", reader.answer) as connected:
        with pytest.raises(Unavailable, match="cut off"):
            await everything(connected.store, BLOBS)
    assert len(reader.asked) == 2


async def test_a_stream_cut_after_all_was_delivered_is_complete() -> None:
    block = block_of(*CONTENTS)
    reader = Reader(bytes_of(block))
    async with answering("read", reader.answer) as connected:
        assert await everything(connected.store, BLOBS) == [block]
    assert len(reader.asked) == 1


async def test_the_server_may_give_up_in_the_middle() -> None:
    reader = Reader(bytes_of(StreamError({"error": {"code": "unavailable", "message": "Disk died"}})))
    async with answering("read", reader.answer) as connected:
        with pytest.raises(Unavailable, match="Disk died"):
            await everything(connected.store, BLOBS)


@pytest.mark.parametrize(("count", "sizes"), [(2, [2]), (3, [3]), (4, [3, 1]), (6, [3, 3])])
async def test_large_reads_are_split(monkeypatch: pytest.MonkeyPatch, count: int, sizes: list[int]) -> None:
    monkeypatch.setattr(remote, "MAX_BATCH", 3)

    async def answer(request: web.Request) -> web.Response:
        digests = wire.parse_digests(await request.read(), ALGORITHM)
        return web.Response(body=bytes_of(Absent(tuple(digests)), End()), content_type=wire.RECORDS_TYPE)

    async with answering("read", answer) as connected:
        records = await everything(connected.store, BLOBS[:count])
    assert [len(record.digests) for record in records if isinstance(record, Absent)] == sizes


async def test_records_of_another_algorithm_are_not_believed() -> None:
    other = block_of(CONTENTS[0], algorithm=Namespace.parse("sha256-flat").algorithm).encode()
    async with answering("read", Reader(other + bytes_of(End())).answer) as connected:
        with pytest.raises(Unavailable, match="sha-256"):
            await everything(connected.store, BLOBS[:1])


async def test_reading_nothing_asks_nobody() -> None:
    async with to(unused_url()) as connected:
        assert await everything(connected.store, [NAMESPACE.empty]) == []
        assert await connected.store.missing([]) == []


async def test_a_digest_of_the_wrong_length_is_not_sent() -> None:
    async with to(unused_url()) as connected:
        with pytest.raises(InvalidDigest):
            await connected.store.missing([BLOBS[0], Blob(b"short", 1)])


# write


class Uploads:
    """Answers `blocks` with a script of replies, after reading everything."""

    def __init__(self, *replies: web.Response) -> None:
        self.requests = 0
        self._replies = list(replies)

    async def answer(self, request: web.Request) -> web.Response:
        self.requests += 1
        await request.read()
        return self._replies.pop(0)


def refusal(status: int, **error: object) -> web.Response:
    return web.json_response({"error": error}, status=status)


async def test_an_upload_is_not_repeated_once_a_block_was_taken() -> None:
    uploads = Uploads(refusal(503, message="Busy"))
    async with answering("blocks", uploads.answer) as connected:
        with pytest.raises(Unavailable, match="Busy"):
            await connected.store.write(stream(block_of(CONTENTS[0])))
    assert (uploads.requests, connected.clock.slept) == (1, [])


async def test_an_upload_to_a_dead_server_keeps_its_blocks() -> None:
    taken: list[int] = []

    async def blocks() -> AsyncIterator[Block]:
        taken.append(1)
        yield block_of(CONTENTS[0])

    source = blocks()
    async with to(unused_url()) as connected:
        with pytest.raises(Unavailable, match="connection refused"):
            await connected.store.write(source)
    assert (taken, len(connected.clock.slept)) == ([], 2)
    uploads = Uploads(web.json_response(wire.written_body(Written(1, 0, 900))))
    async with answering("blocks", uploads.answer) as connected:
        assert await connected.store.write(source) == Written(1, 0, 900)


async def test_a_server_that_dies_in_an_upload_is_unavailable() -> None:
    taken = 0

    async def die(request: web.Request) -> web.Response:
        await request.content.readany()
        assert request.transport is not None
        request.transport.abort()
        return web.Response()

    async def endless() -> AsyncIterator[Block]:
        nonlocal taken
        while True:
            taken += 1
            yield large

    large = block_of(bytes(1 << 20), level=None)
    async with answering("blocks", die) as connected:
        with pytest.raises(Unavailable):
            await connected.store.write(endless())
    assert taken > 0
    assert connected.clock.slept == []


async def test_a_wrong_block_is_named() -> None:
    error = {"code": "digest_mismatch", "message": "Blob is wrong", "digest": "ab" * 32, "found": "cd" * 32}
    async with answering("blocks", Uploads(refusal(400, **error)).answer) as connected:
        with pytest.raises(UploadCorrupt, match=r"^Blob is wrong$") as caught:
            await connected.store.write(stream(block_of(CONTENTS[0])))
    assert (caught.value.blob.digest, caught.value.found) == (b"\xab" * 32, b"\xcd" * 32)


@pytest.mark.parametrize("error", [
    {"code": "digest_mismatch", "message": "Odd", "digest": "xy", "found": ""},
    {"code": "digest_mismatch", "message": "Odd", "digest": "ab" * 32, "found": "x"},
    {"code": "digest_mismatch", "message": "Odd"},
    {"code": "chunks_missing", "message": "Odd", "missing": []},
    {"code": "invalid_record", "message": "Odd"},
])  # fmt: skip
async def test_a_garbled_refusal_is_still_one(error: dict[str, object]) -> None:
    async with answering("blocks", Uploads(refusal(400, **error)).answer) as connected:
        with pytest.raises(InvalidInput, match="Odd"):
            await connected.store.write(stream(block_of(CONTENTS[0])))


@pytest.mark.parametrize(("status", "kind"), [(507, NoSpace), (403, Refused)])
async def test_other_refusals(status: int, kind: type[Exception]) -> None:
    async with answering("blocks", Uploads(refusal(status, message="No")).answer) as connected:
        with pytest.raises(kind, match="No"):
            await connected.store.write(stream(block_of(CONTENTS[0])))


async def test_blocks_leave_as_they_come() -> None:
    """Back-pressure and no buffering: the server has the first block before the second one is made."""
    heard: list[bytes] = []

    async def answer(request: web.Request) -> web.Response:
        while piece := await request.content.readany():
            heard.append(piece)
        return web.json_response(wire.written_body(Written(2, 0, 1)))

    first, second = block_of(CONTENTS[0]), block_of(CONTENTS[1])
    async with answering("blocks", answer) as connected:

        async def blocks() -> AsyncIterator[Block]:
            yield first
            while b"".join(heard) != first.encode():
                await asyncio.sleep(0)  # lets the event loop look at its sockets once
            yield second

        await connected.store.write(blocks())
    assert b"".join(heard) == bytes_of(first, second, End())


# compose


async def test_a_running_verification_is_followed() -> None:
    replies = [
        web.json_response({}, status=202, headers={"Retry-After": "3"}),
        web.json_response({}, status=202),
        web.json_response({}, status=202, headers={"Retry-After": "0"}),
        web.json_response({}),
    ]
    uploads = Uploads(*replies)
    async with answering("compose", uploads.answer) as connected:
        await connected.store.compose(BLOBS[0], [BLOBS[0]])
    assert (uploads.requests, connected.clock.slept) == (4, [3, remote.COMPOSE_PAUSE_S, 0])


async def test_composing_is_retried() -> None:
    uploads = Uploads(refusal(503, message="Busy"), web.json_response({}))
    async with answering("compose", uploads.answer) as connected:
        await connected.store.compose(BLOBS[0], [BLOBS[0]])
    assert uploads.requests == 2


async def test_missing_chunks_and_wrong_contents_are_named() -> None:
    gone = refusal(409, code="chunks_missing", message="Gone", missing=["ab" * 32, "cd" * 32])
    wrong = refusal(400, code="digest_mismatch", message="Wrong", digest=BLOBS[0].digest.hex(), found="cd" * 32)
    other = refusal(409, code="stale", message="Later")
    async with answering("compose", Uploads(gone, wrong, other).answer) as connected:
        with pytest.raises(ChunksMissing) as missing:
            await connected.store.compose(BLOBS[0], [BLOBS[0]])
        with pytest.raises(UploadCorrupt, match=r"^Wrong$") as corrupt:
            await connected.store.compose(BLOBS[0], [BLOBS[0]])
        with pytest.raises(Stale, match="Later"):
            await connected.store.compose(BLOBS[0], [BLOBS[0]])
    assert missing.value.digests == (b"\xab" * 32, b"\xcd" * 32)
    assert corrupt.value.blob == BLOBS[0]


# info and missing


async def test_info() -> None:
    info = wire.StoreInfo(promised_s=21600, kept_s=604800, server_version="1.0")

    async def answer(_: web.Request) -> web.Response:
        return web.json_response({**info.body(), "more": 1})

    async with answering("info", answer, "GET") as connected:
        assert await connected.store.info() == info


@pytest.mark.parametrize(("body", "reason"), [
    (b"odd", "3 bytes are no whole number"),
    (BLOBS[0].digest * 2, "names one twice"),
    (bytes(32), "it was not asked for"),
    (b"<p>" + bytes(29), "it was not asked for"),
])  # fmt: skip
async def test_a_reply_that_does_not_list_what_is_missing(body: bytes, reason: str) -> None:
    async def answer(_: web.Request) -> web.Response:
        return web.Response(body=body, content_type=wire.DIGESTS_TYPE)

    async with answering("missing", answer) as connected:
        with pytest.raises(Refused, match=f"is not an isolate server: it .*{reason}"):
            await connected.store.missing(BLOBS)


async def test_another_kind_of_server_is_told_by_the_type_of_its_answers() -> None:
    async def answer(_: web.Request) -> web.Response:
        return web.Response(text="x" * 32, content_type="text/html")

    async def calls(store: HttpStore) -> AsyncIterator[Awaitable[object]]:
        yield store.info()
        yield store.missing(BLOBS)
        yield store.write(stream(block_of(CONTENTS[0])))
        yield store.compose(BLOBS[0], [BLOBS[0]])
        yield everything(store, BLOBS)

    async with serving([web.route("*", "/{path:.*}", answer)]) as url, to(url) as connected:
        async for call in calls(connected.store):
            with pytest.raises(Refused, match="is not an isolate server: it answered text/html instead of"):
                await call


async def test_an_answer_whose_end_nobody_could_miss() -> None:
    """Bytes until the connection ends: a part of them would look like all of them."""

    async def answer(request: web.Request) -> web.StreamResponse:
        await request.read()
        assert request.transport is not None
        request.transport.write(f"HTTP/1.1 200 OK\r\nContent-Type: {wire.DIGESTS_TYPE}\r\n\r\n".encode())
        request.transport.close()
        return web.StreamResponse()

    async with answering("missing", answer) as connected:
        with pytest.raises(Refused, match="does not tell where its answer ends"):
            await connected.store.missing(BLOBS)


async def test_every_blob_of_an_upload_is_acknowledged() -> None:
    uploads = Uploads(web.json_response(wire.written_body(Written(1, 0, 900))), web.json_response({"stored": "all"}))
    async with answering("blocks", uploads.answer) as connected:
        with pytest.raises(Unavailable, match="acknowledges 1 of 2 blobs"):
            await connected.store.write(stream(block_of(*CONTENTS[:2])))
        with pytest.raises(Refused, match="has no counts"):
            await connected.store.write(stream(block_of(*CONTENTS[:2])))
