"""Eviction and compaction: what goes, what stays, in which order, and what becomes of the space."""

from __future__ import annotations

import asyncio
import errno
import os
import random
import sqlite3
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from isolate.cas.block import Absent, Block
from isolate.cas.digest import Blob, Namespace
from isolate.errors import NoSpace
from isolate.monitor import TallyMonitor
from server.stores import sqlite_upkeep, tidying
from server.stores.blobs import LocalBlobStore, LocalBlobStores
from server.stores.janitor import JUMP_S, Calm, Janitor
from server.stores.limits import BlobLimits
from server.stores.packs import TRUST_S
from server.stores.reserve import PLENTY, RESERVE_BYTES, Reserve
from server.stores.writer import Job
from tests.clock import ManualClock
from tests.pack_faults import FaultyFiles
from tests.records import blob_of, block_of, stream

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


@pytest.fixture
async def site(tmp_path: Path) -> AsyncIterator[Site]:
    site = Site(tmp_path)
    await site.open()
    yield site
    await site.stores.close()


def content(number: int, size: int = 3000) -> bytes:
    return random.Random(number).randbytes(size)


# Age


async def test_what_nobody_asked_for_goes_after_its_time_and_its_space_comes_back(site: Site) -> None:
    old = [blob for number in range(20) for blob in await site.put(content(number))]
    site.clock.advance(8 * DAY_S)
    (new,) = await site.put(content(99))
    tidied = await site.janitor.run()
    assert tidied.evicted.blocks == 20
    assert await site.gone(*old, new) == old
    assert await site.read(new) == {new: content(99)}
    assert (site.pack_bytes, site.stores.used_bytes) == (RECORD_BYTES, RECORD_BYTES)
    assert site.rows("SELECT COUNT(*) FROM blob") == [(1,)]
    assert site.rows("SELECT SUM(live_bytes), SUM(dead_bytes) FROM pack") == [(RECORD_BYTES, 0)]
    assert await site.put(content(3)) == [old[3]]
    assert await site.read(old[3]) == {old[3]: content(3)}


async def test_the_last_hour_before_and_the_first_after_the_time_is_over(site: Site) -> None:
    (blob,) = await site.put(content(1))
    site.clock.advance(HOUR_S - site.clock.now() % HOUR_S)  # the hour it was stored in is over: from here it counts
    site.clock.advance(LIMITS.kept_s - 1)
    assert (await site.janitor.run()).evicted.blocks == 0
    site.clock.advance(1)
    assert (await site.janitor.run()).evicted.blocks == 1
    assert await site.gone(blob) == [blob]


async def test_temporary_namespaces_are_kept_for_a_day(site: Site) -> None:
    await site.put(content(1), namespace=TEMPORARY)
    (kept,) = await site.put(content(2))
    site.clock.advance(DAY_S + HOUR_S)
    assert (await site.janitor.run()).evicted.blocks == 1
    assert await site.gone(kept) == []
    assert await site.store(TEMPORARY).missing([TEMPORARY.blob(content(1))]) != []


@pytest.mark.parametrize("how", ["missing", "write", "read"])
async def test_asking_keeps(site: Site, how: str) -> None:
    (blob,) = await site.put(content(1))
    for _ in range(3):
        site.clock.advance(5 * DAY_S)
        if how == "missing":
            await site.gone(blob)
        elif how == "write":
            await site.put(content(1))
        else:
            await site.read(blob)
        assert (await site.janitor.run()).evicted.blocks == 0
    assert await site.gone(blob) == []


async def test_looking_for_victims_costs_one_descent_when_there_are_none(site: Site) -> None:
    await site.put(content(1))
    before = site.monitor.counters["committed_transactions"]
    await site.janitor.run()
    assert site.monitor.counters["committed_transactions"] == before


@pytest.mark.parametrize("name", ["ages", "victims", "blocks_of", "mark_dead", "evict_block", "move_block"])
async def test_upkeep_finds_its_rows_by_an_index(site: Site, name: str) -> None:
    values = {
        "namespace": 1, "cutoff_h": 1, "limit": 1, "skip": 1, "pack": 1, "after": 1, "id": 1, "to_pack": 1,
        "from_pack": 1, "offset": 1,
    }  # fmt: skip

    def plan(connection: sqlite3.Connection) -> list[str]:
        return [row[3] for row in connection.execute(f"EXPLAIN QUERY PLAN {sqlite_upkeep.SQL[name]}", values)]

    steps = await site.stores.index.database.read(plan)
    assert [step for step in steps if step.startswith("SCAN") and step != "SCAN namespace"] == []
    assert [step for step in steps if "TEMP B-TREE" in step] == []


