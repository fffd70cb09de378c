"""The isolate API of 2020 on a socket, and what it and the transfer API make of each other's blobs."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import io
import random
import zlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from isolate.cas.block import Absent, Block, ChunkList, End, encode_record
from isolate.cas.digest import Blob, Namespace
from isolate.cas.old_bytes import MAX_SEGMENT_BYTES
from isolate.cas.store import BlobStore
from server.discovery import document
from server.isolate_table import ISOLATE
from server.stores.limits import BlobLimits
from server.tickets import LIFETIME_S
from tests.isolate_server import API, Site, encode, hex_of, isolate_site, item
from tests.stored import put, put_large

NAMESPACES = ["default", "default-gzip", "sha256-deflate", "sha256-flat", "sha512-flat", "temporary-gzip"]
SMALL, BIG = b"hello\n", random.Random(1).randbytes(3000)
HUGE = random.Random(2).randbytes(2 * MAX_SEGMENT_BYTES + 12345)
OK = {"ok": True}


@pytest.fixture
async def site(tmp_path: Path) -> AsyncIterator[Site]:
    async with isolate_site(tmp_path) as site:
        yield site


def of(namespace: str, **more: Any) -> dict[str, Any]:
    return {"namespace": {"namespace": namespace, "digest_hash": "sha-1", "compression": "flate"}} | more


async def ticket(site: Site, namespace: str, content: bytes, *, is_isolated: bool = False) -> dict[str, str]:
    (found,) = await site.lookup(namespace, content, is_isolated=is_isolated)
    return found


def inline(found: dict[str, str], content: bytes) -> dict[str, str]:
    return {"upload_ticket": found["upload_ticket"], "content": base64.b64encode(content).decode()}


async def contents(store: BlobStore, *wanted: bytes) -> dict[bytes, bytes]:
    """Read blobs as a client of the transfer API does: recipes first, then their chunks."""
    blobs = [store.namespace.blob(content) for content in wanted]
    found: dict[bytes, bytes] = {}
    async for record in store.read(blobs):
        match record:
            case Block():
                found |= {blob.digest: bytes(content) for blob, content in record.contents()}
            case ChunkList(blob, chunks):
                parts: dict[bytes, bytes] = {}
                async for part in store.read(chunks):
                    assert isinstance(part, Block)
                    parts |= {one.digest: bytes(content) for one, content in part.contents()}
                found[blob.digest] = b"".join(parts[chunk.digest] for chunk in chunks)
    return {blob.digest: found[blob.digest] for blob in blobs if blob.digest in found}


# The calls


async def test_server_details_is_answered_to_both_methods(site: Site) -> None:
    for method in ("GET", "POST"):
        assert await site.call("server_details", None if method == "GET" else {}, method) == (
            200,
            {"server_version": "0.1.0"},
        )
    async with site.session.get(site.url + "/api/isolateservice/v1/server_details") as reply:
        assert (reply.status, await reply.json()) == (200, {"server_version": "0.1.0"})


@pytest.mark.parametrize("namespace", NAMESPACES)
async def test_a_blob_goes_in_and_comes_out_byte_for_byte(site: Site, namespace: str) -> None:
    for content in (b"", SMALL, BIG):
        data = zlib.compress(content, 1) if encode(namespace, b"") else content  # not as we would encode it
        await site.store(namespace, content, data)
        assert await site.fetch(namespace, content) == data
        assert await site.lookup(namespace, content) == []
    assert await site.ok("preupload", of(namespace, items=[item(namespace, BIG)])) == {}


async def test_the_order_and_the_index_are_those_of_the_request(site: Site) -> None:
    await site.store("default", b"1")
    found = await site.lookup("default", b"0", b"1", b"2", b"1", b"4")
    assert [one["index"] for one in found] == ["0", "2", "4"]
    assert all(one["upload_ticket"] for one in found)


@pytest.mark.parametrize(
    ("size", "is_isolated", "bulk"),
    [(500, False, False), (501, False, True), (501, True, False), (512_000, True, False), (512_001, True, True)],
)
async def test_what_goes_in_bulk(site: Site, size: int, is_isolated: bool, bulk: bool) -> None:
    found = await ticket(site, "default-gzip", bytes(size), is_isolated=is_isolated)
    assert ("gs_upload_url" in found) is bulk


async def test_an_isolated_of_middle_size_comes_back_within_json(site: Site) -> None:
    content = BIG
    found = await ticket(site, "default-gzip", content, is_isolated=True)
    assert await site.ok("store_inline", inline(found, zlib.compress(content, 9))) == OK
    reply = await site.ok("retrieve", of("default-gzip", digest=hex_of("default-gzip", content)))
    assert reply == {"content": base64.b64encode(zlib.compress(content, 9)).decode()}


async def test_numbers_may_be_strings_and_unknown_fields_are_ignored(site: Site) -> None:
    body = {
        "items": [{"digest": hex_of("default", SMALL), "size": "6", "is_isolated": None, "colour": "red"}],
        "namespace": {"namespace": None, "digest_hash": 5},
        "more": [],
    }
    (found,) = (await site.ok("preupload", body))["items"]
    await site.ok("store_inline", inline(found, SMALL))
    reply = await site.ok("retrieve", {"digest": hex_of("default", SMALL), "offset": "2"})
    assert base64.b64decode(reply["content"]) == SMALL[2:]


@pytest.mark.parametrize("spelling", ["standard", "urlsafe", "unpadded"])
async def test_every_spelling_of_base64(site: Site, spelling: str) -> None:
    content = b"\xfb\xff\xfe?>"
    text = base64.b64encode(content).decode()
    text = text.replace("+", "-").replace("/", "_") if spelling == "urlsafe" else text
    text = text.rstrip("=") if spelling == "unpadded" else text
    found = await ticket(site, "default", content)
    assert await site.ok("store_inline", {"upload_ticket": found["upload_ticket"], "content": text}) == OK
    assert await site.fetch("default", content) == content


async def test_the_empty_blob_may_be_sent_as_nothing_and_is_always_there(site: Site) -> None:
    empty = await site.ok("retrieve", of("default-gzip", digest=hex_of("default-gzip", b"")))
    assert zlib.decompress(base64.b64decode(empty["content"])) == b""
    found = await ticket(site, "default-gzip", b"")
    assert await site.ok("store_inline", inline(found, b"")) == OK
    assert await site.ok("retrieve", of("default-gzip", digest=hex_of("default-gzip", b""))) == {"content": ""}


async def test_offsets(site: Site) -> None:
    await site.store("default", SMALL)
    digest = hex_of("default", SMALL)
    for offset in range(len(SMALL) + 1):
        reply = await site.ok("retrieve", of("default", digest=digest, offset=offset))
        assert base64.b64decode(reply["content"]) == SMALL[offset:]
    await site.store("default", BIG)
    for content, wrong in ((SMALL, -1), (SMALL, len(SMALL) + 1), (BIG, -1), (BIG, len(BIG) + 1)):
        status, message = await site.refused("retrieve", of("default", digest=hex_of("default", content), offset=wrong))
        assert (status, message) == (
            400,
            f"Invalid offset {wrong}. Offset must be between 0 and content length.",
        )
    whole = await site.ok("retrieve", of("default", digest=hex_of("default", BIG), offset=7))
    assert (await site.get(whole["url"]))[2] == BIG


# What is refused


HEX = "f" * 40


@pytest.mark.parametrize(
    ("name", "body", "status", "message"),
    [
        ("preupload", b"{", 400, "Body is not JSON"),
        ("preupload", b'{"a":"\xff"}', 400, "Body is not JSON"),
        ("preupload", b"[]", 400, "not a JSON object"),
        ("preupload", b"[" * 100_000, 400, "Body is not JSON"),
        ("preupload", {"items": []}, 400, "namespace is required"),
        ("preupload", of("default", items={}), 400, "items is not a list"),
        ("preupload", of("default", items=[5]), 400, "not an object"),
        ("preupload", of("default", items=[{"digest": HEX}] * 1001), 400, "Only up to 1000 items can be looked up at"),
        ("preupload", of("a/b", items=[]), 400, "Namespace 'a/b'"),
        ("preupload", of("blake3-zstd", items=[]), 400, "not served by this API"),
        ("preupload", of("blake3-old", items=[]), 400, "blake3"),
        ("preupload", of("default", items=[{"digest": HEX.upper()}]), 400, "not a sha-1 digest"),
        ("preupload", of("sha256-flat", items=[{"digest": HEX}]), 400, "not a sha-256 digest"),
        ("preupload", of("default", items=[{"size": 3}]), 400, "not a sha-1 digest"),
        ("preupload", of("default", items=[{"digest": HEX, "size": -1}]), 400, "Invalid size"),
        ("preupload", of("default", items=[{"digest": HEX, "size": "1" + "0" * 18}]), 400, "Invalid size"),
        ("preupload", of("default", items=[{"digest": HEX, "size": 1.5}]), 400, "size is not an integer"),
        ("preupload", of("default", items=[{"digest": HEX, "size": "9" * 5000}]), 400, "size is not an integer"),
        ("store_inline", {}, 400, "Upload ticket was empty"),
        ("store_inline", {"upload_ticket": "AQ"}, 400, "Ticket is not one of this server"),
        ("store_inline", {"upload_ticket": 7}, 400, "upload_ticket is not a string"),
        ("finalize_gs_upload", {}, 400, "Upload ticket was empty"),
        ("finalize_gs_upload", {"upload_ticket": "ü"}, 400, "Ticket is not one of this server"),
        ("retrieve", of("default"), 400, "digest is required"),
        ("retrieve", of("default", digest=""), 400, "digest is required"),
        ("retrieve", of("default", digest="x" * 40), 400, "not a sha-1 digest"),
        ("retrieve", of("blake3-zstd", digest="f" * 64), 400, "not served by this API"),
        ("retrieve", of("default", digest=HEX, offset="x"), 400, "offset is not an integer"),
        ("retrieve", of("default", digest=HEX), 404, "not found"),
        ("nonsense", {}, 404, "No such page or call"),
    ],
)
async def test_refusals_are_one_clear_line(site: Site, name: str, body: Any, status: int, message: str) -> None:
    found, text = await site.refused(name, body)
    assert found == status
    assert message in text
    assert "\n" not in text


async def test_a_thousand_items_are_looked_up(site: Site) -> None:
    assert len(await site.lookup("default", *(str(number).encode() for number in range(1000)))) == 1000


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"other!", "Embedded digest does not match provided data"),
        (SMALL[:-1], "Embedded digest does not match provided data"),
        (SMALL + b"!", "Embedded digest does not match provided data"),
    ],
)
async def test_wrong_plain_content(site: Site, data: bytes, message: str) -> None:
    found = await ticket(site, "default", SMALL)
    status, text = await site.refused("store_inline", inline(found, data))
    assert status == 400
    assert message in text
    assert len(await site.lookup("default", SMALL)) == 1


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (SMALL, "Data is corrupted"),
        (b"", "Data is corrupted"),
        (zlib.compress(SMALL)[:-1], "Data is corrupted"),
        (zlib.compress(SMALL) + b"!", "Data is corrupted"),
        (zlib.compress(b"other!"), "Embedded digest does not match provided data"),
        (zlib.compress(bytes(40_000_000)), "Embedded digest does not match provided data"),
        (bytes(100_000), "Embedded digest does not match provided data"),
    ],
)
async def test_wrong_zlib_content(site: Site, data: bytes, message: str) -> None:
    found = await ticket(site, "default-gzip", SMALL)
    status, text = await site.refused("store_inline", inline(found, data))
    assert status == 400
    assert message in text
    assert len(await site.lookup("default-gzip", SMALL)) == 1


async def test_tickets_belong_to_one_flow_and_one_server(site: Site, tmp_path: Path) -> None:
    small, big = await ticket(site, "default", SMALL), await ticket(site, "default", BIG)
    assert (await site.refused("finalize_gs_upload", {"upload_ticket": small["upload_ticket"]}))[0] == 400
    assert (await site.refused("store_inline", inline(big, BIG)))[0] == 400
    async with isolate_site(tmp_path / "other") as other:
        assert (await other.refused("store_inline", inline(small, SMALL)))[0] == 400
    get = (
        await site.put(big["gs_upload_url"], BIG),
        await site.ok("retrieve", of("default", digest=hex_of("default", BIG))),
    )
    assert (await site.put(get[1]["url"], BIG))[0] == 400
    assert (await site.get(big["gs_upload_url"]))[0] == 400


async def test_everything_signed_expires(site: Site) -> None:
    small, big = await ticket(site, "default", SMALL), await ticket(site, "default", BIG)
    await site.store("default", HUGE[:2000])
    url = (await site.ok("retrieve", of("default", digest=hex_of("default", HUGE[:2000]))))["url"]
    site.clock.advance(LIFETIME_S)
    assert (await site.get(url))[0] == 200
    site.clock.advance(1)
    assert "expired" in (await site.refused("store_inline", inline(small, SMALL)))[1]
    assert "expired" in (await site.refused("finalize_gs_upload", {"upload_ticket": big["upload_ticket"]}))[1]
    assert (await site.put(big["gs_upload_url"], BIG))[0] == 400
    assert (await site.get(url))[0] == 400


# Bulk


async def test_a_bulk_upload_is_answered_with_its_md5(site: Site) -> None:
    found = await ticket(site, "default-gzip", BIG)
    data = zlib.compress(BIG, 7)
    more = {"Content-Type": "application/octet-stream", "Cache-Control": "public, max-age=31536000"}
    status, headers = await site.put(found["gs_upload_url"], data, **more)
    assert (status, headers["x-goog-hash"]) == (200, "md5=" + base64.b64encode(hashlib.md5(data).digest()).decode())
    assert await site.ok("finalize_gs_upload", {"upload_ticket": found["upload_ticket"]}) == OK
    assert await site.ok("finalize_gs_upload", {"upload_ticket": found["upload_ticket"]}) == OK
    reply = await site.ok("retrieve", of("default-gzip", digest=hex_of("default-gzip", BIG)))
    status, headers, body = await site.get(reply["url"])
    assert (status, body, headers["Content-Length"]) == (200, data, str(len(data)))
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert "sandbox" in headers["Content-Security-Policy"]
    assert (await site.get(reply["url"], "HEAD"))[0] == 200


async def test_finalizing_what_was_never_sent(site: Site) -> None:
    found = await ticket(site, "default", BIG)
    status, message = await site.refused("finalize_gs_upload", {"upload_ticket": found["upload_ticket"]})
    assert status == 400
    assert message.startswith("File should be in Google Storage.")


@pytest.mark.parametrize(
    "data", [b"", zlib.compress(BIG)[:-1], zlib.compress(BIG) + b"x", zlib.compress(bytes(3000)), b"noise" * 9, BIG]
)
async def test_wrong_bulk_content_is_heard_out_and_gone_when_it_is_finalized(site: Site, data: bytes) -> None:
    found = await ticket(site, "default-gzip", BIG)
    status, headers = await site.put(found["gs_upload_url"], io.BytesIO(data) if data else data)
    assert (status, headers["x-goog-hash"]) == (200, "md5=" + base64.b64encode(hashlib.md5(data).digest()).decode())
    assert len(await site.lookup("default-gzip", BIG)) == 1
    assert await site.ok("finalize_gs_upload", {"upload_ticket": found["upload_ticket"]}) == OK
    assert (await site.refused("retrieve", of("default-gzip", digest=hex_of("default-gzip", BIG))))[0] == 404
    status, message = await site.refused("finalize_gs_upload", {"upload_ticket": found["upload_ticket"]})
    assert status == 400
    assert message.startswith("File should be in Google Storage.")
    assert len(await site.lookup("default-gzip", BIG)) == 1
    await site.store("default-gzip", BIG)
    assert zlib.decompress(await site.fetch("default-gzip", BIG)) == BIG


async def test_few_wrong_uploads_are_remembered(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("server.bulk.MAX_WRONG", 2)
    tickets = []
    for number in range(3):
        found = await ticket(site, "default", BIG + bytes([number]))
        assert (await site.put(found["gs_upload_url"], BIG))[0] == 200
        tickets.append(found["upload_ticket"])
    answers = [(await site.call("finalize_gs_upload", {"upload_ticket": one}))[0] for one in tickets]
    assert answers == [400, 200, 200]


async def test_bulk_bodies_have_a_length_within_reason(site: Site) -> None:
    async def pieces() -> AsyncIterator[bytes]:
        yield BIG

    found = await ticket(site, "default", BIG)
    assert (await site.put(found["gs_upload_url"], pieces()))[0] == 411
    assert (await site.put(found["gs_upload_url"], bytes(200_000)))[0] == 413


async def test_several_segments(site: Site) -> None:
    data = zlib.compress(HUGE, 1)
    assert len(data) > 2 * MAX_SEGMENT_BYTES
    await site.store("default-gzip", HUGE, data)
    assert await site.fetch("default-gzip", HUGE) == data
    await site.store("default", HUGE[: 2 * MAX_SEGMENT_BYTES])
    assert await site.fetch("default", HUGE[: 2 * MAX_SEGMENT_BYTES]) == HUGE[: 2 * MAX_SEGMENT_BYTES]


async def test_a_large_upload_that_turns_out_wrong_leaves_no_live_record(site: Site) -> None:
    found = await ticket(site, "default", HUGE)
    status, _ = await site.put(found["gs_upload_url"], io.BytesIO(HUGE[:-1] + bytes([HUGE[-1] ^ 1])))
    assert status == 200
    assert len(await site.lookup("default", HUGE)) == 1
    await site.store("default", SMALL)
    database = site.local.index._database
    live = await database.read(lambda connection: connection.execute("SELECT COUNT(*) FROM block").fetchone())
    assert live == (1,)


async def test_concurrent_uploads_of_one_blob(site: Site) -> None:
    found = [await ticket(site, "default-gzip", HUGE) for _ in range(2)] + [await ticket(site, "default-gzip", BIG)] * 8
    datas = [zlib.compress(HUGE, level) for level in (0, 1)] + [zlib.compress(BIG, level) for level in range(8)]
    async with asyncio.TaskGroup() as group:
        for one, data in zip(found, datas, strict=True):
            group.create_task(site.put(one["gs_upload_url"], io.BytesIO(data)))
    for one in found:
        assert await site.ok("finalize_gs_upload", {"upload_ticket": one["upload_ticket"]}) == OK
    assert await site.fetch("default-gzip", HUGE) in datas[:2]
    assert await site.fetch("default-gzip", BIG) in datas[2:]


async def test_a_full_store_says_so(tmp_path: Path) -> None:
    async with isolate_site(tmp_path, BlobLimits(min_free_bytes=0, max_bytes=2000)) as site:
        found = await ticket(site, "default", BIG)
        assert (await site.put(found["gs_upload_url"], BIG))[0] == 507
        small = await ticket(site, "default", SMALL)
        assert await site.ok("store_inline", inline(small, SMALL)) == OK


# Both entrances


@pytest.mark.parametrize("namespace", NAMESPACES)
async def test_blobs_from_blocks_are_encoded_for_old_clients(site: Site, namespace: str) -> None:
    store = site.stores.namespace(Namespace.parse(namespace))
    await put(store, [SMALL, BIG])
    whole = await put_large(store, [HUGE[:1_000_000], HUGE[1_000_000:2_000_000]])
    assert await site.lookup(namespace, SMALL, BIG, HUGE[:2_000_000]) == []
    for content in (SMALL, BIG, HUGE[:2_000_000]):
        data = await site.fetch(namespace, content)
        assert (zlib.decompress(data) if encode(namespace, b"") else data) == content
    reply = await site.ok("retrieve", of(namespace, digest=whole.digest.hex()))
    assert (await site.get(reply["url"], "HEAD"))[0] == 200
    status, _ = await site.refused("retrieve", of(namespace, digest=hex_of(namespace, SMALL), offset=10_000))
    assert status == 400


@pytest.mark.parametrize("namespace", NAMESPACES)
async def test_old_bytes_are_blocks_for_new_clients(site: Site, namespace: str) -> None:
    store = site.stores.namespace(Namespace.parse(namespace))
    for content in (b"", SMALL, BIG, HUGE):
        await site.store(namespace, content)
    blobs = [store.namespace.blob(content) for content in (SMALL, b"never stored", HUGE, BIG)]
    assert await store.missing(blobs) == [blobs[1]]
    assert await contents(store, SMALL, HUGE, BIG, b"never stored") == {
        blob.digest: content for blob, content in zip([blobs[0], blobs[2], blobs[3]], (SMALL, HUGE, BIG), strict=True)
    }
    async with site.session.get(f"{site.url}/cas/v2/{namespace}/blob/{blobs[2].digest.hex()}") as reply:
        assert await reply.read() == HUGE
    ranged = {"Range": f"bytes={MAX_SEGMENT_BYTES - 10}-{MAX_SEGMENT_BYTES + 9}"}
    url = f"{site.url}/cas/v2/{namespace}/blob/{blobs[2].digest.hex()}"
    async with site.session.get(url, headers=ranged) as reply:
        assert (reply.status, await reply.read()) == (206, HUGE[MAX_SEGMENT_BYTES - 10 : MAX_SEGMENT_BYTES + 10])


async def test_very_large_old_bytes_become_a_recipe_once(site: Site) -> None:
    content = bytes(20 << 20)
    await site.store("default-gzip", content)
    store = site.stores.namespace(Namespace.parse("default-gzip"))
    async with asyncio.TaskGroup() as group:
        first, second = (group.create_task(contents(store, content)) for _ in range(2))
    blob = store.namespace.blob(content)
    assert first.result() == second.result() == {blob.digest: content}
    assert [type(record) async for record in store.read([blob])] == [ChunkList]
    assert await site.fetch("default-gzip", content) == zlib.compress(content, 7)


async def test_readers_never_wait_for_each_other_in_a_circle(tmp_path: Path) -> None:
    async with isolate_site(tmp_path, BlobLimits(min_free_bytes=0, egress_bytes=1 << 20)) as site:
        parts = [HUGE[start : start + 700_000] for start in range(0, 4_200_000, 700_000)]
        for part in parts:
            await site.store("default", part)
        store = site.stores.namespace(Namespace.parse("default"))
        async with asyncio.timeout(20), asyncio.TaskGroup() as group:  # a circle would last for 30 s
            reads = [group.create_task(contents(store, *parts[number:], *parts[:number])) for number in range(6)]
        assert all(sorted(read.result().values()) == sorted(parts) for read in reads)


async def test_chunks_that_are_old_bytes_can_be_composed(site: Site) -> None:
    store = site.stores.namespace(Namespace.parse("default-gzip"))
    parts = [HUGE[:600_000], HUGE[600_000:900_000]]
    await site.store("default-gzip", parts[0])
    (second,) = await put(store, parts[1:])
    whole = store.namespace.blob(b"".join(parts))
    await store.compose(whole, [store.namespace.blob(parts[0]), second])
    assert zlib.decompress(await site.fetch("default-gzip", b"".join(parts))) == b"".join(parts)


async def test_old_bytes_never_travel_in_streams(site: Site) -> None:
    await site.store("default", SMALL)
    (pack,) = (site.root / "packs" / "default~old").iterdir()
    body = pack.read_bytes() + encode_record(End(), Namespace.parse("default").algorithm)
    async with site.session.post(f"{site.url}/cas/v2/default/blocks", data=body) as reply:
        assert (reply.status, (await reply.json())["error"]["code"]) == (400, "invalid_record")


# Damage and restarts


@pytest.mark.parametrize("content", [SMALL, BIG, HUGE])
async def test_rotten_old_bytes_are_missing_and_can_be_stored_again(site: Site, content: bytes) -> None:
    await site.store("default", content)
    (pack,) = (site.root / "packs" / "default~old").iterdir()
    data = bytearray(pack.read_bytes())
    data[len(data) // 2] ^= 1
    pack.write_bytes(data)
    blob = Namespace.parse("default").blob(content)
    url = f"{site.url}/cas/v2/default/blob/{blob.digest.hex()}"
    async with site.session.get(url) as reply:
        if content is HUGE:  # the first segment was good, so the reply had begun
            with pytest.raises(aiohttp.ClientError):
                await reply.read()
        else:
            assert reply.status == 404
    assert len(await site.lookup("default", content)) == 1
    store = site.stores.namespace(Namespace.parse("default"))
    assert [record async for record in store.read([blob])] == [Absent((blob.digest,))]
    await site.store("default", content)
    assert await site.fetch("default", content) == content


async def test_everything_survives_a_restart(tmp_path: Path) -> None:
    async with isolate_site(tmp_path) as site:
        for content in (SMALL, BIG, HUGE):
            await site.store("sha256-deflate", content)
        pending = await ticket(site, "sha256-deflate", BIG + b"!")
    async with isolate_site(tmp_path) as site:
        for content in (SMALL, BIG, HUGE):
            assert await site.fetch("sha256-deflate", content) == encode("sha256-deflate", content)
        path = pending["gs_upload_url"].partition("/bulk/")[2]
        assert (await site.put(f"{site.url}/bulk/{path}", encode("sha256-deflate", BIG + b"!")))[0] == 200
        assert await site.ok("finalize_gs_upload", {"upload_ticket": pending["upload_ticket"]}) == OK


# What holds for every call


async def test_a_mask_selects_parts_of_a_reply(site: Site) -> None:
    body = of("default", items=[item("default", SMALL), item("default", BIG)])
    reply = await site.ok("preupload?fields=items(index,gs_upload_url)", body)
    assert [set(one) for one in reply["items"]] == [{"index"}, {"index", "gs_upload_url"}]


def test_the_discovery_document_describes_every_call() -> None:
    described = document(ISOLATE, "http://127.0.0.1:1")
    methods = described["resources"]["isolateservice"]["methods"]
    assert described["baseUrl"] == "http://127.0.0.1:1/_ah/api/isolateservice/v1/"
    assert {name: (one["httpMethod"], one["path"]) for name, one in methods.items()} == {
        "server_details": ("GET", "server_details"),
        "preupload": ("POST", "preupload"),
        "store_inline": ("POST", "store_inline"),
        "finalize_gs_upload": ("POST", "finalize_gs_upload"),
        "retrieve": ("POST", "retrieve"),
    }
    used = {one[part]["$ref"] for one in methods.values() for part in ("request", "response") if part in one}
    assert used <= described["schemas"].keys()


# Guarantee 14


async def test_other_pages_are_refused_and_no_origin_is_allowed(site: Site) -> None:
    url = f"{site.url}{API}preupload"
    async with site.session.options(url) as reply:
        assert reply.status == 200
        assert "POST" in reply.headers["Access-Control-Allow-Methods"]
        assert "Access-Control-Allow-Origin" not in reply.headers
    async with site.session.post(url, data=b"{}", headers={"Origin": "https://evil.example"}) as reply:
        assert reply.status == 403
    async with site.session.options(url, headers={"Origin": "https://evil.example"}) as reply:
        assert reply.status == 403


async def test_blob_of_unknown_size_is_never_trusted(site: Site) -> None:
    """A ticket for the right digest with the wrong size stores nothing."""
    body = of("default", items=[{"digest": hex_of("default", SMALL), "size": 5}])
    (found,) = (await site.ok("preupload", body))["items"]
    assert (await site.refused("store_inline", inline(found, SMALL)))[0] == 400
    assert await site.stores.shared(Namespace.parse("default")).held(Blob(b"", 0).digest or bytes(20)) is None
