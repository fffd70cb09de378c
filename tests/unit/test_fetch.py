"""Fetching a tree into the cache, from a store in memory."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from pathlib import Path

import pytest

from isolate.cas.block import Absent, Block, ChunkList
from isolate.cas.cache import CachePolicy, LocalCache
from isolate.cas.digest import Blob, Codec, Namespace
from isolate.cas.memory import MemoryStore
from isolate.entries import Entry, Kind
from isolate.errors import BlobsMissing, InvalidDigest, InvalidManifest, IsolateError, StoredCorrupt, Unavailable
from isolate.fetch import fetch
from isolate.found import Fetched
from isolate.isolated import Manifest
from isolate.monitor import TallyMonitor
from tests.clock import ManualClock
from tests.stored import put, put_large, put_manifest, put_tree
from tests.trees import Executable, Link, Tree

NS = Namespace.parse("blake3-zstd")
TREE: Tree = {"a": b"one", "d": {"b": b"two" * 100, "x": Executable(b"one"), "e": {}}, "empty": b"", "l": Link("a")}

Record = Block | ChunkList | Absent


class WatchedStore(MemoryStore):
    """Counts what is read, and lets a test change what comes."""

    def __init__(self, namespace: Namespace) -> None:
        super().__init__(namespace)
        self.reads: list[int] = []
        self.change: Callable[[Record], Record] = lambda record: record
        self.fail_after: int | None = None
        self.most_open = self._open = 0

    async def read(self, blobs: Sequence[Blob]) -> AsyncIterator[Record]:
        self.reads.append(len(blobs))
        self._open += 1
        self.most_open = max(self.most_open, self._open)
        try:
            passed = 0
            async for record in super().read(blobs):
                if passed == self.fail_after:
                    raise Unavailable("Cut off")
                passed += 1
                await asyncio.sleep(0)
                yield self.change(record)
        finally:
            self._open -= 1


@pytest.fixture
def store() -> WatchedStore:
    return WatchedStore(NS)


@pytest.fixture
def cache(tmp_path: Path, monitor: TallyMonitor) -> Iterator[LocalCache]:
    with LocalCache.open(tmp_path / "cache", NS, CachePolicy(), ManualClock(), monitor) as cache:
        yield cache


async def fetched_from(store: MemoryStore, cache: LocalCache, root: str) -> Fetched:
    return await fetch(store, cache, root, TallyMonitor())


def cached(cache: LocalCache, content: bytes) -> bool:
    return not cache.absent([NS.blob(content)])


async def test_a_tree_arrives_as_a_whole(store: WatchedStore, cache: LocalCache, monitor: TallyMonitor) -> None:
    root = await put_tree(store, TREE)
    fetched = await fetch(store, cache, root, monitor)
    assert [entry.path for entry in fetched.tree.entries()] == ["a", "d/b", "d/e", "d/x", "empty", "l"]
    assert cached(cache, b"one")
    assert cached(cache, b"two" * 100)
    assert sorted(fetched.cold[1:]) == [3, 300]
    assert not fetched.hot
    assert monitor.expected == {"fetched_blobs": 2, "fetched_bytes": 303}
    counted = monitor.counters
    assert (counted["fetched_blobs"], counted["fetched_bytes"]) == (2, 303), "the whole, and no more"
    assert (counted["fetched_manifests"], counted["fetched_manifest_bytes"]) == (1, fetched.cold[0])
    assert fetched.downloaded_bytes == 303 + fetched.cold[0]


async def test_a_second_time_nothing_is_asked_for(store: WatchedStore, cache: LocalCache) -> None:
    root = await put_tree(store, TREE)
    first = await fetched_from(store, cache, root)
    store.reads.clear()
    second = await fetched_from(store, cache, root)
    assert store.reads == []
    assert not second.cold
    assert sorted(second.hot) == sorted(first.cold)
    assert list(second.tree.entries()) == list(first.tree.entries())


async def test_only_what_is_absent_is_kept(store: WatchedStore, cache: LocalCache) -> None:
    await put(store, [b"asked for", b"in the same block"])
    root = await put_manifest(
        store,
        Manifest(algorithm=NS.algorithm, entries=(Entry("a", Kind.FILE, NS.blob(b"asked for")),)),
    )
    await fetched_from(store, cache, root)
    assert cached(cache, b"asked for")
    assert not cached(cache, b"in the same block")


async def test_the_tree_is_pinned_until_released(store: WatchedStore, cache: LocalCache, tmp_path: Path) -> None:
    fetched = await fetched_from(store, cache, await put_tree(store, TREE))
    with LocalCache.open(tmp_path / "cache", NS, CachePolicy(max_items=1), ManualClock(), TallyMonitor()) as greedy:
        assert not greedy.trim()
        fetched.pin.release()
        assert greedy.trim().items == 2


async def test_many_small_files_in_parallel_reads(
    store: WatchedStore, cache: LocalCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("isolate.found.MIN_READ", 20)
    tree: Tree = {f"f{number:04}": b"%d" % number for number in range(61)}
    root = await put_tree(store, tree)
    fetched = await fetched_from(store, cache, root)
    assert len(fetched.cold) == 62
    assert store.most_open == 2
    assert store.reads == [1, 31, 30]
    assert cache.absent([NS.blob(content) for content in tree.values() if isinstance(content, bytes)]) == []


async def test_large_blobs_follow_their_recipe_into_one_file(store: WatchedStore, cache: LocalCache) -> None:
    zeros, noise = bytes(1 << 20), os.urandom(1 << 20)
    large = await put_large(store, [noise, zeros, zeros, b"tail", zeros])
    root = await put_manifest(store, Manifest(algorithm=NS.algorithm, entries=(Entry("big", Kind.FILE, large),)))
    fetched = await fetched_from(store, cache, root)
    assert cache.path(large).read_bytes() == noise + zeros + zeros + b"tail" + zeros
    assert large.size in fetched.cold
    assert not cached(cache, zeros)  # chunks are not kept
    assert cache.usage().items == 2


@pytest.mark.parametrize("is_damaged", [False, True])
async def test_a_chunk_that_is_also_a_small_file_is_taken_from_the_cache(
    store: WatchedStore, cache: LocalCache, is_damaged: bool
) -> None:
    small, noise = b"a small file" * 1000, os.urandom(1000)
    await fetched_from(store, cache, await put_tree(store, {"small": small}))
    if is_damaged:
        path = cache.path(NS.blob(small))
        path.chmod(0o644)
        path.write_bytes(small[::-1])
    large = await put_large(store, [small, noise, small])
    root = await put_manifest(store, Manifest(algorithm=NS.algorithm, entries=(Entry("big", Kind.FILE, large),)))
    store.reads.clear()
    fetched = await fetched_from(store, cache, root)
    assert cache.path(large).read_bytes() == small + noise + small
    assert store.reads == [1, 1, 2 if is_damaged else 1]  # the manifest, the recipe, the chunks that are not here
    assert sorted(fetched.cold[1:]) == [large.size]


async def test_a_recipe_that_lies_is_the_stores_fault(store: WatchedStore, cache: LocalCache) -> None:
    large = await put_large(store, [b"a" * 1000, b"b" * 1000])

    def swapped(record: Record) -> Record:
        return ChunkList(record.blob, record.chunks[::-1]) if isinstance(record, ChunkList) else record

    store.change = swapped
    root = await put_manifest(store, Manifest(algorithm=NS.algorithm, entries=(Entry("big", Kind.FILE, large),)))
    with pytest.raises(StoredCorrupt):
        await fetched_from(store, cache, root)
    assert cache.absent([large]) == [large]


async def test_a_recipe_inside_a_recipe_is_not_followed(store: WatchedStore, cache: LocalCache) -> None:
    inner = await put_large(store, [b"a" * 1000, b"b" * 1000])
    outer = NS.blob(b"a" * 1000 + b"b" * 1000 + b"c")

    def nested(record: Record) -> Record:
        if isinstance(record, Absent):
            return ChunkList(outer, (inner, NS.blob(b"c")))
        return record

    store.change = nested
    root = await put_manifest(store, Manifest(algorithm=NS.algorithm, entries=(Entry("big", Kind.FILE, outer),)))
    with pytest.raises(BlobsMissing, match="needed by 'big'"):
        await fetched_from(store, cache, root)


async def test_missing_blobs_name_the_path(store: WatchedStore, cache: LocalCache) -> None:
    gone = NS.blob(b"never stored")
    root = await put_manifest(store, Manifest(algorithm=NS.algorithm, entries=(Entry("d/gone", Kind.FILE, gone),)))
    with pytest.raises(BlobsMissing, match=rf"Blob {gone.digest.hex()} not found in the store, needed by 'd/gone'"):
        await fetched_from(store, cache, root)


async def test_a_missing_root(store: WatchedStore, cache: LocalCache) -> None:
    with pytest.raises(BlobsMissing, match=f"Blob {'00' * 32} not found in the store"):
        await fetched_from(store, cache, "00" * 32)
    with pytest.raises(InvalidDigest):
        await fetched_from(store, cache, "nonsense")
    with pytest.raises(InvalidManifest):
        await fetched_from(store, cache, NS.empty.digest.hex())


async def test_a_hash_of_something_else(store: WatchedStore, cache: LocalCache) -> None:
    (blob,) = await put(store, [b"just a file"])
    with pytest.raises(InvalidManifest, match="Not a manifest"):
        await fetched_from(store, cache, blob.digest.hex())


async def test_a_manifest_that_lies_about_a_size(store: WatchedStore, cache: LocalCache) -> None:
    (blob,) = await put(store, [b"four"])
    entry = Entry("a", Kind.FILE, Blob(blob.digest, 5))
    root = await put_manifest(store, Manifest(algorithm=NS.algorithm, entries=(entry,)))
    with pytest.raises(InvalidManifest, match="has 4 bytes, its manifest says 5"):
        await fetched_from(store, cache, root)


async def test_wrong_bytes_are_the_stores_fault(store: WatchedStore, cache: LocalCache) -> None:
    root = await put_tree(store, TREE)

    def flipped(record: Record) -> Record:
        if not isinstance(record, Block):
            return record
        plain = b"".join(content for _, content in record.contents())
        return Block(record.algorithm, Codec.IDENTITY, record.entries, plain[:-1] + bytes([plain[-1] ^ 1]))

    store.change = flipped
    with pytest.raises(StoredCorrupt, match="in the store"):
        await fetched_from(store, cache, root)
    assert cache.usage().items == 0


async def test_wrong_bytes_of_a_large_file_are_found_in_the_whole(
    store: WatchedStore, cache: LocalCache, tmp_path: Path
) -> None:
    large = await put_large(store, [b"a" * 1000, b"b" * 1000, b"c" * 1000])
    root = await put_manifest(store, Manifest(algorithm=NS.algorithm, entries=(Entry("big", Kind.FILE, large),)))

    def flipped(record: Record) -> Record:
        if not isinstance(record, Block) or b"b" * 1000 not in (plain := bytes(record.plain())):
            return record
        return Block(record.algorithm, Codec.IDENTITY, record.entries, plain.replace(b"bb", b"bc", 1))

    store.change = flipped
    with pytest.raises(StoredCorrupt, match="in the store") as caught:
        await fetched_from(store, cache, root)
    assert caught.value.blob == large
    assert cache.absent([large]) == [large]
    assert not [path for path in tmp_path.rglob("*") if path.is_file() and path.stat().st_size == large.size]


async def test_a_damaged_block_is_one_clear_error(store: WatchedStore, cache: LocalCache) -> None:
    root = await put_tree(store, TREE)

    def cut(record: Record) -> Record:
        return Block(NS.algorithm, Codec.ZSTD, record.entries, b"no frame") if isinstance(record, Block) else record

    store.change = cut
    with pytest.raises(IsolateError, match="The store sent a damaged block"):
        await fetched_from(store, cache, root)


async def test_a_store_that_fails_fails_the_fetch_once(store: WatchedStore, cache: LocalCache) -> None:
    root = await put_tree(store, {f"f{number:04}": os.urandom(100) for number in range(40)})
    await fetched_from(store, cache, root)
    store.fail_after = 0
    cache.drop(bytes.fromhex(root))
    with pytest.raises(Unavailable, match="Cut off"):
        await fetched_from(store, cache, root)
    store.fail_after = None
    assert len((await fetched_from(store, cache, root)).cold) == 1  # the rest was kept


async def test_a_failed_fetch_holds_no_pin(store: WatchedStore, cache: LocalCache) -> None:
    with pytest.raises(BlobsMissing):
        await fetched_from(store, cache, "00" * 32)
    assert list((cache.root / "sessions").glob("*/pin-*")) == []


async def test_includes_are_fetched_level_by_level(store: WatchedStore, cache: LocalCache) -> None:
    def one(path: str, content: bytes, *includes: str) -> Manifest:
        entry = Entry(path, Kind.FILE, NS.blob(content))
        return Manifest(
            algorithm=NS.algorithm, entries=(entry,), includes=tuple(bytes.fromhex(include) for include in includes)
        )

    await put(store, [b"mine", b"first", b"deep"])
    deep = await put_manifest(store, one("x", b"deep"))
    first = await put_manifest(store, one("x", b"first", deep))
    second = await put_manifest(store, one("y", b"overridden, and so never stored"))
    root = await put_manifest(store, one("y", b"mine", first, second))
    fetched = await fetched_from(store, cache, root)
    assert [(entry.path, entry.blob) for entry in fetched.tree.entries()] == [
        ("x", NS.blob(b"first")),
        ("y", NS.blob(b"mine")),
    ]
    assert store.reads == [1, 2, 1, 2]


async def test_a_cycle_of_includes_ends(store: WatchedStore, cache: LocalCache) -> None:
    twice = await put_manifest(store, Manifest(algorithm=NS.algorithm))
    digest = bytes.fromhex(twice)
    root = await put_manifest(store, Manifest(algorithm=NS.algorithm, includes=(digest, digest)))
    with pytest.raises(InvalidManifest, match="retrieved recursively"):
        await fetched_from(store, cache, root)


@pytest.mark.parametrize("name", ["default-gzip", "sha256-flat", "sha512-deflate"])
async def test_namespaces_of_2020(tmp_path: Path, name: str) -> None:
    namespace = Namespace.parse(name)
    store = MemoryStore(namespace)
    root = await put_tree(store, {"a": b"one", "d": {"b": b"two"}})
    with LocalCache.open(tmp_path / "cache", namespace, CachePolicy(), ManualClock(), TallyMonitor()) as cache:
        fetched = await fetched_from(store, cache, root.upper())
        assert cache.absent([entry.blob for entry in fetched.tree.entries() if entry.blob]) == []
        assert len(fetched.cold) == 3


async def test_cancelling_leaves_no_temporary_file(store: WatchedStore, cache: LocalCache) -> None:
    large = await put_large(store, [os.urandom(1 << 20) for _ in range(8)])
    root = await put_manifest(store, Manifest(algorithm=NS.algorithm, entries=(Entry("big", Kind.FILE, large),)))
    reached = asyncio.Event()

    def watching(record: Record) -> Record:
        if isinstance(record, Block) and len(record.entries) == 1 and record.plain_size == 1 << 20:
            reached.set()
        return record

    store.change = watching
    task = asyncio.ensure_future(fetched_from(store, cache, root))
    await reached.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert cache.absent([large]) == [large]
    assert [path.name for path in (cache.root / "sessions").glob("*/*") if path.name != "lock"] == []
