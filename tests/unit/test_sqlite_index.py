"""The index of the blob store: look-ups, groups, what is missing when a block goes."""

from __future__ import annotations

import hashlib
import sqlite3
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from isolate.monitor import TallyMonitor
from server.stores.pack_storage import Location, Pack
from server.stores.sqlite_index import ROWS_PER_JOB, SQL, BlobIndex, Kind, NewRecord, Place
from tests.clock import ManualClock

PACK = Pack("default", "0001")


def digest(number: int) -> bytes:
    return hashlib.sha1(str(number).encode()).digest()


def record(
    numbers: range, offset: int = 0, kind: Kind = Kind.BLOCK, parts: tuple[int, ...] = (), pack: Pack = PACK
) -> NewRecord:
    """A record of 100 bytes with the blobs of `numbers`, each of its number's size."""
    blobs = [(digest(number), entry, number) for entry, number in enumerate(numbers)]
    return NewRecord(Location(pack, offset, 100), kind, blobs, parts)


class Site:
    def __init__(self, path: Path) -> None:
        self.path, self.monitor = path, TallyMonitor()
        self.index = self.opened()

    def opened(self) -> BlobIndex:
        return BlobIndex(self.path, ManualClock(), self.monitor)

    async def damage(self, statement: str) -> None:
        """Change rows as a bug or a rotten disk might."""
        await self.index._database.write(lambda connection: connection.execute(statement).rowcount)


@pytest.fixture
async def site(tmp_path: Path) -> AsyncIterator[Site]:
    site = Site(tmp_path / "blobs.sqlite")
    await site.index.announce(PACK)
    yield site
    await site.index.close()


async def found(site: Site, *numbers: int, namespace: str = "default") -> dict[int, Place]:
    lookup = await site.index.find(namespace, [digest(number) for number in numbers])
    return {number: lookup.places[digest(number)] for number in numbers if digest(number) in lookup.places}


async def test_what_was_added_is_found(site: Site) -> None:
    await site.index.add("default", [record(range(3)), record(range(3, 5), 100)], hour=7)
    lookup = await site.index.find("default", [digest(1), digest(4), digest(9)])
    one, four = lookup.places[digest(1)], lookup.places[digest(4)]
    assert (one.entry, one.size, four.entry, four.size) == (1, 1, 1, 4)
    assert lookup.places.keys() == {digest(1), digest(4)}
    assert lookup.blocks[one.block][1:] == (PACK, 0, 100, Kind.BLOCK, 7)
    assert lookup.blocks[four.block].location == Location(PACK, 100, 100)


async def test_other_namespaces_know_nothing_of_it(site: Site) -> None:
    await site.index.announce(Pack("other", "0002"))
    await site.index.add("default", [record(range(3))], hour=7)
    assert await found(site, 1, namespace="other") == {}
    assert await found(site, 1, namespace="never heard of") == {}


async def test_asking_for_nothing(site: Site) -> None:
    assert (await site.index.find("default", [])).places == {}


async def test_a_group_is_one_transaction(site: Site) -> None:
    before = site.monitor.counters["committed_transactions"]
    await site.index.add("default", [record(range(10 * i, 10 * i + 10), 100 * i) for i in range(40)], hour=7)
    assert site.monitor.counters["committed_transactions"] == before + 1


async def test_a_very_large_group_is_many_short_ones(site: Site) -> None:
    before = site.monitor.counters["committed_transactions"]
    numbers = range(3 * ROWS_PER_JOB)
    await site.index.add("default", [record(numbers)], hour=7)
    assert site.monitor.counters["committed_transactions"] == before + 4
    assert len(await found(site, *numbers)) == len(numbers)


async def test_a_later_row_wins(site: Site) -> None:
    await site.index.add("default", [record(range(2))], hour=7)
    before = (await found(site, 1))[1]
    await site.index.add("default", [record(range(1, 2), 100)], hour=7)
    after = (await found(site, 1))[1]
    assert (after.block != before.block, after.entry) == (True, 0)


