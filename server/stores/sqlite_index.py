"""The index of the blob store in SQLite: which record of which pack holds a blob.

Knows no file and no time: packs are names here, hours are arguments. Statements are in `sql/blobs.sql`. The
invariants: a row is added only for bytes that are durable; what a look-up returns was committed; touching, liveness and
eviction are per block, because a block is what a pack keeps or loses.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from enum import IntEnum
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from isolate.clock import Clock
from isolate.monitor import Monitor
from server.stores import queries
from server.stores.pack_storage import Location, Pack
from server.stores.writer import Database, DatabasePolicy

ROWS_PER_JOB = 2_000  # in a large index nearly every row is on a page of its own; no transaction may exceed 50 ms
SQL = queries.load("blobs")
MIGRATIONS = [SQL["schema_1"], SQL["schema_2"]]

T = TypeVar("T")


class Kind(IntEnum):
    """What a record of a pack is."""

    BLOCK = 0
    RECIPE = 1
    OLD = 2  # a segment of old bytes
    OLD_LAST = 3  # the last of several, which depends on those before it as a recipe does on its chunks


_DEPENDENT = {Kind.RECIPE, Kind.OLD_LAST}
_KINDS = {kind.value: kind for kind in Kind}


class Place(NamedTuple):
    """Where a blob is: the block that holds it, its number among the block's entries, its plain size."""

    digest: bytes
    block: int
    entry: int
    size: int


class BlockRow(NamedTuple):
    """One record of a pack. Flat, like `Place`: a look-up makes 100,000 of them."""

    id: int
    pack: Pack
    offset: int
    length: int
    kind: Kind
    touched_h: int

    @property
    def location(self) -> Location:
        return Location(self.pack, self.offset, self.length)


@dataclass(frozen=True, slots=True)
class Lookup:
    """What the index knows about some digests; `parts` are the records that a dependent one needs."""

    places: dict[bytes, Place]
    blocks: dict[int, BlockRow]
    parts: dict[int, list[int]]


@dataclass(frozen=True, slots=True)
class NewRecord:
    """A durable record to be indexed: its blobs by entry number, and for a recipe the blocks of its chunks."""

    location: Location
    kind: Kind
    blobs: Sequence[tuple[bytes, int, int]]  # digest, entry, size
    parts: Collection[int] = ()