async def test_evictions_are_many_short_transactions(site: Site) -> None:
    count = 2 * sqlite_upkeep.BLOCKS_PER_JOB + 1
    await site.store().write(stream(*(block_of(number.to_bytes(8)) for number in range(count))))
    site.clock.advance(8 * DAY_S)
    before = site.monitor.counters["committed_transactions"]
    assert (await site.janitor.run()).evicted.blocks == count
    assert site.monitor.counters["committed_transactions"] - before >= 3


# Size


async def test_the_oldest_goes_when_an_upload_does_not_fit(tmp_path: Path) -> None:
    site = Site(tmp_path)
    await site.open(BlobLimits(min_free_bytes=0, max_bytes=100_000), rotate_bytes=10_000)
    blobs = []
    for number in range(100):
        blobs += await site.put(content(number))
        site.clock.advance(HOUR_S)
        await site.gone(blobs[0])
        assert site.pack_bytes <= 100_000
    gone = await site.gone(*blobs)
    assert gone == blobs[1 : len(gone) + 1]
    assert 10 < len(blobs) - len(gone) < 33
    assert site.stores.used_bytes == site.pack_bytes
    await site.stores.close()


async def test_within_the_promised_time_an_upload_is_refused_instead(tmp_path: Path) -> None:
    site = Site(tmp_path)
    await site.open(BlobLimits(min_free_bytes=0, max_bytes=20_000), rotate_bytes=5_000)
    blobs = [blob for number in range(6) for blob in await site.put(content(number))]
    for _ in range(6):
        with pytest.raises(NoSpace, match=r"of at most 19\.5 KiB"):
            await site.put(content(77))
        await site.janitor.run()
        assert await site.read(*blobs) == dict(zip(blobs, map(content, range(6)), strict=True))
        site.clock.advance(HOUR_S)
    site.clock.advance(2 * HOUR_S)
    with pytest.raises(NoSpace):
        await site.put(content(77))
    site.clock.advance(6 * HOUR_S)
    await site.put(content(77))
    assert await site.gone(*blobs) != []
    await site.stores.close()


async def test_a_disk_below_its_floor_is_relieved_before_anybody_asks(tmp_path: Path) -> None:
    class SmallDisk(FaultyFiles):
        def free_bytes(self, path: Path) -> int:
            return 200_000 - sum(pack.stat().st_size for pack in tmp_path.rglob("*.pack"))

    site = Site(tmp_path)
    site.files = SmallDisk()
    await site.open(BlobLimits(min_free_bytes=100_000), rotate_bytes=10_000)
    for number in range(32):
        await site.put(content(number))
        site.clock.advance(HOUR_S)
    assert site.files.free_bytes(tmp_path) < 110_000
    tidied = await site.janitor.run()
    assert site.files.free_bytes(tmp_path) >= 108_000
    assert 0 < tidied.evicted.blocks < 10
    await site.stores.close()


# When times cannot be trusted


async def test_after_an_unclean_stop_nothing_goes_for_as_long_as_is_promised(site: Site) -> None:
    (blob,) = await site.put(content(1))
    site.clock.advance(30 * DAY_S)
    await site.stores.close()
    await site.open(stopped_cleanly=False)
    site.clock.advance(LIMITS.promised_s - 1)
    assert not site.janitor.is_calm
    assert (await site.janitor.run()).evicted.blocks == 0
    site.clock.advance(1)
    assert (await site.janitor.run()).evicted.blocks == 1
    assert await site.gone(blob) == [blob]


def test_a_jump_of_the_clock_makes_it_wait() -> None:
    clock = ManualClock()
    calm = Calm(clock, 6 * HOUR_S, stopped_cleanly=True)
    clock._start_s += JUMP_S - 1
    assert calm
    clock._start_s += 30 * DAY_S
    assert not calm
    clock.advance(6 * HOUR_S - 1)
    assert not calm
    clock.advance(1)
    assert calm


# Recipes


