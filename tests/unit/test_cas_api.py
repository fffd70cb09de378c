"""The transfer API byte by byte: statuses, bodies, headers, streams that break off."""

from __future__ import annotations

import asyncio
import errno
import io
import json
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import zstandard

from isolate.cas import wire
from isolate.cas.block import Absent, Block, ChunkList, End, Record, StreamError, encode_record
from isolate.cas.digest import BLAKE3, Blob, Namespace
from isolate.cas.stream import RecordReader
from isolate.monitor import TallyMonitor
from server.cas_api import CasLimits
from server.stores.blobs import LocalBlobStores
from server.stores.limits import BlobLimits
from tests.cas_server import serving_cas
from tests.clock import ManualClock
from tests.pack_faults import FaultyFiles
from tests.records import blob_of, block_of

NAMESPACE = Namespace.parse("blake3-zstd")
END = encode_record(End(), BLAKE3)
A, B, C = b"content a", b"content b" * 1000, random.Random(3).randbytes(300_000)


class Site:
    """A served store and a client without any comfort."""

    def __init__(self, stores: LocalBlobStores, url: str, session: aiohttp.ClientSession, files: FaultyFiles) -> None:
        self.stores, self.url, self.session, self.files = stores, url, session, files

    async def call(
        self, method: str, call: str, body: Any = None, namespace: str = NAMESPACE.name, **headers: str
    ) -> tuple[int, Any, bytes]:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        path = f"{self.url}/cas/v2/{namespace}/{call}"
        body = io.BytesIO(body) if isinstance(body, bytes) else body
        async with self.session.request(method, path, data=body, headers=named) as reply:
            return reply.status, reply.headers, await reply.read()

    async def json(self, method: str, call: str, body: Any = None, namespace: str = NAMESPACE.name) -> tuple[int, Any]:
        status, _, data = await self.call(method, call, body, namespace)
        return status, json.loads(data)

    async def put(self, *contents: bytes) -> None:
        status, _ = await self.json("POST", "blocks", block_of(*contents).encode() + END)
        assert status == 200

    async def missing(self, *contents: bytes) -> list[bytes]:
        body = b"".join(blob_of(content).digest for content in contents)
        status, _, reply = await self.call("POST", "missing", body)
        assert status == 200
        digests = wire.parse_digests(reply, BLAKE3)
        return [content for content in contents if blob_of(content).digest in digests]


@pytest.fixture
async def site(tmp_path: Path) -> AsyncIterator[Site]:
    async with opened(tmp_path, BlobLimits(min_free_bytes=0), CasLimits()) as site:
        yield site


@asynccontextmanager
async def opened(root: Path, limits: BlobLimits, api: CasLimits) -> AsyncIterator[Site]:
    files = FaultyFiles()
    stores = await LocalBlobStores.open(root, ManualClock(), TallyMonitor(), limits, files=files)
    plain = {"Accept-Encoding": "identity"}
    async with serving_cas(stores, api) as url, aiohttp.ClientSession(auto_decompress=False, headers=plain) as session:
        yield Site(stores, url, session, files)
    await stores.close()


# info


async def test_info(site: Site) -> None:
    status, body = await site.json("GET", "info")
    info = wire.StoreInfo.parse(body)
    assert (status, info.promised_s, info.kept_s, info.format) == (200, 21600, 604800, wire.FORMAT)
    _, temporary = await site.json("GET", "info", namespace="temporary-x")
    assert wire.StoreInfo.parse(temporary).kept_s == 86400


async def test_every_reply_has_an_id(site: Site) -> None:
    for call in ("info", "blob/zz"):
        _, headers, _ = await site.call("GET", call)
        assert headers["X-Request-Id"]


@pytest.mark.parametrize("namespace", ["blake3-nothing", "a%20b", "%2e%2e"])
async def test_unknown_namespaces(site: Site, namespace: str) -> None:
    status, _, body = await site.call("GET", "info", namespace=namespace)
    assert status in {400, 404}
    assert json.loads(body)["error"]["message"]


# missing


async def test_missing_answers_in_request_order(site: Site) -> None:
    await site.put(A)
    body = b"".join(blob_of(content).digest for content in (C, A, B, b"", C))
    status, headers, reply = await site.call("POST", "missing", body)
    assert (status, headers["Content-Type"]) == (200, wire.DIGESTS_TYPE)
    assert wire.parse_digests(reply, BLAKE3) == [blob_of(content).digest for content in (C, B, C)]


async def test_missing_of_nothing(site: Site) -> None:
    assert (await site.call("POST", "missing", b""))[2] == b""


