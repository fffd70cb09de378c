"""How far the fetch of a large file is, while its chunks come."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Iterator, Sequence
from pathlib import Path

import pytest

from isolate.cas.block import Absent, Block, ChunkList
from isolate.cas.cache import CachePolicy, LocalCache
from isolate.cas.digest import Blob, Namespace
from isolate.cas.memory import MemoryStore
from isolate.entries import Entry, Kind
from isolate.errors import StoredCorrupt
from isolate.fetch import fetch
from isolate.isolated import Manifest
from isolate.monitor import TallyMonitor
from isolate.progress import Progress, Stage
from isolate.receiving import AHEAD
from tests.clock import ManualClock
from tests.stored import put, put_large, put_manifest

NS = Namespace.parse("blake3-zstd")
CHUNK_BYTES = 1000
CHUNKS = 5 * AHEAD


class Looking(MemoryStore):
    """Notes how far the work is each time that it sends a block."""

    def __init__(self, monitor: TallyMonitor) -> None:
        super().__init__(NS)
        self.seen: list[Stage] = []
        self._monitor = monitor

    async def read(self, blobs: Sequence[Blob]) -> AsyncIterator[Block | ChunkList | Absent]:
        async for record in super().read(blobs):
            self.seen += Progress().stages(dict(self._monitor.counters), self._monitor.expected, 0.0)
            yield record


@pytest.fixture
def cache(tmp_path: Path, monitor: TallyMonitor) -> Iterator[LocalCache]:
    with LocalCache.open(tmp_path / "cache", NS, CachePolicy(), ManualClock(), monitor) as cache:
        yield cache


async def stored(store: MemoryStore, chunks: Sequence[bytes]) -> tuple[str, Blob]:
    """Have a large file and a small one in `store`; returns the hash of their tree, and the large one."""
    await put(store, dict.fromkeys(chunks), target_bytes=1)  # a block for each
    large = await put_large(store, chunks)
    (small,) = await put(store, [b"small"])
    entries = (Entry("large", Kind.FILE, large), Entry("small", Kind.FILE, small))
    return await put_manifest(store, Manifest(algorithm=NS.algorithm, entries=entries)), large


async def test_a_large_file_is_told_while_it_comes(
    cache: LocalCache, monitor: TallyMonitor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("isolate.receiving.GROUP_BYTES", CHUNK_BYTES)  # each record is handled alone
    store = Looking(monitor)
    zeros = bytes(CHUNK_BYTES)
    root, large = await stored(store, [zeros, *(os.urandom(CHUNK_BYTES) for _ in range(CHUNKS)), zeros])
    await fetch(store, cache, root, monitor)
    done = [stage.done_bytes for stage in store.seen]
    assert done == sorted(done)
    assert len({size for size in done if 5 < size < large.size}) > 2, "it moves while chunks are on their way"
    assert {(stage.done_files, stage.total_files) for stage in store.seen} <= {(0, 2), (1, 2)}, "of two files, one came"
    assert monitor.counters["fetched_bytes"] == monitor.expected["fetched_bytes"] == large.size + 5, "once each"


class Lying(MemoryStore):
    """Gives the recipe of another file."""

    def __init__(self) -> None:
        super().__init__(NS)
        self.instead: dict[Blob, Blob] = {}

    async def read(self, blobs: Sequence[Blob]) -> AsyncIterator[Block | ChunkList | Absent]:
        async for record in super().read([self.instead.get(blob, blob) for blob in blobs]):
            asked = {real: blob for blob, real in self.instead.items()}
            yield ChunkList(asked[record.blob], record.chunks) if isinstance(record, ChunkList) else record


async def test_what_came_of_a_file_that_is_wrong_is_taken_back(cache: LocalCache, monitor: TallyMonitor) -> None:
    store = Lying()
    large = await put_large(store, [b"a" * 1000, b"b" * 1000])
    wanted = Blob(NS.blob(b"another").digest, large.size)
    store.instead[wanted] = large
    root = await put_manifest(store, Manifest(algorithm=NS.algorithm, entries=(Entry("large", Kind.FILE, wanted),)))
    with pytest.raises(StoredCorrupt):
        await fetch(store, cache, root, monitor)
    assert (monitor.counters["fetched_bytes"], monitor.expected["fetched_bytes"]) == (0, large.size)
