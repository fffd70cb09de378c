"""Contents too large for JSON, on the isolate API of 2020: upload, finalize, fetch."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import io
import zlib
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from isolate.cas.old_bytes import MAX_SEGMENT_BYTES
from server.stores.limits import BlobLimits
from tests.isolate_server import Site, hex_of, isolate_site
from tests.unit.old_client import BIG, HUGE, OK, SMALL, inline, of, ticket


@pytest.fixture
async def site(tmp_path: Path) -> AsyncIterator[Site]:
    async with isolate_site(tmp_path) as site:
        yield site


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
