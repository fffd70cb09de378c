"""Whether trees are whole."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence

import pytest

from isolate import isolated
from isolate.cas.block import Block
from isolate.cas.digest import Blob, Namespace
from isolate.cas.memory import MemoryStore
from isolate.cas.store import BlobStore
from isolate.entries import Entry, Kind
from isolate.errors import InvalidManifest
from server.inputs import TreeChecker
from swarming.model import FilesRef
from tests.clock import ManualClock

NAMESPACE = Namespace.parse("blake3-zstd")
PROMISED_S = 100.0


class CountingStore(MemoryStore):
    """Counts look-ups."""

    looked_up = 0

    async def missing(self, blobs: Sequence[Blob]) -> list[Blob]:
        self.looked_up += 1
        return await super().missing(blobs)


async def put(store: BlobStore, *contents: bytes) -> list[Blob]:
    blobs = [NAMESPACE.blob(content) for content in contents]

    async def blocks() -> AsyncIterator[Block]:
        yield Block.pack(NAMESPACE.algorithm, list(zip(blobs, contents, strict=True)), None)

    await store.write(blocks())
    return blobs


def manifest(files: dict[str, bytes], includes: Sequence[bytes] = ()) -> bytes:
    entries = tuple(Entry(path, Kind.FILE, NAMESPACE.blob(content), 0o500) for path, content in sorted(files.items()))
    return isolated.dumps(isolated.Manifest(algorithm=NAMESPACE.algorithm, entries=entries, includes=tuple(includes)))


def checker(store: BlobStore) -> tuple[TreeChecker, ManualClock]:
    clock = ManualClock()
    return TreeChecker(lambda _: store, clock, PROMISED_S), clock


def ref(blob: Blob, server: str = "") -> FilesRef:
    return FilesRef(blob.digest.hex(), server, NAMESPACE.name)


async def test_a_whole_tree_with_an_include_and_an_empty_file() -> None:
    store = MemoryStore(NAMESPACE)
    await put(store, b"1", b"2")
    (part,) = await put(store, manifest({"b": b"2"}))
    (root,) = await put(store, manifest({"a": b"1", "empty": b""}, [part.digest]))
    assert await checker(store)[0].check(ref(root)) is None


async def test_the_first_missing_path_is_named() -> None:
    store = MemoryStore(NAMESPACE)
    await put(store, b"1")
    (root,) = await put(store, manifest({"a": b"1", "b/c": b"2", "d": b"3"}))
    assert await checker(store)[0].check(ref(root)) == "b/c"


async def test_a_missing_manifest_or_include_is_named() -> None:
    store = MemoryStore(NAMESPACE)
    part = NAMESPACE.blob(manifest({"b": b""}))
    root = NAMESPACE.blob(manifest({"a": b""}, [part.digest]))
    assert await checker(store)[0].check(ref(root)) == f"{root.digest.hex()} (the .isolated itself)"
    await put(store, manifest({"a": b""}, [part.digest]))
    assert await checker(store)[0].check(ref(root)) == f"{part.digest.hex()} (an include)"


async def test_a_manifest_in_chunks_is_read() -> None:
    store = MemoryStore(NAMESPACE)
    whole = manifest({"a": b""})
    chunks = await put(store, whole[:10], whole[10:])
    root = NAMESPACE.blob(whole)
    await store.compose(root, chunks)
    assert await checker(store)[0].check(ref(root)) is None


async def test_something_that_is_no_tree_is_refused() -> None:
    store = MemoryStore(NAMESPACE)
    (blob,) = await put(store, b"just text")
    with pytest.raises(InvalidManifest):
        await checker(store)[0].check(ref(blob))


async def test_trees_elsewhere_are_taken_to_be_whole() -> None:
    store = CountingStore(NAMESPACE)
    check = checker(store)[0].check
    assert await check(ref(NAMESPACE.blob(b"?"), "https://elsewhere")) is None
    assert await check(FilesRef(None)) is None
    assert store.looked_up == 0


async def test_a_whole_tree_is_walked_again_only_after_half_the_promise() -> None:
    store = CountingStore(NAMESPACE)
    await put(store, b"1")
    (root,) = await put(store, manifest({"a": b"1"}))
    check, clock = checker(store)
    assert await check.check(ref(root)) is None
    clock.advance(PROMISED_S / 2 - 1)
    assert await check.check(ref(root)) is None
    assert store.looked_up == 1
    clock.advance(2)
    assert await check.check(ref(root)) is None
    assert store.looked_up == 2


async def test_a_tree_that_was_not_whole_is_looked_at_again() -> None:
    store = MemoryStore(NAMESPACE)
    (root,) = await put(store, manifest({"a": b"1"}))
    check = checker(store)[0].check
    assert await check(ref(root)) == "a"
    await put(store, b"1")
    assert await check(ref(root)) is None


async def test_shards_that_come_together_share_one_walk() -> None:
    store = CountingStore(NAMESPACE)
    await put(store, b"1")
    (root,) = await put(store, manifest({"a": b"1"}))
    check = checker(store)[0].check
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(check(ref(root))) for _ in range(10)]
    assert [task.result() for task in tasks] == [None] * 10
    assert store.looked_up == 1