@pytest.mark.parametrize(
    ("size", "status", "code"),
    [
        (31, 400, "invalid_digest"),
        (33, 400, "invalid_digest"),
        (100_001 * 32, 413, "too_large"),
        (100_001 * 64, 413, "too_large"),
    ],
)
async def test_bad_lists_of_digests(site: Site, size: int, status: int, code: str) -> None:
    for call in ("missing", "read"):
        found, body = await site.json("POST", call, bytes(size))
        assert (found, body["error"]["code"]) == (status, code)


async def test_the_longest_list_is_fine(site: Site) -> None:
    body = b"".join(number.to_bytes(32, "big") for number in range(100_000))
    status, _, reply = await site.call("POST", "missing", body)
    assert (status, reply) == (200, body)


# blocks


async def pieces(data: bytes, size: int) -> AsyncIterator[bytes]:
    for start in range(0, len(data), size):
        yield data[start : start + size]


@pytest.mark.parametrize("size", [7, 1000, 1 << 20])
async def test_blocks_in_any_pieces(site: Site, size: int) -> None:
    data = block_of(A, B).encode() + block_of(B, level=None).encode() + END
    status, body = await site.json("POST", "blocks", pieces(data, size))
    assert (status, body) == (200, {"stored": 2, "present": 1, "bytes": len(A + B)})


async def test_nothing_but_the_end(site: Site) -> None:
    assert await site.json("POST", "blocks", END) == (200, {"stored": 0, "present": 0, "bytes": 0})


async def test_the_first_wrong_block_is_named_and_those_before_are_stored(site: Site) -> None:
    wrong = Block.pack(BLAKE3, [(blob_of(B), B[::-1])], 1)
    data = block_of(A).encode() + wrong.encode() + block_of(C).encode() + END
    status, body = await site.json("POST", "blocks", data)
    assert status == 400
    error = body["error"]
    assert (error["code"], error["digest"]) == ("digest_mismatch", blob_of(B).digest.hex())
    assert error["found"] == blob_of(B[::-1]).digest.hex()
    assert await site.missing(A, B, C) == [B, C]


@pytest.mark.parametrize(
    "tail",
    [
        b"",
        block_of(B).encode()[:-1],
        block_of(B).encode()[:-1] + b"\x00" + END,
        b"IBK",
        b"nonsense" * 10,
        END + b"x",
        encode_record(Absent((blob_of(A).digest,)), BLAKE3) + END,
        encode_record(ChunkList(blob_of(A + B), (blob_of(A), blob_of(B))), BLAKE3) + END,
        block_of(A, algorithm=Namespace.parse("sha256-flat").algorithm).encode() + END,
    ],
    ids=["no end", "cut", "rotten", "cut head", "no record", "more behind", "absent", "recipe", "algorithm"],
)
async def test_streams_that_break_a_rule(site: Site, tail: bytes) -> None:
    status, body = await site.json("POST", "blocks", block_of(A).encode() + tail)
    assert (status, body["error"]["code"]) == (400, "invalid_record")
    assert await site.missing(A, B) == [B]


async def test_a_client_that_leaves_takes_only_its_own_along(site: Site) -> None:
    gone = asyncio.Event()

    async def body() -> AsyncIterator[bytes]:
        yield block_of(A).encode() + block_of(B).encode()[:50]
        gone.set()
        await asyncio.Event().wait()

    request = asyncio.ensure_future(site.call("POST", "blocks", body()))
    await gone.wait()
    request.cancel()
    with pytest.raises(asyncio.CancelledError):
        await request
    await site.put(C)
    assert await site.missing(B, C) == [B]


async def test_a_silent_sender_is_cut_off(tmp_path: Path) -> None:
    async def body() -> AsyncIterator[bytes]:
        yield block_of(B).encode()[:50]
        await asyncio.Event().wait()

    async with opened(tmp_path, BlobLimits(min_free_bytes=0), CasLimits(idle_s=0.01)) as site:
        status, reply = await site.json("POST", "blocks", body())
    assert (status, reply["error"]["code"]) == (408, "refused")


async def test_no_space_and_no_disk_are_answers(site: Site) -> None:
    data = block_of(A).encode() + END
    site.files.fail("write", errno.ENOSPC)
    status, body = await site.json("POST", "blocks", data)
    assert (status, body["error"]["code"]) == (507, "no_space")
    site.files.fail("sync", errno.EIO)
    status, headers, _ = await site.call("POST", "blocks", data)
    assert (status, int(headers["Retry-After"]) > 0) == (503, True)
    assert await site.json("POST", "blocks", data) == (200, {"stored": 1, "present": 0, "bytes": len(A)})


# compose


def recipe(blob: Blob, *chunks: bytes) -> dict[str, Any]:
    return wire.compose_body(blob, [blob_of(chunk) for chunk in chunks])