class BlobIndex:
    """Implements `pack_storage.PackJournal`; every call may raise Unavailable, NoSpace, IndexCorrupt."""

    def __init__(self, path: Path, clock: Clock, monitor: Monitor, policy: DatabasePolicy | None = None) -> None:
        self._database = Database(path, MIGRATIONS, policy=policy, clock=clock, monitor=monitor)

    @property
    def database(self) -> Database:
        """The file, for those who tidy it up."""
        return self._database

    async def find(self, namespace: str, digests: Collection[bytes]) -> Lookup:
        """Return where `digests` are, all of one length, with every block that this depends on."""
        if not digests:
            return Lookup({}, {}, {})
        return await self._database.read(lambda connection: _find(connection, namespace, digests))

    async def rows(self, blocks: Collection[int]) -> dict[int, BlockRow]:
        """Return those of `blocks` that still exist, with where they are now: compaction moves them."""
        return await self._database.read(lambda connection: _block_rows(connection, blocks)[0])

    async def touch(self, blocks: Collection[int], hour: int) -> bool:
        """Note that `blocks` were asked for; False when one of them has gone meanwhile."""
        whole = True
        for ids in _slices(sorted(blocks), ROWS_PER_JOB):
            values = {"ids": json.dumps(ids), "touched_h": hour}
            changed = await self._database.write(partial(_execute, query="touch_blocks", values=values))
            whole = whole and changed == len(ids)
        return whole

    async def add(self, namespace: str, records: Sequence[NewRecord], hour: int) -> list[int]:
        """Make durable records visible and return their ids; a blob appears only after everything it needs.

        One transaction, unless it would last too long. All records are of one append.
        """
        if sum(len(record.blobs) + len(record.parts) for record in records) <= ROWS_PER_JOB:
            return await self._database.write(lambda connection: _add_all(connection, namespace, records, hour))
        ids = await self._database.write(lambda connection: _add_blocks(connection, records, hour))
        for parts in _slices(_part_rows(ids, records), ROWS_PER_JOB):
            await self._database.write(partial(_add_parts, rows=parts, hour=hour))
        for blobs in _slices(_blob_rows(ids, records), ROWS_PER_JOB):
            await self._database.write(partial(_add_blobs, namespace=namespace, rows=blobs))
        return ids

    async def discard(self, blocks: Collection[int]) -> None:
        """Give up records that nobody will ask for; their bytes are dead."""

        def job(connection: sqlite3.Connection, ids: Sequence[int]) -> None:
            for id_ in ids:
                for name in ("bury_block", "delete_parts", "delete_block"):
                    connection.execute(SQL[name], {"id": id_})

        for ids in _slices(sorted(blocks), ROWS_PER_JOB // 4):
            await self._database.write(partial(job, ids=ids))

    async def quarantine(self, block: int, why: str, now_s: float) -> None:
        """Set a bad record aside: what it held is missing from now on, its bytes stay for whoever investigates."""

        def job(connection: sqlite3.Connection) -> None:
            values = {"id": block, "why": why, "found_at": now_s}
            for name in ("quarantine_block", "bury_block", "delete_parts", "delete_block"):
                connection.execute(SQL[name], values)

        await self._database.write(job)

    async def forget(self, namespace: str, digest: bytes) -> None:
        """Drop the row of one blob, which names the wrong record."""
        values = {"namespace": namespace, "digest": digest}
        await self._database.write(partial(_execute, query="forget_blob", values=values))

    async def announce(self, pack: Pack) -> None:
        def job(connection: sqlite3.Connection) -> None:
            connection.execute(SQL["add_namespace"], {"name": pack.namespace})
            connection.execute(SQL["add_pack"], {"name": pack.name, "namespace": pack.namespace})

        await self._database.write(job)

    async def seal(self, pack: Pack) -> None:
        await self._database.write(partial(_execute, query="seal_pack", values={"name": pack.name}))

    async def open_packs(self) -> list[tuple[Pack, int]]:
        """Return the packs that were growing, with the end of what was acknowledged."""
        rows = await self._database.read(lambda connection: connection.execute(SQL["open_packs"]).fetchall())
        return [(Pack(namespace, name), end) for namespace, name, end in rows]

    async def used_bytes(self) -> int:
        """Return the size of all packs together."""
        row = await self._database.read(lambda connection: connection.execute(SQL["used_bytes"]).fetchone())
        return int(row[0])

    async def close(self) -> None:
        await self._database.close()


def _execute(connection: sqlite3.Connection, query: str, values: dict[str, Any]) -> int:
    return connection.execute(SQL[query], values).rowcount


def _find(connection: sqlite3.Connection, namespace: str, digests: Collection[bytes]) -> Lookup:
    row = connection.execute(SQL["find_namespace"], {"name": namespace}).fetchone()
    if row is None:
        return Lookup({}, {}, {})
    ordered = sorted(set(digests))  # in the order of the tree: neighbours share its pages
    values = {"namespace": row[0], "digests": b"".join(ordered), "digest_bytes": len(ordered[0])}
    found = connection.execute(SQL["find_blobs"], values)
    places = {place.digest: place for place in map(Place._make, found)}
    blocks, parts = _block_rows(connection, {place.block for place in places.values()})
    return Lookup(places, blocks, parts)


def _block_rows(
    connection: sqlite3.Connection, ids: Collection[int]
) -> tuple[dict[int, BlockRow], dict[int, list[int]]]:
    """Return the blocks `ids` with those they depend on, and which depends on which."""
    rows = _rows(connection, "find_blocks", ids)
    recipes = [id_ for id_, _, _, _, kind, _ in rows if kind in _DEPENDENT]
    parts: dict[int, list[int]] = {id_: [] for id_ in recipes}
    for recipe, part in _rows(connection, "find_parts", recipes):
        parts[recipe].append(part)
    known = {row[0] for row in rows}
    rows += _rows(connection, "find_blocks", {part for needed in parts.values() for part in needed} - known)
    names = _rows(connection, "find_packs", {row[1] for row in rows})
    packs = {id_: Pack(namespace, name) for id_, namespace, name in names}
    blocks = {}
    for id_, pack, offset, length, kind, touched_h in rows:
        # A row that makes no sense is a damaged one; what it says it holds counts as missing and can be stored again.
        if pack in packs and kind in _KINDS and offset >= 0 and length > 0:
            blocks[id_] = BlockRow(id_, packs[pack], offset, length, _KINDS[kind], touched_h)
    return blocks, parts


def _rows(connection: sqlite3.Connection, query: str, ids: Iterable[int]) -> list[tuple[Any, ...]]:
    ids = sorted(ids)
    return connection.execute(SQL[query], {"ids": json.dumps(ids)}).fetchall() if ids else []


def _add_blocks(connection: sqlite3.Connection, records: Sequence[NewRecord], hour: int) -> list[int]:
    (pack_id,) = connection.execute(SQL["find_pack"], {"name": records[0].location.pack.name}).fetchone()
    ids: list[int] = []
    for record in records:
        _, offset, length = record.location
        values = {"pack": pack_id, "offset": offset, "length": length, "kind": record.kind, "touched_h": hour}
        ids.append(connection.execute(SQL["add_block"], values).lastrowid or 0)
    grown = {
        "id": pack_id,
        "end": max(record.location.end for record in records),
        "added_bytes": sum(record.location.length for record in records),
    }
    connection.execute(SQL["grow_pack"], grown)
    return ids


def _add_all(connection: sqlite3.Connection, namespace: str, records: Sequence[NewRecord], hour: int) -> list[int]:
    ids = _add_blocks(connection, records, hour)
    _add_parts(connection, _part_rows(ids, records), hour)
    _add_blobs(connection, namespace, _blob_rows(ids, records))
    return ids


def _part_rows(ids: Sequence[int], records: Sequence[NewRecord]) -> list[tuple[int, int]]:
    return [(id_, part) for id_, record in zip(ids, records, strict=True) for part in record.parts]


def _add_parts(connection: sqlite3.Connection, rows: Sequence[tuple[int, int]], hour: int) -> None:
    connection.executemany(SQL["add_part"], rows)
    # A blob that was just composed is promised as long as one that was stored, so its chunks are, too.
    connection.execute(SQL["touch_blocks"], {"ids": json.dumps([part for _, part in rows]), "touched_h": hour})


def _blob_rows(ids: Sequence[int], records: Sequence[NewRecord]) -> list[tuple[bytes, int, int, int]]:
    rows = [
        (digest, id_, entry, size)
        for id_, record in zip(ids, records, strict=True)
        for digest, entry, size in record.blobs
    ]
    rows.sort()  # neighbours in the tree are written together
    return rows


def _add_blobs(connection: sqlite3.Connection, namespace: str, rows: Sequence[tuple[bytes, int, int, int]]) -> None:
    (namespace_id,) = connection.execute(SQL["find_namespace"], {"name": namespace}).fetchone()
    connection.executemany(SQL["add_blob"], [(namespace_id, *row) for row in rows])


def _slices(items: Sequence[T], length: int) -> Iterable[Sequence[T]]:
    return (items[start : start + length] for start in range(0, len(items), length))
