"""Compaction: what becomes of the space and of living records, also where a pack is harmed or the disk is full."""

from __future__ import annotations

import asyncio
import errno
import os
from pathlib import Path
from typing import Any

import pytest

from isolate.cas.block import Absent, Block
from isolate.errors import NoSpace
from server.stores.janitor import Janitor
from server.stores.packs import TRUST_S
from server.stores.reserve import PLENTY, RESERVE_BYTES, Reserve
from server.stores.writer import Job
from tests.records import blob_of, block_of, stream
from tests.unit.janitors import (
    DAY_S,
    RECORD_BYTES,
    Site,
    content,
    half_dead,
    opened,
)

site = pytest.fixture(opened)


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
