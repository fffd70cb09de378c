"""isolate.large: large files, sent while they are read, and read once."""

from __future__ import annotations

import asyncio
import os
import random
import time
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from isolate import large, sender
from isolate.archive import ArchiveOptions, archive_file, archive_tree
from isolate.cas.block import Block, ChunkList
from isolate.cas.digest import Blob, Namespace
from isolate.cas.memory import MemoryStore
from isolate.cas.store import Written
from isolate.cas.wire import CHUNKED_ABOVE_BYTES
from isolate.clock import SystemClock
from isolate.crew import GrowingCrew
from isolate.effort import Threads
from isolate.errors import ChunksMissing, FileChanged, InvalidInput, IsolateError, Refused, TooLarge, Unavailable
from isolate.hashing import FileReader, Stopped
from isolate.isolated import loads
from isolate.large import LargeFile, Stored
from isolate.monitor import Monitor, NullMonitor, TallyMonitor
from isolate.upload import Wanted
from tests.clock import ManualClock

OURS = Namespace.parse("blake3-zstd")
PLAIN = random.Random(5).randbytes(30 << 20)


class Noting(MemoryStore):
    """Notes what it is asked and sent."""

    def __init__(self) -> None:
        super().__init__(OURS)
        self.asked: list[int] = []
        self.writes: list[int] = []
        self.composed = 0
        self.errors: list[IsolateError] = []

    async def missing(self, blobs: Sequence[Blob]) -> list[Blob]:
        self.asked.append(len(blobs))
        return await super().missing(blobs)

    async def write(self, blocks: AsyncIterator[Block]) -> Written:
        written = await super().write(self._checked(blocks))
        self.writes.append(written.stored + written.present)
        return written

    async def compose(self, blob: Blob, chunks: Sequence[Blob]) -> None:
        self.composed += 1
        await super().compose(blob, chunks)

    async def _checked(self, blocks: AsyncIterator[Block]) -> AsyncIterator[Block]:
        async for block in blocks:
            if self.errors:
                raise self.errors.pop()
            yield block


class Impatient(ManualClock):
    async def sleep(self, delay_s: float) -> None:
        self.advance(delay_s)


async def sent(path: Path, store: MemoryStore, told: Any = lambda *_: None, reader: FileReader | None = None) -> Stored:
    threads = Threads(2, SystemClock())
    try:
        return await LargeFile(str(path), store, reader or FileReader(OURS.algorithm), threads, told).store()
    finally:
        threads.close()


async def archived(root: Path, store: MemoryStore, monitor: Monitor | None = None) -> Blob | None:
    options = ArchiveOptions(workers=0, clock=Impatient())
    result = await archive_tree(root, store, options, monitor or NullMonitor())
    return loads(result.manifest, OURS).entries[0].blob


async def content(store: MemoryStore, blob: Blob) -> bytes:
    (recipe,) = [record async for record in store.read([blob])]
    assert isinstance(recipe, ChunkList)
    held = {
        one.digest: bytes(plain)
        async for block in store.read(recipe.chunks)
        if isinstance(block, Block)
        for one, plain in block.contents()
    }
    return b"".join([held[chunk.digest] for chunk in recipe.chunks])


async def test_a_file_is_read_once_and_its_chunks_are_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "f").write_bytes(PLAIN)
    read: list[int] = []
    real = os.readv

    def noted(descriptor: int, buffers: Sequence[memoryview]) -> int:
        read.append(real(descriptor, buffers))
        return read[-1]

    monkeypatch.setattr(os, "readv", noted)
    store, told = Noting(), []
    stored = await sent(tmp_path / "f", store, lambda *more: told.append(more))
    assert stored.file.blob == OURS.blob(PLAIN)
    assert stored.file.stamp is not None
    assert await content(store, stored.file.blob) == PLAIN
    assert sum(read) == len(PLAIN)
    assert [sum(column) for column in zip(*told, strict=True)] == [len(PLAIN), len(PLAIN)]
    assert (len(store.writes), store.composed) == (1, 1)
    assert stored.written == Written(store.writes[0] + 1, 0, len(PLAIN))


