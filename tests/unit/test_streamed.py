"""A large blob is hashed while its chunks come: composing it reads nothing, and anything else is read as before."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import pytest

from isolate.cas.block import Block
from isolate.cas.digest import BLAKE3, Namespace
from isolate.errors import UploadCorrupt
from isolate.monitor import NullMonitor
from server.stores import streamed
from server.stores.blobs import LocalBlobStores
from server.stores.limits import BlobLimits
from server.stores.streamed import PassingBlob, StreamedBlobs
from tests.clock import ManualClock
from tests.pack_faults import FaultyFiles
from tests.records import blob_of, block_of, stream

NAMESPACE = Namespace.parse("blake3-zstd")
MIN_BYTES = 1_000  # of a chunk, in these tests
CHUNKS = [random.Random(number).randbytes(MIN_BYTES + number) for number in range(6)]
LAST = b"a short one"
WHOLE = b"".join([*CHUNKS, LAST])


class Counted(FaultyFiles):
    """Counts how often packs are read."""

    reads = 0

    def read(self, path: Path, places: Sequence[tuple[int, int]]) -> list[bytes]:
        self.reads += 1
        return super().read(path, places)


@pytest.fixture(autouse=True)
def _small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streamed, "MIN_CHUNK_BYTES", MIN_BYTES)


@pytest.fixture
def files() -> Counted:
    return Counted()


@pytest.fixture
async def stores(tmp_path: Path, files: Counted) -> AsyncIterator[LocalBlobStores]:
    stores = await LocalBlobStores.open(
        tmp_path, ManualClock(), NullMonitor(), BlobLimits(min_free_bytes=0), files=files
    )
    yield stores
    assert stores.ingest.used_bytes == 0
    await stores.close()


async def _send(stores: LocalBlobStores, *contents: bytes) -> None:
    await stores.namespace(NAMESPACE).write(stream(*map(block_of, contents)))


async def _compose(stores: LocalBlobStores, whole: bytes, *contents: bytes) -> None:
    store = stores.namespace(NAMESPACE)
    await store.compose(blob_of(whole), [blob_of(content) for content in contents])
    assert await store.missing([blob_of(whole)]) == []


async def test_what_came_in_one_stream_is_not_read_again(stores: LocalBlobStores, files: Counted) -> None:
    await _send(stores, *CHUNKS, LAST)
    await _compose(stores, WHOLE, *CHUNKS, LAST)
    assert files.reads == 0
    pieces = stores.namespace(NAMESPACE).pieces(blob_of(WHOLE).digest, 0, len(WHOLE))
    assert b"".join([bytes(piece) async for piece in pieces]) == WHOLE


async def test_another_digest_than_that_of_the_stream_is_refused(stores: LocalBlobStores, files: Counted) -> None:
    await _send(stores, *CHUNKS)
    store, wrong = stores.namespace(NAMESPACE), blob_of(b"x" * len(b"".join(CHUNKS)))
    with pytest.raises(UploadCorrupt) as caught:
        await store.compose(wrong, [blob_of(chunk) for chunk in CHUNKS])
    assert caught.value.found == blob_of(b"".join(CHUNKS)).digest
    assert files.reads == 0


async def test_another_order_is_read(stores: LocalBlobStores, files: Counted) -> None:
    await _send(stores, *CHUNKS)
    await _compose(stores, b"".join(reversed(CHUNKS)), *reversed(CHUNKS))
    assert files.reads


async def test_chunks_of_two_uploads_are_read(stores: LocalBlobStores, files: Counted) -> None:
    await _send(stores, *CHUNKS[:2])
    await _send(stores, *CHUNKS[2:])
    await _compose(stores, b"".join(CHUNKS), *CHUNKS)
    assert files.reads


async def test_a_stream_that_broke_is_not_believed(stores: LocalBlobStores, files: Counted) -> None:
    bad = Block.pack(BLAKE3, [(blob_of(b"right"), b"wrong")], None)
    store = stores.namespace(NAMESPACE)
    with pytest.raises(UploadCorrupt):
        await store.write(stream(*map(block_of, CHUNKS), bad))
    await _compose(stores, b"".join(CHUNKS), *CHUNKS)
    assert files.reads


def _passed(*contents: bytes, order: Sequence[int] = ()) -> PassingBlob:
    passing = PassingBlob(BLAKE3)
    for number in order or range(len(contents)):
        passing.add(number, (blob_of(contents[number]),), memoryview(contents[number]))
    return passing


def test_blocks_are_hashed_in_the_order_of_the_stream_however_they_are_verified() -> None:
    assert _passed(*CHUNKS, order=[3, 1, 0, 5, 2, 4]).digest() == BLAKE3.digest(b"".join(CHUNKS))


@pytest.mark.parametrize(
    "contents",
    [[], CHUNKS[:1], [LAST, *CHUNKS], [LAST, LAST], [*CHUNKS, LAST, LAST]],
    ids=["nothing", "one block", "short first", "small files", "short before the end"],
)
def test_what_are_no_chunks_has_no_digest(contents: list[bytes]) -> None:
    assert _passed(*contents).digest() is None


def test_small_files_together_end_the_hashing() -> None:
    passing = _passed(*CHUNKS)
    passing.add(len(CHUNKS), (blob_of(b"a"), blob_of(b"b")), memoryview(b"b"))
    assert passing.digest() is None


def test_the_oldest_of_many_is_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streamed, "MAX_REMEMBERED", 2)
    blobs = StreamedBlobs()
    pairs = [CHUNKS[number : number + 2] for number in range(3)]
    for pair in pairs:
        blobs.remember("a", _passed(*pair))
    found = [blobs.digest("a", [blob_of(chunk) for chunk in pair]) for pair in pairs]
    assert found == [None, *[BLAKE3.digest(b"".join(pair)) for pair in pairs[1:]]]
    assert blobs.digest("b", [blob_of(chunk) for chunk in pairs[2]]) is None
