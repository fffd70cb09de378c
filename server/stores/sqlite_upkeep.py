"""The index seen by those who tidy up: ages, victims, what is alive in which pack.

Knows no policy, no file and no time; statements are in `sql/upkeep.sql`. The invariants: a block is deleted only if its
age is still what it was chosen for; a block is moved or it stays, its blobs never notice; no job is long.
"""

from __future__ import annotations

import sqlite3
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import IntEnum
from functools import partial
from itertools import accumulate
from typing import Any, NamedTuple

from server.stores import queries
from server.stores.pack_storage import Location, Pack
from server.stores.writer import Database

BLOCKS_PER_JOB = 100  # a deleted or moved block costs a page in three trees; with a cold cache that is about 10 ms
ROWS_PER_JOB = 500  # each is a descent into a large tree and a look at another one
EVER_H = 2**62  # later than any hour
SQL = queries.load("upkeep")


class PackState(IntEnum):
    """What may happen to a pack."""

    OPEN = 0
    SEALED = 1
    DEAD = 2


class Age(NamedTuple):
    """A namespace and the hour in which its oldest block was last asked for; None when it has no blocks."""

    namespace: int
    name: str
    oldest_h: int | None


@dataclass(frozen=True, slots=True)
class Freed:
    """What an eviction took."""

    blocks: int = 0
    size_bytes: int = 0

    def __add__(self, other: Freed) -> Freed:
        return Freed(self.blocks + other.blocks, self.size_bytes + other.size_bytes)


class PackRow(NamedTuple):
    """One pack and what is in it."""

    id: int
    pack: Pack
    namespace: int
    state: PackState
    committed_bytes: int
    live_bytes: int
    dead_bytes: int


class Victim(NamedTuple):
    """A block that may go."""

    id: int
    pack: int
    length: int
    touched_h: int


class PlacedBlock(NamedTuple):
    """A record of one pack."""

    id: int
    offset: int
    length: int
    kind: int
    touched_h: int


