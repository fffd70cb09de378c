"""What the isolate API of 2020 and the transfer API make of each other's blobs, damage and restarts included."""

from __future__ import annotations

import asyncio
import zlib
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest

from isolate.cas.block import Absent, ChunkList, End, encode_record
from isolate.cas.digest import Namespace
from isolate.cas.old_bytes import MAX_SEGMENT_BYTES
from server.stores.limits import BlobLimits
from tests.isolate_server import Site, encode, hex_of, isolate_site
from tests.stored import put, put_large
from tests.unit.old_client import BIG, HUGE, NAMESPACES, OK, SMALL, contents, of, ticket


@pytest.fixture
async def site(tmp_path: Path) -> AsyncIterator[Site]:
    async with isolate_site(tmp_path) as site:
        yield site


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