async def test_recipes_go_before_the_blocks_they_need(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    chunks = await site.put(content(1)) + await site.put(content(2))
    whole = blob_of(content(1) + content(2))
    await site.store().compose(whole, chunks)
    site.clock.advance(8 * DAY_S)
    monkeypatch.setattr(sqlite_upkeep, "BLOCKS_PER_JOB", 1)
    kinds = []
    for _ in range(3):
        await site.stores.upkeep.evict(1, int(site.clock.now() // 3600))
        kinds.append(site.rows("SELECT kind FROM block ORDER BY id"))
    assert kinds == [[(0,), (0,)], [(0,)], []]
    assert site.rows("SELECT COUNT(*) FROM recipe") == [(0,)]


async def test_asking_for_a_composed_blob_keeps_its_chunks(site: Site) -> None:
    chunks = await site.put(content(1)) + await site.put(content(2))
    whole = blob_of(content(1) + content(2))
    await site.store().compose(whole, chunks)
    for _ in range(3):
        site.clock.advance(6 * DAY_S)
        assert await site.gone(whole) == []
        assert (await site.janitor.run()).evicted.blocks == 0
    assert await site.gone(*chunks) == []


async def test_composing_promises_the_chunks_from_its_end_on(site: Site) -> None:
    chunks = await site.put(content(1)) + await site.put(content(2))
    site.clock.advance(5 * HOUR_S)
    await site.store().compose(blob_of(content(1) + content(2)), chunks)
    ((oldest,),) = site.rows("SELECT MIN(touched_h) FROM block")
    assert oldest * HOUR_S > site.clock.now()


# Compaction


async def half_dead(site: Site, count: int = 12) -> list[Blob]:
    """Fill packs of which every second record is old enough to go, and return the blobs that stay."""
    blobs = [blob for number in range(count) for blob in await site.put(content(number))]
    site.clock.advance(8 * DAY_S)
    await site.gone(*blobs[::2])
    return blobs[::2]


async def test_living_records_are_copied_byte_for_byte(site: Site) -> None:
    blocks = [block_of(content(number), b"x" * number) for number in range(1, 12)]
    await site.store().write(stream(*blocks))
    site.clock.advance(8 * DAY_S)
    alive = [block.entries[0] for block in blocks[::2]]
    await site.gone(*alive)
    before = site.pack_bytes
    tidied = await site.janitor.run(dead_share=0.1)
    assert tidied.packs >= 1
    assert site.pack_bytes < before
    records = [record async for record in site.store().read(alive)]
    assert sorted(record.encode() for record in records if isinstance(record, Block)) == sorted(
        block.encode() for block in blocks[::2]
    )


async def test_a_reader_that_looked_up_before_a_move_reads_on(site: Site) -> None:
    alive = await half_dead(site)
    source = site.store()
    plan, absent = await source._plan(alive)
    assert (await site.janitor.run(dead_share=0.1)).packs > 0
    records = [record async for record in source._source.read(plan, absent)]
    found = {blob for record in records if isinstance(record, Block) for blob, _ in record.contents()}
    assert found >= set(alive)
    assert not any(isinstance(record, Absent) for record in records)


async def test_look_ups_during_compaction_never_miss_anything(site: Site) -> None:
    alive = await half_dead(site, 60)

    async def look() -> None:
        for _ in range(30):
            assert await site.gone(*alive) == []
            assert len(await site.read(*alive)) == len(alive)

    async with asyncio.TaskGroup() as group:
        group.create_task(look())
        tidied = await site.janitor.run(dead_share=0.1)
    assert tidied.packs > 5


async def test_moved_recipes_still_find_their_chunks(site: Site) -> None:
    chunks = await site.put(content(1)) + await site.put(content(2))
    whole = blob_of(content(1) + content(2))
    await site.store().compose(whole, chunks)
    await site.put(content(3, 9000))
    site.clock.advance(8 * DAY_S)
    assert await site.gone(whole) == []
    await site.janitor.run(dead_share=0.1)
    data = b"".join([bytes(piece) async for piece in site.store().pieces(whole.digest, 0, whole.size)])
    assert data == content(1) + content(2)


async def test_a_bad_record_is_saved_before_its_pack_goes(site: Site) -> None:
    alive = await half_dead(site)
    for pack in site.root.rglob("*.pack"):
        data = bytearray(pack.read_bytes())
        data[200] ^= 1  # in the first record of each, which is alive
        pack.write_bytes(bytes(data))
    tidied = await site.janitor.run(dead_share=0.1)
    assert tidied.packs == 2
    assert site.monitor.counters["quarantined_records"] == 2
    saved = sorted(path.stat().st_size for path in (site.root / "quarantine").iterdir())
    assert saved == [RECORD_BYTES, RECORD_BYTES]
    assert len(await site.gone(*alive)) == 2
    assert site.rows("SELECT COUNT(*) FROM quarantine") == [(2,)]


async def test_a_pack_the_disk_does_not_give_back_is_kept(site: Site) -> None:
    alive = await half_dead(site)
    site.files.fail("read", call=1)
    site.files.read, real = _unreadable, site.files.read  # type: ignore[method-assign]
    before = sorted(site.root.rglob("*.pack"))
    tidied = await site.janitor.run(dead_share=0.1)
    assert (tidied.packs, tidied.stuck_packs) == (0, 2)
    assert sorted(site.root.rglob("*.pack")) == before
    site.files.read = real  # type: ignore[method-assign]
    site.files._plans.clear()
    assert len(await site.read(*alive)) == len(alive)


def _unreadable(path: Path, places: object) -> list[bytes]:
    raise OSError(5, "Input/output error")


async def test_a_pack_deleted_behind_our_back_leaves_no_rows(site: Site) -> None:
    blobs = await half_dead(site)
    for pack in site.root.rglob("*.pack"):
        pack.unlink()
    site.clock.advance(10)
    assert await site.gone(*blobs) == blobs
    site.clock.advance(8 * DAY_S)
    await site.janitor.run()
    assert site.rows("SELECT COUNT(*) FROM pack") == [(0,)]
    assert site.rows("SELECT COUNT(*) FROM block") == [(0,)]
    await site.put(content(0))
    assert await site.read(blobs[0]) == {blobs[0]: content(0)}


async def test_a_pack_that_was_cut_off_goes_and_what_is_left_of_its_records_is_saved(site: Site) -> None:
    alive = await half_dead(site)
    for pack in site.root.rglob("*.pack"):
        os.truncate(pack, 2 * RECORD_BYTES + 100)  # of the third record, which is alive, and nothing of the fifth
    site.clock.advance(TRUST_S)
    tidied = await site.janitor.run(dead_share=0.1)
    assert (tidied.packs, tidied.stuck_packs) == (2, 0)
    assert [path.stat().st_size for path in (site.root / "quarantine").iterdir()] == [100, 100]
    assert site.pack_bytes == site.stores.used_bytes == 2 * RECORD_BYTES
    assert await site.gone(*alive) == alive[1:3] + alive[4:]
    assert await site.read(alive[0], alive[3]) == {alive[0]: content(0), alive[3]: content(6)}


@pytest.mark.parametrize(
    "limits",
    [
        LIMITS,
        BlobLimits(min_free_bytes=0, max_bytes=60_000),
        BlobLimits(min_free_bytes=0, max_bytes=30_000, kept_s=30 * DAY_S),
        BlobLimits(min_free_bytes=0, max_bytes=100_000, kept_s=30 * DAY_S),
    ],
)
async def test_preview_says_what_then_happens(site: Site, limits: BlobLimits, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tidying, "AHEAD", 5)
    monkeypatch.setattr(tidying, "BLOCKS_PER_JOB", 3)
    monkeypatch.setattr(sqlite_upkeep, "BLOCKS_PER_JOB", 3)
    await site.put(*[content(number, 500) for number in range(100, 110)], namespace=TEMPORARY)
    for number in range(30):
        await site.put(content(number))
        site.clock.advance(HOUR_S / 4)
    site.clock.advance(DAY_S * 6.8)
    await site.stores.close()
    await site.open(limits)
    previewed = await site.janitor.preview(dead_share=0.1)
    assert previewed.packs > 0
    assert await site.janitor.run(dead_share=0.1) == previewed


async def test_what_is_promised_may_stay_above_the_limits_and_both_say_so(tmp_path: Path) -> None:
    site = Site(tmp_path)
    await site.open()
    for number in range(8):
        await site.put(content(number))
    await site.stores.close()
    await site.open(BlobLimits(min_free_bytes=0, max_bytes=10_000))
    previewed = await site.janitor.preview(dead_share=0.1)
    assert previewed.over_bytes == 8 * RECORD_BYTES - 10_000
    assert await site.janitor.run(dead_share=0.1) == previewed
    site.clock.advance(DAY_S)
    previewed = await site.janitor.preview(dead_share=0.1)
    assert (previewed.over_bytes, previewed.gained_bytes >= 8 * RECORD_BYTES - 10_000) == (0, True)
    assert await site.janitor.run(dead_share=0.1) == previewed
    await site.stores.close()


class FullIndex:
    """Lets an index refuse every job for as long as something takes the room."""

    def __init__(self, site: Site, taken: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.refused, database = 0, site.stores.index.database
        write = database.write

        async def full(job: Job[Any]) -> Any:
            if taken.exists():
                self.refused += 1
                raise NoSpace("No space left for blobs.sqlite")
            return await write(job)

        monkeypatch.setattr(database, "write", full)


async def test_the_reserve_is_room_to_note_what_goes(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    blobs = [blob for number in range(6) for blob in await site.put(content(number))]
    site.clock.advance(8 * DAY_S)
    (site.root / "reserve").write_bytes(b"room")
    index = FullIndex(site, site.root / "reserve", monkeypatch)
    with pytest.raises(NoSpace):
        await site.janitor.run()
    janitor = Janitor(site.stores, site.clock, work_share=1.0, reserve=Reserve(site.root))
    tidied = await janitor.run()
    assert (tidied.evicted.blocks, site.pack_bytes, index.refused > 0) == (6, 0, True)
    assert await site.gone(*blobs) == blobs


async def test_on_a_full_disk_a_pack_without_living_records_is_the_first_room(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = [blob for number in range(6) for blob in await site.put(content(number))]
    dead = next(site.root.rglob("*.pack"))
    later = [blob for number in range(6, 18) for blob in await site.put(content(number))]
    site.clock.advance(8 * DAY_S)
    while (await site.stores.upkeep.evict(1, int(site.clock.now() // 3600), 1)).blocks and await in_pack(site, dead):
        pass
    index = FullIndex(site, dead, monkeypatch)
    tidied = await Janitor(site.stores, site.clock, work_share=1.0).run()
    assert (index.refused > 0, dead.exists(), site.pack_bytes) == (True, False, 0)
    assert tidied.freed_bytes == 18 * RECORD_BYTES
    assert await site.gone(*first, *later) == [*first, *later]


async def in_pack(site: Site, path: Path) -> int:
    """Return how many bytes of a pack are alive."""
    return next(row.live_bytes for row in await site.stores.upkeep.packs() if row.pack.name == path.stem)


async def test_a_pack_that_there_is_no_room_to_copy_keeps_no_other_one(site: Site) -> None:
    blobs = await half_dead(site)
    site.files.fail("write", errno.ENOSPC)
    tidied = await site.janitor.run()
    assert (tidied.cramped_packs, tidied.packs) == (1, 1)
    assert (await site.janitor.run()).cramped_packs == 0
    assert len(await site.read(*blobs)) == len(blobs)


async def test_no_more_is_evicted_than_is_needed(tmp_path: Path) -> None:
    site = Site(tmp_path)
    await site.open(BlobLimits(min_free_bytes=0, max_bytes=200_000))
    blobs = [blob for number in range(60) for blob in await site.put(content(number))]
    site.clock.advance(DAY_S)
    tidied = await site.janitor.run()
    assert tidied.short_bytes <= tidied.evicted.size_bytes < tidied.short_bytes + RECORD_BYTES
    assert await site.gone(*blobs) == blobs[: tidied.evicted.blocks]
    await site.stores.close()


@pytest.mark.parametrize(
    ("min_free_bytes", "said"),
    [(0, r"is full: 3\.0 KiB more do not fit$"), (1 << 20, r"more do not fit, and 1\.0 MiB stay free$")],
)
async def test_an_upload_that_does_not_fit_on_the_disk_is_told_so(
    tmp_path: Path, min_free_bytes: int, said: str
) -> None:
    class FullDisk(FaultyFiles):
        def free_bytes(self, path: Path) -> int:
            return 0

    site = Site(tmp_path)
    site.files = FullDisk()
    await site.open(BlobLimits(min_free_bytes=min_free_bytes))
    with pytest.raises(NoSpace, match=said):
        await site.put(content(1))
    await site.stores.close()


async def test_preview_changes_nothing(site: Site) -> None:
    await half_dead(site)
    before = site.monitor.counters["committed_transactions"]
    previewed = await site.janitor.preview()
    assert (previewed.evicted.blocks, previewed.evicted.size_bytes) == (6, 6 * RECORD_BYTES)
    assert site.monitor.counters["committed_transactions"] == before


def test_the_reserve_is_taken_where_there_is_plenty(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reserve, real = Reserve(tmp_path), os.statvfs(tmp_path)
    assert not reserve.give_up()

    def free(size_bytes: int) -> None:
        blocks = size_bytes // real.f_frsize
        monkeypatch.setattr(os, "statvfs", lambda _: os.statvfs_result((*real[:4], blocks, *real[5:])))

    free(PLENTY * RESERVE_BYTES - real.f_frsize)
    reserve.take()
    assert not list(tmp_path.iterdir())
    free(PLENTY * RESERVE_BYTES)
    for _ in range(2):
        reserve.take()
        assert [path.stat().st_size for path in tmp_path.iterdir()] == [RESERVE_BYTES]
    assert reserve.give_up()
    monkeypatch.setattr(os, "posix_fallocate", _full)
    reserve.take()
    assert not list(tmp_path.iterdir())


def _full(*_: object) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