async def test_what_repeats_within_a_file_is_sent_once(tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(bytes(40 << 20))
    store = Noting()
    stored = await sent(tmp_path / "f", store)
    assert stored.written == Written(2, 0, 4 << 20)  # a chunk of zeros, and the file
    assert await content(store, stored.file.blob) == bytes(40 << 20)


async def test_a_file_that_is_there_is_only_looked_up(tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(PLAIN)
    store = Noting()
    first = await sent(tmp_path / "f", store)
    again = await sent(tmp_path / "f", store)
    assert again.file == first.file
    assert again.written == Written(0, 0, 0)
    assert (len(store.writes), store.composed) == (1, 1)


async def test_the_store_waits_for_no_part_that_it_has(tmp_path: Path) -> None:
    """A request ends where nothing is missing for a while: a server cuts off who is silent."""
    (tmp_path / "f").write_bytes(PLAIN)
    store = Noting()
    await sent(tmp_path / "f", store)
    changed = b"new" + PLAIN[: len(PLAIN) - 3] + b"new"
    (tmp_path / "f").write_bytes(changed)
    stored = await sent(tmp_path / "f", store)
    assert len(store.writes) == 3  # of the first time, and two
    assert stored.written.size_bytes < 10 << 20
    assert await content(store, stored.file.blob) == changed


async def test_a_file_that_changes_while_it_is_read_is_not_composed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "f"
    path.write_bytes(PLAIN)
    grow(path, monkeypatch)
    store = Noting()
    stored = await sent(path, store)
    assert stored.file.stamp is None
    assert store.composed == 0


def grow(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let `path` become longer after each time it was looked at."""
    real = os.fstat

    def fstat(descriptor: int) -> os.stat_result:
        status = real(descriptor)
        with path.open("ab") as file:
            file.write(b"more")
        return status

    monkeypatch.setattr(os, "fstat", fstat)


async def test_an_archive_of_a_file_that_never_stays_the_same_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "f").write_bytes(PLAIN[: 6 << 20])
    grow(tmp_path / "f", monkeypatch)
    store = Noting()
    with pytest.raises(FileChanged, match="f' changed while"):
        await archived(tmp_path, store)
    assert store.composed == 0


async def test_an_upload_that_broke_sends_only_the_rest(tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(PLAIN)
    store, monitor = Noting(), TallyMonitor()
    store.errors = [Unavailable("cut")]
    blob = await archived(tmp_path, store, monitor)
    assert blob == OURS.blob(PLAIN)
    assert await content(store, blob) == PLAIN
    assert monitor.counters["hashed_bytes"] <= len(PLAIN)


@pytest.mark.parametrize("error", [Unavailable("gone"), ChunksMissing([b"x"])])
async def test_a_store_that_stays_away_is_given_up(tmp_path: Path, error: IsolateError) -> None:
    (tmp_path / "f").write_bytes(PLAIN[: 6 << 20])
    store = Noting()
    store.errors = [error] * 10
    with pytest.raises(type(error)):
        await archived(tmp_path, store)
    assert len(store.errors) == 10 - 1 - len(sender.RETRY_DELAYS_S)


async def test_what_the_store_refuses_ends_it(tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(PLAIN)
    store = Noting()
    store.errors = [Refused("no")]
    with pytest.raises(Refused, match="no"):
        await sent(tmp_path / "f", store)


async def test_a_file_remembered_with_another_content_is_read_anew(tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(PLAIN)
    store, wrong = Noting(), Wanted(str(tmp_path / "f"), OURS.blob(bytes(CHUNKED_ABOVE_BYTES + 1)))
    async with GrowingCrew(store, store, 0, SystemClock(), NullMonitor()) as crew:
        with pytest.raises(FileChanged):
            await sender.Sender(store, crew, SystemClock(), NullMonitor()).send([wrong])


async def test_files_beside_a_large_one_do_not_wait_for_it(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(PLAIN)
    (tmp_path / "b").write_bytes(b"small")
    (tmp_path / "c").write_bytes(PLAIN)  # the same content: its chunks are there, or on their way
    store, monitor = Noting(), TallyMonitor()
    result = await archive_tree(tmp_path, store, ArchiveOptions(workers=0), monitor)
    entries = loads(result.manifest, OURS).entries
    assert [(entry.path, entry.blob) for entry in entries] == [
        ("a", OURS.blob(PLAIN)), ("b", OURS.blob(b"small")), ("c", OURS.blob(PLAIN)),
    ]  # fmt: skip
    assert monitor.counters["hashed_files"] == 3
    assert monitor.counters["hashed_bytes"] == 2 * len(PLAIN) + 5
    assert monitor.counters["archived_bytes"] == 2 * len(PLAIN) + 5


async def test_a_single_large_file_is_read_once(tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(PLAIN)
    store, monitor = Noting(), TallyMonitor()
    result = await archive_file(tmp_path / "f", store, ArchiveOptions(workers=0), monitor)
    assert result.root == OURS.blob(PLAIN)
    assert await content(store, result.root) == PLAIN
    assert monitor.counters["hashed_bytes"] == len(PLAIN)


async def test_too_large_is_too_large(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "f").write_bytes(PLAIN)
    monkeypatch.setattr(large, "MAX_BLOB_BYTES", len(PLAIN) - 1)
    with pytest.raises(TooLarge, match="is larger than"):
        await sent(tmp_path / "f", Noting())
    monkeypatch.setattr(large, "MAX_BLOB_BYTES", len(PLAIN))
    assert (await sent(tmp_path / "f", Noting())).file.blob == OURS.blob(PLAIN)


async def test_what_is_no_file_any_more_is_said(tmp_path: Path) -> None:
    with pytest.raises(FileChanged, match="gone"):
        await sent(tmp_path / "gone", Noting())
    with pytest.raises(InvalidInput, match="is a directory"):
        await sent(tmp_path, Noting())


async def test_reading_stops_and_closes_the_file(tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(PLAIN)
    reader = FileReader(OURS.algorithm)
    before = len(os.listdir("/proc/self/fd"))
    with pytest.raises(Stopped):
        await sent(tmp_path / "f", Noting(), lambda *_: reader.stop(), reader)
    assert len(os.listdir("/proc/self/fd")) == before


async def test_a_cancelled_upload_closes_the_file(tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(PLAIN)
    before = len(os.listdir("/proc/self/fd"))
    begun = asyncio.Event()
    async with asyncio.TaskGroup() as tasks:
        job = tasks.create_task(sent(tmp_path / "f", Noting(), lambda *_: begun.set()))
        await begun.wait()
        job.cancel()
    assert job.cancelled()
    for _ in range(200):  # whoever was reading closes it behind itself
        if len(os.listdir("/proc/self/fd")) == before:
            break
        await asyncio.to_thread(os.sched_yield)
    assert len(os.listdir("/proc/self/fd")) == before


async def test_a_large_file_among_small_ones_is_remembered(tmp_path: Path) -> None:
    root = tmp_path / "tree"
    root.mkdir()
    for name, plain in {"a": b"1", "b": PLAIN[: 9 << 20], "c": b"2", "d": PLAIN, "e": b"3"}.items():
        (root / name).write_bytes(plain)
        os.utime(root / name, (1, 1))
    clock = ManualClock(time.time() + 60)  # what was written long ago is remembered
    options = ArchiveOptions(workers=0, stat_cache=tmp_path / "cache", clock=clock)
    store = Noting()
    first = await archive_tree(root, store, options, NullMonitor())
    monitor = TallyMonitor()
    again = await archive_tree(root, store, options, monitor)
    assert again.root == first.root
    assert monitor.counters["cached_files"] == 5
    assert monitor.counters["hashed_bytes"] == 0
