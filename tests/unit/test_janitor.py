"""Eviction: what goes, what stays, in which order, and what is told of it before and afterwards."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest

from isolate.errors import NoSpace
from server.stores import sqlite_upkeep, tidying
from server.stores.janitor import JUMP_S, Calm
from server.stores.limits import BlobLimits
from tests.clock import ManualClock
from tests.pack_faults import FaultyFiles
from tests.records import blob_of, block_of, stream
from tests.unit.janitors import (
    DAY_S,
    HOUR_S,
    LIMITS,
    RECORD_BYTES,
    TEMPORARY,
    Site,
    content,
    half_dead,
    opened,
)

site = pytest.fixture(opened)


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
        with pytest.raises(
            NoSpace, match=r"of at most 19\.5 KiB, which leaves [1-4]\.\d KiB: \d\.\d KiB more do not fit"
        ):
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
