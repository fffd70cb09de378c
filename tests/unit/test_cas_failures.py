"""Uploads that fail: what they held, memory and budget, is free at once, whether or not garbage is collected."""

from __future__ import annotations

import asyncio
import gc
import random
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import aiohttp
import pytest

from isolate.cas.block import Block, End, encode_record
from isolate.cas.digest import BLAKE3, Namespace
from isolate.monitor import NullMonitor
from server.cas_api import CasLimits
from server.stores.blobs import LocalBlobStores
from server.stores.limits import BlobLimits
from tests.cas_server import serving_cas
from tests.clock import ManualClock
from tests.records import block_of

NAMESPACE = Namespace.parse("blake3-zstd")
END = encode_record(End(), BLAKE3)
RECORDS = [block_of(random.Random(seed).randbytes(200_000)).encode() for seed in range(6)]
BAD = bytearray(RECORDS[0])
BAD[-1] ^= 1
BODIES = {
    "a bad block first": (400, [bytes(BAD), *RECORDS[1:], END]),
    "a bad block amid others": (400, [*RECORDS[1:4], bytes(BAD), *RECORDS[4:], END]),
    "cut in a block": (400, [*RECORDS[:2], RECORDS[2][:100_000]]),
    "no end mark": (400, RECORDS[:3]),
    "something behind the end mark": (400, [*RECORDS[:3], END, b"more"]),
    "a full store": (507, [*RECORDS, *RECORDS, END]),
}
LIMITS = CasLimits(receive_bytes=450_000)  # what two blocks need
ROUNDS = 4
LIMIT_S = 10.0


@pytest.fixture
def others() -> Iterator[list[Block]]:
    """Return the blocks that there are before the test; from here on nobody looks for garbage."""
    gc.collect()
    gc.disable()
    yield blocks()
    gc.enable()
    gc.collect()


def blocks() -> list[Block]:
    return [thing for thing in gc.get_objects() if isinstance(thing, Block)]


@pytest.mark.parametrize("kind", BODIES)
async def test_a_failed_upload_holds_nothing(kind: str, tmp_path: Path, others: list[Block]) -> None:
    status, pieces = BODIES[kind]
    limits = BlobLimits(min_free_bytes=0, max_bytes=1_000 if status == 507 else None)
    stores = await LocalBlobStores.open(tmp_path, ManualClock(), NullMonitor(), limits)

    async def body() -> AsyncIterator[bytes]:
        for piece in pieces:
            yield piece

    async with serving_cas(stores, LIMITS) as url, aiohttp.ClientSession() as session:
        for _ in range(ROUNDS):
            async with session.post(f"{url}/cas/v2/{NAMESPACE.name}/blocks", data=body()) as reply:
                assert reply.status == status, await reply.text()
        await nothing_is_left(stores, others)
        async with session.post(f"{url}/cas/v2/{NAMESPACE.name}/missing", data=b"") as reply:
            assert reply.status == 200


@pytest.mark.parametrize("sent_bytes", [300_000, 800_000])
async def test_a_sender_that_goes_away_leaves_nothing(sent_bytes: int, tmp_path: Path, others: list[Block]) -> None:
    stores = await LocalBlobStores.open(tmp_path, ManualClock(), NullMonitor(), BlobLimits(min_free_bytes=0))
    data = b"".join(RECORDS)
    async with serving_cas(stores, LIMITS) as url:
        host = url.removeprefix("http://")
        head = f"POST /cas/v2/{NAMESPACE.name}/blocks HTTP/1.1\r\nHost: {host}\r\nContent-Length: {len(data)}\r\n\r\n"
        for _ in range(ROUNDS):
            before_bytes = stores.ingest.leased_bytes
            _, writer = await asyncio.open_connection("127.0.0.1", int(url.rpartition(":")[2]))
            writer.write(head.encode() + data[:sent_bytes])
            await writer.drain()
            async with asyncio.timeout(LIMIT_S):
                while stores.ingest.leased_bytes == before_bytes:  # else it might be gone before it came
                    await asyncio.sleep(0)
            writer.close()
            await writer.wait_closed()
        await nothing_is_left(stores, others)


async def nothing_is_left(stores: LocalBlobStores, others: list[Block]) -> None:
    """Return when nothing is leased, and no block alive but `others`."""
    async with asyncio.timeout(LIMIT_S):
        while stores.ingest.used_bytes or len(blocks()) > len(others):
            await asyncio.sleep(0.01)
    assert not gc.isenabled()