async def compose(site: Site, body: object) -> tuple[int, Any]:
    return await site.json("POST", "compose", json.dumps(body))


async def test_composing(site: Site) -> None:
    whole = blob_of(A + B)
    await site.put(A)
    status, body = await compose(site, recipe(whole, A, B))
    assert (status, body["error"]["code"]) == (409, "chunks_missing")
    assert body["error"]["missing"] == [blob_of(B).digest.hex()]
    await site.put(B)
    status, body = await compose(site, recipe(blob_of(A + A), A, A))
    assert (status, body) == (200, {})
    status, body = await compose(site, recipe(whole, B, A))
    assert (status, body["error"]["code"]) == (400, "digest_mismatch")
    assert await compose(site, recipe(whole, A, B)) == (200, {})
    assert await site.missing(A + B) == []


@pytest.mark.parametrize(
    "body",
    [
        [],
        {},
        {"digest": "zz", "size": 1, "chunks": [["zz", 1]]},
        {"digest": "00" * 32, "size": 2, "chunks": [["00" * 32, 1]]},
        {"digest": "00" * 32, "size": -1, "chunks": [["00" * 32, -1]]},
        {"digest": "00" * 32, "size": 0, "chunks": []},
        {"digest": "00" * 32, "size": 10**30, "chunks": [["00" * 32, 10**30]]},
        {"digest": "00" * 32, "size": 1, "chunks": "many"},
    ],
)
async def test_bad_recipes(site: Site, body: object) -> None:
    status, reply = await compose(site, body)
    assert (status, bool(reply["error"]["message"])) == (400, True) or status == 413


@pytest.mark.parametrize("body", [b"", b"{", b"[" * 100_000, b"\xff", b'{"a":"\xff"}'])
async def test_bodies_that_are_not_json(site: Site, body: bytes) -> None:
    status, reply = await site.json("POST", "compose", body)
    assert (status, reply["error"]["code"]) == (400, "invalid")


async def test_a_long_verification_goes_on_behind_a_202(tmp_path: Path) -> None:
    async with opened(tmp_path, BlobLimits(min_free_bytes=0), CasLimits(compose_wait_s=0)) as site:
        await site.put(A)
        await site.put(B)
        status, headers, _ = await site.call("POST", "compose", json.dumps(recipe(blob_of(A + B), A, B)))
        assert (status, headers["Retry-After"]) == (202, "1")
        while (await compose(site, recipe(blob_of(A + B), A, B)))[0] == 202:
            await asyncio.sleep(0)
        assert await site.missing(A + B) == []
        # What it ended with waits for the one who was told to come back.
        assert (await compose(site, recipe(blob_of(B + A), A, B)))[0] == 202
        while (answer := await compose(site, recipe(blob_of(B + A), A, B)))[0] == 202:
            await asyncio.sleep(0)
        assert (answer[0], answer[1]["error"]["code"]) == (400, "digest_mismatch")


# read


async def read(site: Site, *digests: bytes) -> list[Record]:
    status, headers, body = await site.call("POST", "read", b"".join(digests))
    assert (status, headers["Content-Type"]) == (200, wire.RECORDS_TYPE)
    reader = RecordReader(BLAKE3)
    return list(reader.feed(body))


async def test_a_read_ends_with_what_is_absent_and_the_end(site: Site) -> None:
    await site.put(A, B)
    await site.put(C)
    await compose(site, recipe(blob_of(A + B), A, B))
    lost = blob_of(b"lost").digest
    records = await read(site, lost, blob_of(C).digest, blob_of(A + B).digest, blob_of(B).digest, blob_of(b"").digest)
    assert [type(record) for record in records] == [Block, Block, ChunkList, Absent, End]
    assert records[3] == Absent((lost,))


async def test_reading_nothing(site: Site) -> None:
    assert [type(record) for record in await read(site)] == [End]


async def test_a_read_that_fails_half_way_says_so_and_has_no_end(site: Site) -> None:
    parts = [random.Random(number).randbytes(3 << 20) for number in range(3)]
    for part in parts:
        await site.put(part)
    site.files.fail("read", errno.EMFILE, call=2)
    records = await read(site, *(blob_of(part).digest for part in parts))
    assert [type(record) for record in records] == [Block, StreamError]
    assert isinstance(records[1], StreamError)
    assert records[1].payload["error"]["code"] == "unavailable"


async def test_a_read_that_fails_at_once_has_a_status(site: Site) -> None:
    await site.put(A)
    site.files.fail("read", errno.EMFILE)
    status, headers, _ = await site.call("POST", "read", blob_of(A).digest)
    assert (status, int(headers["Retry-After"]) > 0) == (503, True)


