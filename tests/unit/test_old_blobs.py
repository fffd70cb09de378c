"""Old bytes in packs: eviction, compaction, and every system call that may fail."""

from __future__ import annotations

import errno
import random
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager
from pathlib import Path

import pytest

from isolate.cas.digest import Namespace
from isolate.cas.old_bytes import MAX_SEGMENT_BYTES
from isolate.errors import InvalidRecord, NoSpace, Unavailable, UploadCorrupt
from isolate.monitor import TallyMonitor
from server.stores.blobs import LocalBlobStores
from server.stores.janitor import Janitor
from server.stores.limits import BlobLimits
from server.stores.old_blobs import OldBlobs
from tests.clock import ManualClock
from tests.pack_faults import FaultyFiles

NAMESPACE = Namespace.parse("default")
DAY_S = 86400.0
SMALL = b"small"
LARGE = random.Random(7).randbytes(MAX_SEGMENT_BYTES + 1000)


class Site:
    """An open store with its clock and its disk."""

    def __init__(self, stores: LocalBlobStores, files: FaultyFiles, clock: ManualClock, monitor: TallyMonitor) -> None:
        self.stores, self.files, self.clock, self.monitor = stores, files, clock, monitor
        self.old = OldBlobs(stores, NAMESPACE)

    async def put(self, content: bytes, sent: bytes | None = None) -> None:
        sent = content if sent is None else sent
        await self.old.store(NAMESPACE.blob(content), segments(sent), len(content), bulk=True)

    async def get(self, content: bytes) -> bytes | None:
        digest = NAMESPACE.blob(content).digest
        found = (await self.old.find_readable([digest])).get(digest)
        if found is None:
            return None
        assert found.encoded_bytes == len(content)
        async with aclosing(self.old.segments(found)) as pieces:
            return b"".join([bytes(segment.data) async for segment in pieces])

    async def records(self) -> int:
        database = self.stores.index.database
        row = await database.read(lambda connection: connection.execute("SELECT COUNT(*) FROM block").fetchone())
        return int(row[0])


async def segments(data: bytes) -> AsyncIterator[bytes]:
    for start in range(0, max(1, len(data)), MAX_SEGMENT_BYTES):
        yield data[start : start + MAX_SEGMENT_BYTES]


@asynccontextmanager
async def opened(root: Path, limits: BlobLimits | None = None, rotate_bytes: int = 1 << 20) -> AsyncIterator[Site]:
    root.mkdir(exist_ok=True)
    files, clock, monitor = FaultyFiles(), ManualClock(), TallyMonitor()
    stores = await LocalBlobStores.open(
        root, clock, monitor, limits or BlobLimits(min_free_bytes=0), files=files, rotate_bytes=rotate_bytes
    )
    site = Site(stores, files, clock, monitor)
    yield site
    await site.old.settle()
    await stores.close()


async def test_storing_twice_keeps_one(tmp_path: Path) -> None:
    async with opened(tmp_path) as site:
        for _ in range(2):
            await site.put(SMALL)
            await site.put(LARGE)
        assert await site.records() == 3
        assert (await site.get(SMALL), await site.get(LARGE)) == (SMALL, LARGE)


@pytest.mark.parametrize(
    ("sent", "error"),
    [(LARGE[:-1] + b"\0", UploadCorrupt), (LARGE[:MAX_SEGMENT_BYTES], InvalidRecord), (LARGE[::-1], UploadCorrupt)],
)
async def test_what_fails_leaves_nothing(tmp_path: Path, sent: bytes, error: type[Exception]) -> None:
    assert sent != LARGE
    async with opened(tmp_path) as site:
        with pytest.raises(error):
            await site.put(LARGE, sent)
        assert await site.records() == 0
        assert await site.get(LARGE) is None
        await site.put(LARGE)
        assert await site.get(LARGE) == LARGE


async def test_what_nobody_asks_for_goes_as_a_whole_and_its_space_comes_back(tmp_path: Path) -> None:
    async with opened(tmp_path) as site:
        janitor = Janitor(site.stores, site.clock, stopped_cleanly=True)
        await site.put(SMALL)
        await site.put(LARGE)
        site.clock.advance(4 * DAY_S)
        await janitor.run()
        assert await site.get(LARGE) == LARGE  # which refreshes all its segments
        site.clock.advance(4 * DAY_S)
        await janitor.run()
        assert await site.get(SMALL) is None
        assert await site.get(LARGE) == LARGE
        site.clock.advance(8 * DAY_S)
        await janitor.run()
        assert await site.get(LARGE) is None
        assert await site.records() == 0
        for _ in range(3):
            await janitor.run()
        packs = tmp_path / "packs" / "default~old"
        assert sum(path.stat().st_size for path in packs.iterdir()) < MAX_SEGMENT_BYTES


async def test_segments_that_moved_are_still_in_order(tmp_path: Path) -> None:
    async with opened(tmp_path) as site:
        janitor = Janitor(site.stores, site.clock, stopped_cleanly=True)
        for number in range(30):
            await site.put(random.Random(number).randbytes(300_000))
        await site.put(LARGE)
        site.clock.advance(4 * DAY_S)
        assert await site.get(LARGE) == LARGE
        site.clock.advance(4 * DAY_S)
        digest = NAMESPACE.blob(LARGE).digest
        before = (await site.old.find_readable([digest]))[digest]
        for _ in range(4):
            await janitor.run()
        assert site.monitor.counters["compacted_packs"] > 0
        async with aclosing(site.old.segments(before)) as pieces:  # looked up before it moved
            assert b"".join([bytes(segment.data) async for segment in pieces]) == LARGE
        assert await site.get(LARGE) == LARGE


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO])
async def test_every_system_call_may_fail(tmp_path: Path, code: int) -> None:
    """Whatever fails, what was acknowledged is there, what was not is absent or right, and the next attempt works."""
    for call in range(1, 100):
        async with opened(tmp_path / str(call), rotate_bytes=3 << 20) as site:
            await site.put(SMALL)
            site.files.fail_any(code, call)
            try:
                await site.put(LARGE)
            except (NoSpace, Unavailable):
                pass
            else:
                if site.files.is_armed:
                    assert call > 5
                    return
                assert await site.get(LARGE) == LARGE
            assert await site.get(LARGE) in {None, LARGE}
            await site.put(LARGE)
            assert (await site.get(SMALL), await site.get(LARGE)) == (SMALL, LARGE)
    pytest.fail("No end of system calls")