async def test_touching_never_goes_back_and_says_when_a_block_is_gone(site: Site) -> None:
    await site.index.add("default", [record(range(2)), record(range(2, 4), 100)], hour=7)
    blocks = {place.block for place in (await found(site, 0, 2)).values()}
    assert await site.index.touch(blocks, 9)
    assert await site.index.touch(blocks, 8)
    lookup = await site.index.find("default", [digest(0)])
    assert [row.touched_h for row in lookup.blocks.values()] == [9]
    await site.index.quarantine(min(blocks), "rotten", 0.0)
    assert not await site.index.touch(blocks, 9)


async def test_blobs_of_a_quarantined_block_have_no_block(site: Site) -> None:
    await site.index.add("default", [record(range(2)), record(range(2, 4), 100)], hour=7)
    bad = (await found(site, 0))[0].block
    await site.index.quarantine(bad, "rotten", 12.0)
    lookup = await site.index.find("default", [digest(0), digest(2)])
    assert (bad in lookup.blocks, len(lookup.blocks)) == (False, 1)

    def rows(connection: sqlite3.Connection) -> tuple[list[object], list[object]]:
        quarantine = connection.execute("SELECT * FROM quarantine").fetchall()
        return quarantine, connection.execute("SELECT live_bytes, dead_bytes FROM pack").fetchall()

    quarantined, sizes = await site.index._database.read(rows)
    assert quarantined == [("0001", 0, 100, "rotten", 12.0)]
    assert sizes == [(100, 100)]


async def test_the_id_of_a_lost_block_is_never_used_again(site: Site) -> None:
    """Its blob rows stay behind and must not point into a stranger."""
    await site.index.add("default", [record(range(2))], hour=7)
    lost = (await found(site, 0))[0].block
    await site.index.quarantine(lost, "rotten", 0.0)
    await site.index.add("default", [record(range(5, 6), 100)], hour=7)
    assert (await found(site, 5))[5].block > lost


async def test_a_recipe_brings_the_blocks_of_its_chunks(site: Site) -> None:
    await site.index.add("default", [record(range(2)), record(range(2, 4), 100)], hour=7)
    parts = tuple(sorted({place.block for place in (await found(site, 0, 2)).values()}))
    await site.index.add("default", [record(range(9, 10), 200, Kind.RECIPE, parts)], hour=8)
    lookup = await site.index.find("default", [digest(9)])
    recipe = lookup.places[digest(9)].block
    assert lookup.parts == {recipe: list(parts)}
    assert lookup.blocks.keys() == {recipe, *parts}


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE block SET length = -1",
        "UPDATE block SET offset = -1",
        "UPDATE block SET kind = 77",
        "UPDATE block SET pack = 77",
        "DELETE FROM pack",
        "DELETE FROM block",
    ],
)
async def test_rows_that_make_no_sense_are_no_blocks(site: Site, statement: str) -> None:
    await site.index.add("default", [record(range(2))], hour=7)
    await site.damage(statement)
    assert (await site.index.find("default", [digest(0)])).blocks == {}


async def test_forgetting_one_blob(site: Site) -> None:
    await site.index.add("default", [record(range(2))], hour=7)
    await site.index.forget("default", digest(0))
    assert (await found(site, 0, 1)).keys() == {1}


async def test_open_packs_and_their_ends_survive(site: Site) -> None:
    sealed = Pack("default", "0000")
    await site.index.announce(sealed)
    await site.index.seal(sealed)
    await site.index.add("default", [record(range(2)), record(range(2, 4), 100)], hour=7)
    await site.index.close()
    site.index = site.opened()
    assert await site.index.open_packs() == [(PACK, 200)]
    assert await site.index.used_bytes() == 200


@pytest.mark.parametrize(
    "name", ["find_blobs", "find_blocks", "find_parts", "find_packs", "touch_blocks", "open_packs"]
)
async def test_no_query_walks_through_a_table(site: Site, name: str) -> None:
    values = {"digests": digest(1), "digest_bytes": 20, "namespace": 1, "ids": "[1]", "touched_h": 1}

    def plan(connection: sqlite3.Connection) -> list[str]:
        return [row[3] for row in connection.execute(f"EXPLAIN QUERY PLAN {SQL[name]}", values)]

    steps = await site.index._database.read(plan)
    scanned = [step for step in steps if step.startswith("SCAN") and "USING INDEX" not in step]
    assert [step for step in scanned if not any(source in step for source in ("wanted", "json_each", "CONSTANT"))] == []
    assert any("INDEX" in step or "PRIMARY KEY" in step for step in steps)
