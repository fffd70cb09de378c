"""What the tests of eviction and compaction share: a store with its janitor, its clock and its disk."""

from __future__ import annotations

import random
import sqlite3
from collections.abc import AsyncIterator
from pathlib import Path

from isolate.cas.block import Absent, Block
from isolate.cas.digest import Blob, Namespace
from isolate.monitor import TallyMonitor
from server.stores.blobs import LocalBlobStore, LocalBlobStores
from server.stores.janitor import Janitor
from server.stores.limits import BlobLimits
from tests.clock import ManualClock
from tests.pack_faults import FaultyFiles
from tests.records import block_of, stream

NAMESPACE, TEMPORARY = Namespace.parse("blake3-zstd"), Namespace.parse("temporary-flat")
HOUR_S, DAY_S = 3600.0, 86400.0
LIMITS = BlobLimits(min_free_bytes=0)
RECORD_BYTES = 3000 + 28 + 36  # content, header, entry


class Site:
    """A directory with an open store, its janitor, its clock and its disk."""

    def __init__(self, root: Path) -> None:
        self.root, self.files, self.clock, self.monitor = root, FaultyFiles(), ManualClock(), TallyMonitor()

    async def open(
        self, limits: BlobLimits = LIMITS, *, rotate_bytes: int = 20_000, stopped_cleanly: bool = True
    ) -> None:
        self.stores = await LocalBlobStores.open(
            self.root, self.clock, self.monitor, limits, files=self.files, rotate_bytes=rotate_bytes
        )
        self.janitor = Janitor(self.stores, self.clock, stopped_cleanly=stopped_cleanly)
        self.stores.make_room = self.janitor.make_room

    def store(self, namespace: Namespace = NAMESPACE) -> LocalBlobStore:
        return self.stores.namespace(namespace)

    async def put(self, *contents: bytes, namespace: Namespace = NAMESPACE) -> list[Blob]:
        await self.store(namespace).write(stream(block_of(*contents, algorithm=namespace.algorithm)))
        return [namespace.blob(content) for content in contents]

    async def gone(self, *blobs: Blob) -> list[Blob]:
        return await self.store().missing(blobs)

    async def read(self, *blobs: Blob) -> dict[Blob, bytes]:
        found: dict[Blob, bytes] = {}
        async for record in self.store().read(blobs):
            if isinstance(record, Block):
                found.update((blob, bytes(content)) for blob, content in record.contents() if blob in blobs)
            assert not isinstance(record, Absent)
        return found

    def rows(self, statement: str) -> list[tuple[int, ...]]:
        """Ask the index directly."""
        with sqlite3.connect(self.root / "blobs.sqlite") as connection:
            rows = connection.execute(statement).fetchall()
        connection.close()
        return rows

    @property
    def pack_bytes(self) -> int:
        return sum(path.stat().st_size for path in self.root.rglob("*.pack"))


def content(number: int, size: int = 3000) -> bytes:
    return random.Random(number).randbytes(size)


async def half_dead(site: Site, count: int = 12) -> list[Blob]:
    """Fill packs of which every second record is old enough to go, and return the blobs that stay."""
    blobs = [blob for number in range(count) for blob in await site.put(content(number))]
    site.clock.advance(8 * DAY_S)
    await site.gone(*blobs[::2])
    return blobs[::2]


async def opened(tmp_path: Path) -> AsyncIterator[Site]:
    site = Site(tmp_path)
    await site.open()
    yield site
    await site.stores.close()