async def test_a_receiver_that_takes_nothing_is_cut_off(tmp_path: Path) -> None:
    """Else it would hold its share of the memory for ever."""
    parts = [random.Random(number).randbytes(4 << 20) for number in range(8)]
    async with opened(tmp_path, BlobLimits(min_free_bytes=0), CasLimits(stall_s=0.01)) as site:
        for part in parts:
            await site.put(part)
        body = b"".join(blob_of(part).digest for part in parts)
        host, port = site.url.removeprefix("http://").split(":")
        _, writer = await asyncio.open_connection(host, int(port), limit=1)
        writer.write(f"POST /cas/v2/{NAMESPACE.name}/read HTTP/1.1\r\nHost: {host}:{port}\r\n".encode())
        writer.write(f"Content-Length: {len(body)}\r\n\r\n".encode() + body)
        while not site.stores.egress.used_bytes:
            await asyncio.sleep(0)
        while site.stores.egress.used_bytes:
            await asyncio.sleep(0)
        assert site.files.calls.count("read") < len(parts)
        writer.transport.abort()


# blob


async def test_one_blob(site: Site) -> None:
    await site.put(A, B, C)
    status, headers, body = await site.call("GET", f"blob/{blob_of(C).digest.hex()}")
    assert (status, body, headers["Content-Length"]) == (200, C, str(len(C)))
    assert (headers["X-Content-Type-Options"], headers["Content-Security-Policy"]) == ("nosniff", "sandbox")
    assert headers["ETag"] == f'"{blob_of(C).digest.hex()}"'


async def test_a_composed_blob_and_its_parts(site: Site) -> None:
    chunks = [random.Random(number).randbytes(700_000) for number in range(4)]
    for chunk in chunks:
        await site.put(chunk)
    whole = b"".join(chunks)
    assert await compose(site, recipe(blob_of(whole), *chunks)) == (200, {})
    path = f"blob/{blob_of(whole).digest.hex()}"
    assert (await site.call("GET", path))[2] == whole
    status, headers, body = await site.call("GET", path, Range="bytes=699999-1400000")
    assert (status, body) == (206, whole[699_999:1_400_001])
    assert headers["Content-Range"] == f"bytes 699999-1400000/{len(whole)}"
    assert (await site.call("GET", path, Range="bytes=-5"))[2] == whole[-5:]
    status, headers, _ = await site.call("GET", path, Range=f"bytes={len(whole)}-")
    assert (status, headers["Content-Range"]) == (416, f"bytes */{len(whole)}")


async def test_head_says_the_same_without_the_bytes(site: Site) -> None:
    await site.put(C)
    site.files.calls.clear()
    status, headers, body = await site.call("HEAD", f"blob/{blob_of(C).digest.hex()}")
    assert (status, headers["Content-Length"], body) == (200, str(len(C)), b"")
    assert "read" not in site.files.calls


async def test_a_known_blob_is_not_sent_again(site: Site) -> None:
    await site.put(C)
    path = f"blob/{blob_of(C).digest.hex()}"
    _, headers, _ = await site.call("GET", path)
    status, _, body = await site.call("GET", path, If_None_Match=headers["ETag"])
    assert (status, body) == (304, b"")


async def test_zstd_for_those_who_take_it(site: Site) -> None:
    await site.put(B)
    status, headers, body = await site.call("GET", f"blob/{blob_of(B).digest.hex()}", Accept_Encoding="zstd")
    assert (status, headers["Content-Encoding"], headers["Vary"]) == (200, "zstd", "Accept-Encoding")
    assert zstandard.ZstdDecompressor().decompressobj(read_across_frames=True).decompress(body) == B
    assert len(body) < len(B)


async def test_the_empty_blob_needs_no_storing(site: Site) -> None:
    status, headers, body = await site.call("GET", f"blob/{NAMESPACE.empty.digest.hex()}")
    assert (status, headers["Content-Length"], body) == (200, "0", b"")


@pytest.mark.parametrize(("text", "status"), [("00" * 32, 404), ("00" * 31, 400), ("ZZ" * 32, 400), ("AB" * 32, 400)])
async def test_blobs_that_are_not_there(site: Site, text: str, status: int) -> None:
    found, body = await site.json("GET", f"blob/{text}")
    assert (found, bool(body["error"]["message"])) == (status, True)


async def test_a_bad_record_is_a_404_and_then_missing(site: Site, tmp_path: Path) -> None:
    await site.put(C)
    (pack,) = tmp_path.rglob("*.pack")
    data = bytearray(pack.read_bytes())
    data[1000] ^= 1
    pack.write_bytes(data)
    status, body = await site.json("GET", f"blob/{blob_of(C).digest.hex()}")
    assert (status, body["error"]["code"]) == (404, "blobs_missing")
    assert await site.missing(C) == [C]
