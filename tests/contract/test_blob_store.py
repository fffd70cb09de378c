"""What every `BlobStore` does: one body, all backends."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncGenerator, AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from isolate.cas.block import Absent, Block, ChunkList
from isolate.cas.digest import Blob, Namespace
from isolate.cas.store import MAX_BATCH, BlobStore, Written
from isolate.errors import ChunksMissing, InvalidInput, TooLarge, UploadCorrupt
from tests.contract.blob_backends import BACKENDS, Backend
from tests.records import blob_of, block_of, stream

NAMESPACE = Namespace.parse("blake3-zstd")
A, B, C, D = b"content a", b"content b" * 1000, random.Random(3).randbytes(3000), b"d"


@pytest.fixture(params=BACKENDS)
async def backend(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Backend]:
    async with BACKENDS[request.param](tmp_path) as opened:
        yield opened


@pytest.fixture
def store(backend: Backend) -> BlobStore:
    return backend.store(NAMESPACE)


async def put(store: BlobStore, *contents: bytes) -> Written:
    """Write all contents in one block."""
    return await store.write(stream(block_of(*contents, algorithm=store.namespace.algorithm)))


@dataclass
class Seen:
    """What a `read` gave; verified contents, also those nobody asked for."""

    contents: dict[Blob, bytes] = field(default_factory=dict)
    recipes: list[ChunkList] = field(default_factory=list)
    absent: list[bytes] = field(default_factory=list)
    blocks: int = 0


async def read(store: BlobStore, *blobs: Blob) -> Seen:
    seen = Seen()
    async for record in store.read(blobs):
        match record:
            case Block():
                seen.blocks += 1
                seen.contents.update((blob, bytes(content)) for blob, content in record.contents())
            case ChunkList():
                seen.recipes.append(record)
            case Absent(digests):
                seen.absent += digests
    return seen


async def lacks(store: BlobStore, *contents: bytes) -> list[bytes]:
    """Return those of `contents` that `store` says are missing."""
    by_blob = {store.namespace.blob(content): content for content in contents}
    return [by_blob[blob] for blob in await store.missing(list(by_blob))]


# missing


async def test_missing_keeps_order_and_duplicates(store: BlobStore) -> None:
    await put(store, B)
    d, a, b = blob_of(D), blob_of(A), blob_of(B)
    assert await store.missing([d, a, b, d, b, a]) == [d, a, d, a]
    assert await store.missing([]) == []


async def test_the_empty_blob_is_present_everywhere(store: BlobStore) -> None:
    empty = store.namespace.empty
    assert await store.missing([empty, blob_of(A)]) == [blob_of(A)]
    assert await read(store, empty) == Seen()


async def test_a_batch_has_a_limit(store: BlobStore) -> None:
    blobs = [Blob(number.to_bytes(32, "big"), 1) for number in range(MAX_BATCH + 1)]
    assert await store.missing(blobs[1:]) == blobs[1:]
    with pytest.raises(TooLarge):
        await store.missing(blobs)


# write


async def test_what_was_written_is_read(store: BlobStore) -> None:
    blocks = [block_of(A, B), block_of(C, level=None), block_of(D)]
    assert await store.write(stream(*blocks)) == Written(4, 0, len(A + B + C + D))
    assert await lacks(store, A, B, C, D) == []
    seen = await read(store, *map(blob_of, (A, B, C, D)))
    assert seen.contents == {blob_of(content): content for content in (A, B, C, D)}
    assert (seen.recipes, seen.absent) == ([], [])


async def test_writing_again_changes_nothing(store: BlobStore) -> None:
    await put(store, A, B)
    assert await put(store, A, B) == Written(0, 2, 0)
    assert (await read(store, blob_of(A))).contents[blob_of(A)] == A


async def test_of_a_partly_present_block_the_rest_is_stored(store: BlobStore) -> None:
    await put(store, A)
    assert await put(store, A, B, C) == Written(2, 1, len(B + C))
    seen = await read(store, blob_of(A), blob_of(B), blob_of(C))
    assert {blob_of(A), blob_of(B), blob_of(C)} <= seen.contents.keys()


async def test_a_blob_twice_in_one_stream_is_stored_once(store: BlobStore) -> None:
    assert await store.write(stream(block_of(A, B, A), block_of(B))) == Written(2, 2, len(A + B))


async def test_writing_nothing(store: BlobStore) -> None:
    assert await store.write(stream()) == Written(0, 0, 0)


async def test_a_wrong_block_ends_a_write_and_keeps_those_before(store: BlobStore) -> None:
    wrong = Block.pack(NAMESPACE.algorithm, [(blob_of(C), C), (blob_of(B), B[::-1])], 1)
    with pytest.raises(UploadCorrupt) as caught:
        await store.write(stream(block_of(A), wrong, block_of(D)))
    assert (caught.value.blob.digest, caught.value.found) == (blob_of(B).digest, blob_of(B[::-1]).digest)
    assert await lacks(store, A, B, C, D) == [B, C, D]
    assert await put(store, B, C, D) == Written(3, 0, len(B + C + D))


async def test_a_block_that_cannot_be_opened_is_refused(store: BlobStore) -> None:
    good = block_of(B)
    broken = Block(good.algorithm, good.codec, good.entries, bytes(good.payload)[:-1] + b"\xff")
    with pytest.raises((InvalidInput, UploadCorrupt)):
        await store.write(stream(block_of(A), broken))
    assert await lacks(store, A, B) == [B]


async def test_a_block_of_another_algorithm_is_refused(store: BlobStore) -> None:
    other = block_of(A, algorithm=Namespace.parse("sha256-flat").algorithm)
    with pytest.raises(InvalidInput):
        await store.write(stream(other))
    assert await lacks(store, A) == [A]


class SourceBroken(Exception):
    """Nothing a store could raise by itself."""


async def test_what_the_source_raises_arrives_unchanged(store: BlobStore) -> None:
    async def source() -> AsyncIterator[Block]:
        yield block_of(A)
        raise SourceBroken

    with pytest.raises(SourceBroken):
        await store.write(source())
    await put(store, A, B)
    assert await lacks(store, A, B) == []
    assert (await read(store, blob_of(A))).contents[blob_of(A)] == A


async def test_a_source_may_fail_before_its_first_block(store: BlobStore) -> None:
    async def source() -> AsyncIterator[Block]:
        raise SourceBroken
        yield block_of(A)

    with pytest.raises(SourceBroken):
        await store.write(source())
    assert await put(store, A) == Written(1, 0, len(A))


async def test_a_canceled_write_leaves_the_store_usable(store: BlobStore) -> None:
    asked_twice = asyncio.Event()

    async def source() -> AsyncIterator[Block]:
        yield block_of(A)
        asked_twice.set()
        await asyncio.Event().wait()

    async with asyncio.timeout(30):
        writing = asyncio.ensure_future(store.write(source()))
        await asked_twice.wait()
        writing.cancel()
        with pytest.raises(asyncio.CancelledError):
            await writing
        await put(store, A, B)
    assert await lacks(store, A, B) == []


async def test_concurrent_writers_of_the_same_blobs(store: BlobStore) -> None:
    contents = [f"content {number}".encode() * 50 for number in range(40)]

    async def writer(seed: int) -> Written:
        mine = random.Random(seed).sample(contents, len(contents))
        return await store.write(stream(*(block_of(*mine[start : start + 5]) for start in range(0, 40, 5))))

    async with asyncio.TaskGroup() as group:
        writers = [group.create_task(writer(seed)) for seed in range(4)]
    written = [task.result() for task in writers]
    assert all(each.stored + each.present == 40 for each in written)
    assert sum(each.stored for each in written) == 40
    assert sum(each.size_bytes for each in written) == sum(map(len, contents))
    seen = await read(store, *map(blob_of, contents))
    assert seen.contents == {blob_of(content): content for content in contents}


# compose


async def composed(store: BlobStore, *parts: bytes) -> Blob:
    """Compose the concatenation of `parts`, which are stored already."""
    blob = store.namespace.blob(b"".join(parts))
    await store.compose(blob, [store.namespace.blob(part) for part in parts])
    return blob


async def test_a_composed_blob_is_its_chunks_in_order(store: BlobStore) -> None:
    await put(store, A, B)
    await put(store, C)
    assert await lacks(store, C + A + B + A) == [C + A + B + A]
    blob = await composed(store, C, A, B, A)
    assert await store.missing([blob]) == []
    seen = await read(store, blob)
    assert (seen.recipes, seen.absent) == ([ChunkList(blob, tuple(map(blob_of, (C, A, B, A))))], [])
    chunks = (await read(store, *seen.recipes[0].chunks)).contents
    assert b"".join(chunks[chunk] for chunk in seen.recipes[0].chunks) == C + A + B + A


async def test_composing_again_is_fine(store: BlobStore) -> None:
    await put(store, A, B, C, D)
    assert await composed(store, A, B) == await composed(store, A, B)
    await put(store, A + D)
    assert await store.missing([await composed(store, A, D)]) == []


async def test_composing_says_which_chunks_are_missing(store: BlobStore) -> None:
    await put(store, A)
    with pytest.raises(ChunksMissing) as caught:
        await composed(store, C, A, B)
    assert set(caught.value.digests) == {blob_of(C).digest, blob_of(B).digest}
    assert await lacks(store, C + A + B) == [C + A + B]
    await put(store, B, C)
    assert await store.missing([await composed(store, C, A, B)]) == []


async def test_composing_the_wrong_content_is_refused(store: BlobStore) -> None:
    await put(store, A, B)
    with pytest.raises(UploadCorrupt) as caught:
        await store.compose(blob_of(A + B), [blob_of(B), blob_of(A)])
    assert (caught.value.blob.digest, caught.value.found) == (blob_of(A + B).digest, blob_of(B + A).digest)
    assert await lacks(store, A + B) == [A + B]


@pytest.mark.parametrize(("sizes", "total"), [
    ([9, 8999], 9009), ([9, 9000], 9008), ([9, 9000], 9010), ([10, 8999], 9009), ([0, 9009], 9009), ([], 9009), ([], 0),
])  # fmt: skip
async def test_sizes_that_are_wrong_are_refused(store: BlobStore, sizes: list[int], total: int) -> None:
    assert (len(A), len(B)) == (9, 9000)
    await put(store, A, B)
    chunks = [Blob(blob_of(part).digest, size) for part, size in zip((A, B), sizes, strict=False)]
    with pytest.raises((InvalidInput, UploadCorrupt)):
        await store.compose(Blob(blob_of(A + B).digest, total), chunks)
    assert await lacks(store, A + B) == [A + B]


async def test_a_chunk_is_a_stored_blob_not_a_composed_one(store: BlobStore) -> None:
    """A recipe of recipes would have to be followed without bound: such a chunk must be stored itself first."""
    await put(store, A, B, D)
    await composed(store, A, B)
    with pytest.raises(ChunksMissing) as caught:
        await composed(store, A + B, D)
    assert caught.value.digests == (blob_of(A + B).digest,)
    await put(store, A + B)
    assert await store.missing([await composed(store, A + B, D)]) == []


async def test_concurrent_composers_of_one_blob(store: BlobStore) -> None:
    parts = [random.Random(number).randbytes(100_000) for number in range(8)]
    await put(store, *parts)
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(composed(store, *parts)) for _ in range(4)]
    assert await store.missing([task.result() for task in tasks]) == []


# read


async def test_read_tells_what_is_absent(store: BlobStore) -> None:
    await put(store, A)
    seen = await read(store, blob_of(C), blob_of(A), blob_of(B))
    assert sorted(seen.absent) == sorted([blob_of(C).digest, blob_of(B).digest])
    assert seen.contents == {blob_of(A): A}


async def test_read_mixes_blocks_recipes_and_absent_ones(store: BlobStore) -> None:
    await put(store, A, B)
    blob = await composed(store, A, B)
    seen = await read(store, blob_of(C), blob, blob_of(B))
    assert [recipe.blob for recipe in seen.recipes] == [blob]
    assert seen.contents[blob_of(B)] == B
    assert seen.absent == [blob_of(C).digest]


async def test_reading_a_blob_twice_brings_it_once(store: BlobStore) -> None:
    await put(store, A)
    seen = await read(store, blob_of(A), blob_of(A))
    assert (seen.blocks, seen.contents) == (1, {blob_of(A): A})


async def test_neighbours_come_in_one_block(store: BlobStore) -> None:
    await put(store, A, B, C)
    assert (await read(store, blob_of(A), blob_of(B), blob_of(C))).blocks == 1


async def test_reading_nothing(store: BlobStore) -> None:
    assert await read(store) == Seen()


async def test_a_reader_may_leave_early(store: BlobStore) -> None:
    contents = [random.Random(number).randbytes(1 << 20) for number in range(8)]
    await store.write(stream(*map(block_of, contents)))
    records = store.read([blob_of(content) for content in contents])
    assert isinstance(await anext(records), Block)
    assert isinstance(records, AsyncGenerator)
    await records.aclose()
    assert (await read(store, blob_of(contents[7]))).contents[blob_of(contents[7])] == contents[7]


async def test_sizes_are_not_needed_to_read(store: BlobStore) -> None:
    """The root of a tree is known by its hash alone."""
    await put(store, A)
    assert (await read(store, Blob(blob_of(A).digest, 0))).contents == {blob_of(A): A}
    assert await store.missing([Blob(blob_of(A).digest, 0)]) == []


# namespaces and time


@pytest.mark.parametrize(
    "name", ["default", "default-gzip", "sha256-flat", "sha512-deflate", "blake3-zstd", "blake3-flat"]
)
async def test_every_algorithm(backend: Backend, name: str) -> None:
    store = backend.store(Namespace.parse(name))
    algorithm = store.namespace.algorithm
    blobs = [blob_of(content, algorithm) for content in (A, B, C)]
    assert await store.missing(blobs) == blobs
    assert await put(store, A, B) == Written(2, 0, len(A + B))
    blob = await composed(store, A, B)
    assert await store.missing([*blobs, blob]) == [blobs[2]]
    seen = await read(store, *blobs, blob)
    assert seen.contents == {blobs[0]: A, blobs[1]: B}
    assert (seen.recipes, seen.absent) == ([ChunkList(blob, (blobs[0], blobs[1]))], [blobs[2].digest])


async def test_namespaces_share_nothing(backend: Backend) -> None:
    await put(backend.store(NAMESPACE), A)
    assert await lacks(backend.store(Namespace.parse("blake3-flat")), A) == [A]


async def test_what_was_acknowledged_survives_a_reopening(backend: Backend) -> None:
    await put(backend.store(NAMESPACE), A, B)
    blob = await composed(backend.store(NAMESPACE), A, B)
    await backend.reopen()
    store = backend.store(NAMESPACE)
    assert await store.missing([blob, blob_of(A), blob_of(B), blob_of(C)]) == [blob_of(C)]
    seen = await read(store, blob, blob_of(A), blob_of(B))
    assert (seen.contents, len(seen.recipes)) == ({blob_of(A): A, blob_of(B): B}, 1)
    assert await put(store, A, C) == Written(1, 1, len(C))


async def test_large_blobs_in_many_blocks(store: BlobStore) -> None:
    parts = [random.Random(number).randbytes(700_000) for number in range(12)]
    await store.write(stream(*map(block_of, parts)))
    blob = await composed(store, *parts)
    recipe = (await read(store, blob)).recipes[0]
    contents: dict[Blob, bytes] = (await read(store, *recipe.chunks)).contents
    assert b"".join(contents[chunk] for chunk in recipe.chunks) == b"".join(parts)