class UpkeepIndex:
    """Every call may raise Unavailable, NoSpace, IndexCorrupt."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def ages(self) -> list[Age]:
        return [Age(*row) for row in await self._fetch("ages")]

    async def oldest(self, namespace: int, limit: int, skip: int = 0, cutoff_h: int = EVER_H) -> list[Victim]:
        """Return blocks last asked for in `cutoff_h` or before, in the order in which they go, behind the first."""
        values = {"namespace": namespace, "cutoff_h": cutoff_h, "limit": limit, "skip": skip}
        return [Victim(*row) for row in await self._fetch("victims", **values)]

    async def evict(self, namespace: int, cutoff_h: int, enough_bytes: int | None = None) -> Freed:
        """Delete the oldest blocks last asked for in `cutoff_h` or before: BLOCKS_PER_JOB, or enough of them."""
        victims = enough_of(await self.oldest(namespace, BLOCKS_PER_JOB, cutoff_h=cutoff_h), enough_bytes)
        if not victims:
            return Freed()
        return await self._database.write(partial(_evict, ids=[victim.id for victim in victims], cutoff_h=cutoff_h))

    async def packs(self) -> list[PackRow]:
        """Return all packs, those with the largest dead share first."""
        return [
            PackRow(id_, Pack(namespace, name), namespace_id, PackState(state), *sizes)
            for id_, namespace, name, namespace_id, state, *sizes in await self._fetch("packs")
        ]

    async def blocks_of(self, pack: int, after: int, limit: int = BLOCKS_PER_JOB) -> list[PlacedBlock]:
        """Return the blocks of a pack that lie behind offset `after`."""
        rows = await self._fetch("blocks_of", pack=pack, after=after, limit=limit)
        return [PlacedBlock(*row) for row in rows]

    async def move(self, pack: int, blocks: Sequence[PlacedBlock], locations: Sequence[Location]) -> None:
        """Note that copies of `blocks` of `pack` are durable at `locations`, which are all in one other pack."""
        await self._database.write(partial(_move, from_pack=pack, blocks=blocks, locations=locations))

    async def forget_stale(self, namespace: int, digests: Iterable[bytes]) -> None:
        """Drop the rows of those of `digests` whose record has gone."""
        rows = [(namespace, digest) for digest in sorted(set(digests))]
        for start in range(0, len(rows), ROWS_PER_JOB):
            part = rows[start : start + ROWS_PER_JOB]
            await self._database.write(partial(_forget_all, rows=part))

    async def mark_dead(self, pack: int) -> bool:
        """Say that a sealed pack may go; False when something in it is alive."""
        return await self._database.write(partial(_changed, query="mark_dead", values={"id": pack})) == 1

    async def drop(self, pack: int) -> None:
        """Forget a dead pack whose file is gone; what was quarantined in it stays on record."""
        await self._database.write(partial(_changed, query="drop_pack", values={"id": pack}))

    async def bad_places(self, pack: Pack) -> list[tuple[int, int]]:
        """Return where in `pack` quarantined records lie."""
        return [(offset, length) for offset, length in await self._fetch("bad_places", name=pack.name)]

    async def note_bad_range(self, pack: Pack, place: tuple[int, int], why: str, now_s: float) -> None:
        """Remember bytes of a pack, from an offset on and so many, that are no record."""
        values = {"pack": pack.name, "offset": place[0], "length": place[1], "why": why, "found_at": now_s}
        await self._database.write(partial(_changed, query="note_bad_range", values=values))

    async def settle(self, pack: int, length: int) -> None:
        """Count anew what is alive in a pack of `length` bytes."""
        await self._database.write(partial(_changed, query="settle_pack", values={"id": pack, "length": length}))

    async def restore(
        self, blobs: Sequence[tuple[int, bytes, int, int, int]], parts: Sequence[tuple[int, int]]
    ) -> None:
        """Add rows that a sound record shows to be lost: namespace, digest, block, entry, size; recipe, part."""

        def job(connection: sqlite3.Connection) -> None:
            connection.executemany(SQL["add_blob"], blobs)
            connection.executemany(SQL["add_part"], parts)

        await self._database.write(job)

    async def stale_blobs(self, after: tuple[int, bytes]) -> list[tuple[int, bytes]]:
        """Return namespace and digest of blobs whose record has gone, in order, behind `after`."""
        rows = await self._fetch("stale_blobs", namespace=after[0], digest=after[1], limit=ROWS_PER_JOB)
        return [(namespace, digest) for namespace, digest in rows]

    async def damage(self) -> str | None:
        """Return what SQLite finds wrong with the file, None for a sound one; reads all of it."""

        def job(connection: sqlite3.Connection) -> str:
            return str(connection.execute("PRAGMA quick_check(1)").fetchone()[0])

        found = await self._database.read(job)
        return None if found == "ok" else " ".join(found.split())

    async def quarantined(self) -> Freed:
        """Return how many records are in quarantine, and their bytes."""
        ((records, size_bytes),) = await self._fetch("quarantined")
        return Freed(records, size_bytes)

    async def count_blocks(self) -> list[tuple[int, int, int, int]]:
        """Return namespace, kind, number and bytes."""
        return [(*row,) for row in await self._fetch("count_blocks")]

    async def count_blobs(self) -> list[tuple[int, int, int]]:
        """Return namespace, number and plain bytes; walks through the whole index."""
        return [(*row,) for row in await self._fetch("count_blobs")]

    async def _fetch(self, query: str, **values: Any) -> list[Any]:
        return await self._database.read(lambda connection: connection.execute(SQL[query], values).fetchall())


def enough_of(victims: Sequence[Victim], enough_bytes: int | None) -> Sequence[Victim]:
    """Return the first of `victims`, so many that their bytes are enough; all of them for None."""
    if enough_bytes is None:
        return victims
    before = accumulate((victim.length for victim in victims), initial=0)
    return [victim for victim, size_bytes in zip(victims, before, strict=False) if size_bytes < enough_bytes]


def _changed(connection: sqlite3.Connection, query: str, values: dict[str, Any]) -> int:
    return connection.execute(SQL[query], values).rowcount


def _evict(connection: sqlite3.Connection, ids: Sequence[int], cutoff_h: int) -> Freed:
    blocks, bytes_by_pack = 0, Counter[int]()
    for id_ in ids:
        row = connection.execute(SQL["evict_block"], {"id": id_, "cutoff_h": cutoff_h}).fetchone()
        if row is not None:
            connection.execute(SQL["delete_parts"], {"id": id_})
            blocks += 1
            bytes_by_pack[row[0]] += row[1]
    for pack, size_bytes in bytes_by_pack.items():
        connection.execute(SQL["bury_bytes"], {"id": pack, "bytes": size_bytes})
    return Freed(blocks, bytes_by_pack.total())


def _move(
    connection: sqlite3.Connection, from_pack: int, blocks: Sequence[PlacedBlock], locations: Sequence[Location]
) -> None:
    (to_pack,) = connection.execute(SQL["find_pack"], {"name": locations[0].pack.name}).fetchone()
    moved_bytes = 0
    for block, location in zip(blocks, locations, strict=True):
        values = {"id": block.id, "from_pack": from_pack, "to_pack": to_pack, "offset": location.offset}
        if _changed(connection, "move_block", values):
            moved_bytes += block.length
    copied_bytes = sum(location.length for location in locations)
    connection.execute(SQL["bury_bytes"], {"id": from_pack, "bytes": moved_bytes})
    end = max(location.end for location in locations)
    taken = {"id": to_pack, "end": end, "live": moved_bytes, "dead": copied_bytes - moved_bytes}
    connection.execute(SQL["take_moved"], taken)


def _forget_all(connection: sqlite3.Connection, rows: Sequence[tuple[int, bytes]]) -> None:
    connection.executemany(SQL["forget_stale"], rows)
