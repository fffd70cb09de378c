"""Composing: chunks are read and hashed a batch at a time, whatever blocks they lie in and however often they occur."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import pytest

from isolate.cas.digest import Namespace
from isolate.errors import UploadCorrupt
from isolate.monitor import NullMonitor
from server.stores import recipes
from server.stores.blobs import LocalBlobStore, LocalBlobStores
from server.stores.limits import BlobLimits
from tests.clock import ManualClock
from tests.pack_faults import FaultyFiles
from tests.records import blob_of, block_of, stream

NAMESPACE = Namespace.parse("blake3-zstd")
CHUNKS = [random.Random(number).randbytes(1000 + number) for number in range(12)]


class Counted(FaultyFiles):
    """Counts how often packs are read."""

    reads = 0

    def read(self, path: Path, places: Sequence[tuple[int, int]]) -> list[bytes]:
        self.reads += 1
        return super().read(path, places)


@pytest.fixture
def files() -> Counted:
    return Counted()


@pytest.fixture
async def store(tmp_path: Path, files: Counted) -> AsyncIterator[LocalBlobStore]:
    limits = BlobLimits(min_free_bytes=0)
    stores = await LocalBlobStores.open(tmp_path, ManualClock(), NullMonitor(), limits, files=files)
    store = stores.namespace(NAMESPACE)
    # Some blocks hold one chunk, others several.
    await store.write(stream(*[block_of(chunk) for chunk in CHUNKS[:8]], block_of(*CHUNKS[8:])))
    files.reads = 0
    yield store
    assert stores.ingest.used_bytes == 0
    await stores.close()


@pytest.mark.parametrize(("batch_bytes", "reads"), [(1, 9), (2_100, 5), (1 << 20, 1)])
async def test_neighbours_are_read_together(
    store: LocalBlobStore, files: Counted, monkeypatch: pytest.MonkeyPatch, batch_bytes: int, reads: int
) -> None:
    monkeypatch.setattr(recipes, "BATCH_BYTES", batch_bytes)
    whole = blob_of(b"".join(CHUNKS))
    await store.compose(whole, [blob_of(chunk) for chunk in CHUNKS])
    assert files.reads == reads
    assert await store.missing([whole]) == []


async def test_a_block_that_comes_again_is_of_the_next_batch(store: LocalBlobStore, files: Counted) -> None:
    order = [0, 1, 0, 8, 9, 1, 8, 8, 0]
    whole = blob_of(b"".join(CHUNKS[number] for number in order))
    await store.compose(whole, [blob_of(CHUNKS[number]) for number in order])
    assert files.reads == 3
    assert await store.missing([whole]) == []


async def test_a_wrong_order_is_found_within_a_batch(store: LocalBlobStore) -> None:
    with pytest.raises(UploadCorrupt):
        await store.compose(blob_of(CHUNKS[0] + CHUNKS[1]), [blob_of(CHUNKS[1]), blob_of(CHUNKS[0])])
