"""The index and the packs compared, on demand: what is bad is set aside, what the index forgot is restored.

Works on an open store that nobody else uses. The invariants: nothing is deleted but index rows that name nothing; a bad
record goes to quarantine, its bytes stay; every problem is reported with the place where it lies, also where a full
disk does not take the note.
"""

from __future__ import annotations

import asyncio
import math
import random
import sqlite3
from collections.abc import Awaitable, Callable, Container, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from isolate.cas.block import ChunkList
from isolate.cas.digest import Algorithm
from isolate.errors import IndexCorrupt, InvalidRecord, NoSpace
from server.stores.blobs import LocalBlobStores
from server.stores.pack_scan import Head, PackReader, fault_of
from server.stores.pack_storage import Pack
from server.stores.records import MAGICS, OUTPUT_SPACE, namespace_of, opened, wrong_in
from server.stores.sqlite_index import Kind, Lookup
from server.stores.sqlite_upkeep import PackRow, PackState, PlacedBlock
from server.stores.task_rows import SQL
from server.stores.writer import Database
from swarming import ids

OUTPUTS_AT_ONCE = 1_000
Report = Callable[[str], object]


@dataclass(frozen=True, slots=True)
class Checked:
    """What was looked at and what was found."""

    packs: int = 0
    records: int = 0
    whole_records: int = 0  # of these, read and verified whole
    read_bytes: int = 0
    bad_records: int = 0  # now in quarantine
    wrong_rows: int = 0  # of the index; mended
    stale_rows: int = 0  # named what was evicted; removed, and no problem
    unknown_packs: int = 0
    incomplete_blobs: int = 0  # composed ones that miss a chunk
    short_packs: int = 0  # files that are gone, or shorter than what was stored
    lost_outputs: int = 0  # runs of tasks that are known to have printed what is gone
    unnoted: int = 0  # changes of the index that the disk had no room for

    @property
    def problems(self) -> int:
        of_packs = self.bad_records + self.unknown_packs + self.short_packs
        return of_packs + self.wrong_rows + self.incomplete_blobs + self.lost_outputs


@dataclass(frozen=True, slots=True)
class _Look:
    """What the bytes of a block say."""

    block: PlacedBlock
    head: Head | None
    why: str | None
    read_bytes: int


class Check:
    """One check; `read_share` of the records of each pack, rounded up, are read and verified whole.

    Which ones `chance` says: the same for one seed as long as the store does not change. Of the others only the headers
    are read.
    """

    def __init__(
        self,
        stores: LocalBlobStores,
        root: Path,
        report: Report,
        read_share: float,
        chance: random.Random,
        now_s: float,
    ) -> None:
        self._stores, self._root, self._report = stores, root, report
        self._read_share, self._chance, self._now_s = read_share, chance, now_s
        self.found = Checked()

    async def run(self) -> Checked:
        """Check everything; raises IndexCorrupt when the index itself is damaged."""
        upkeep = self._stores.upkeep
        if (damage := await upkeep.damage()) is not None:
            raise IndexCorrupt(f"blobs.sqlite is damaged: {damage}")
        rows = await upkeep.packs()
        for row in sorted(rows, key=lambda row: row.pack):
            if row.state is not PackState.DEAD:
                await self._pack(row)
        known = {row.pack for row in rows}
        for path in sorted((self._root / "packs").glob("*/*.pack")):
            if Pack(path.parent.name, path.stem) not in known:
                self._add(unknown_packs=1)
                advice = "--rebuild-index takes it in" if path.is_file() else "it is no regular file: remove it"
                self._report(f"Pack {path} is not in the index ({advice})")
        await self._drop_stale()
        return self.found

    async def outputs(self, tasks: Database) -> Checked:
        """See that what tasks printed is there, after `run`; nothing is mended, because nothing else has it."""
        after = (-1, -1)
        while rows := await tasks.read(partial(_outputs_after, after=after)):
            lookup = await self._stores.index.find(OUTPUT_SPACE.name, {digest for _, _, digest in rows})
            for value, try_number, digest in rows:
                if not _is_whole(lookup, digest):
                    self._add(lost_outputs=1)
                    self._report(f"What run {ids.pack(value, try_number)} printed is gone: no blob {digest.hex()}")
            after = rows[-1][:2]
        return self.found

    async def _pack(self, row: PackRow) -> None:
        self._add(packs=1)
        path = self._root / "packs" / row.pack.namespace / f"{row.pack.name}.pack"
        algorithm = namespace_of(row.pack.namespace).algorithm
        length = path.stat().st_size if path.is_file() else 0
        if length < row.committed_bytes:
            self._add(short_packs=1)
            is_special = path.exists() and not path.is_file()  # a pipe, for one
            what = "is no regular file: it has no bytes" if is_special else f"has {length} bytes"
            self._report(f"Pack {path} {what}, {row.committed_bytes} were stored")
        after = -1
        while blocks := await self._stores.upkeep.blocks_of(row.id, after):
            # Rounded up, so that a share of a small pack is not nothing, however often one asks.
            chosen = set(self._chance.sample(range(len(blocks)), math.ceil(len(blocks) * self._read_share)))
            looks = await asyncio.to_thread(partial(_look, path, blocks, chosen, algorithm))
            self._add(whole_records=len(chosen))
            for look in looks:
                self._add(records=1, read_bytes=look.read_bytes)
                if look.why is not None:
                    await self._condemn(row.pack, look.block, look.why)
            await self._compare(row, [look for look in looks if look.why is None], path)
            after = blocks[-1].offset
        await self._note(self._stores.upkeep.settle(row.id, max(length, row.committed_bytes)))

    async def _condemn(self, pack: Pack, block: PlacedBlock, why: str) -> None:
        self._add(bad_records=1)
        self._report(f"Record at {block.offset} of pack {pack.name} is bad: {why}")
        await self._note(self._stores.index.quarantine(block.id, why, self._now_s))

    async def _compare(self, row: PackRow, looks: Sequence[_Look], path: Path) -> None:
        """Compare the rows of blobs with what sound records hold."""
        digests = {blob.digest for look in looks if look.head for blob in look.head.blobs}
        lookup = await self._stores.index.find(row.pack.namespace, digests)
        lost: list[tuple[int, bytes, int, int, int]] = []
        for look in looks:
            assert look.head is not None
            if look.block.kind in {Kind.BLOCK, Kind.RECIPE}:
                lost += _lost_rows(row.namespace, look.block.id, look.head, lookup)
            if look.block.kind == Kind.RECIPE:
                await self._recipe(row, look.block, path)
        for _, digest, _, _, _ in lost:
            self._report(f"The index was wrong about blob {digest.hex()}; restored from pack {row.pack.name}")
        if lost:
            self._add(wrong_rows=len(lost))
            await self._note(self._stores.upkeep.restore(lost, []))

    async def _recipe(self, row: PackRow, block: PlacedBlock, path: Path) -> None:
        """See that the index knows of every block a composed blob needs."""

        def read() -> ChunkList:
            with PackReader(path) as reader:
                recipe = opened(reader.read(block.offset, block.length), namespace_of(row.pack.namespace).algorithm)
            if not isinstance(recipe, ChunkList):
                raise InvalidRecord("Record is no recipe")
            return recipe

        try:
            recipe = await asyncio.to_thread(read)
        except InvalidRecord as error:
            await self._condemn(row.pack, block, str(error))
            return
        wanted = {recipe.blob.digest, *(chunk.digest for chunk in recipe.chunks)}
        lookup = await self._stores.index.find(row.pack.namespace, wanted)
        place = lookup.places.get(recipe.blob.digest)
        if place is None or place.block != block.id:
            return  # another recipe stands for this blob
        known = set(lookup.parts.get(block.id, ()))
        places = [lookup.places.get(chunk.digest) for chunk in recipe.chunks]
        if any(chunk is None or chunk.block not in lookup.blocks for chunk in places) or known - lookup.blocks.keys():
            self._add(incomplete_blobs=1)
            self._report(f"Composed blob {recipe.blob.digest.hex()} misses a chunk: it counts as missing")
            return
        if parts := {chunk.block for chunk in places if chunk is not None} - known:
            self._add(wrong_rows=len(parts))
            self._report(f"The index did not know all chunks of blob {recipe.blob.digest.hex()}; restored")
            await self._note(self._stores.upkeep.restore([], [(block.id, part) for part in parts]))

    async def _drop_stale(self) -> None:
        after = (0, b"")
        while stale := await self._stores.upkeep.stale_blobs(after):
            for namespace in sorted({namespace for namespace, _ in stale}):
                digests = [digest for one, digest in stale if one == namespace]
                await self._note(self._stores.upkeep.forget_stale(namespace, digests))
            self._add(stale_rows=len(stale))
            after = stale[-1]

    async def _note(self, change: Awaitable[None]) -> None:
        """Change the index if there is room for it: looking goes on without."""
        try:
            await change
        except NoSpace:
            self._add(unnoted=1)

    def _add(self, **more: int) -> None:
        self.found = replace(self.found, **{name: getattr(self.found, name) + more[name] for name in more})


def _outputs_after(db: sqlite3.Connection, after: tuple[int, int]) -> list[tuple[int, int, bytes]]:
    return db.execute(SQL["outputs_after"], (*after, OUTPUTS_AT_ONCE)).fetchall()


def _is_whole(lookup: Lookup, digest: bytes) -> bool:
    """Say whether the index has a blob and, where it is composed, all it needs."""
    place = lookup.places.get(digest)
    if place is None or place.block not in lookup.blocks:
        return False
    parts = lookup.parts.get(place.block)
    return parts is None or (bool(parts) and lookup.blocks.keys() >= set(parts))


def _look(path: Path, blocks: Sequence[PlacedBlock], chosen: Container[int], algorithm: Algorithm) -> list[_Look]:
    """Look at blocks of one pack: those whose numbers are chosen whole, of the others the header."""
    try:
        reader = PackReader(path)
    except OSError as error:
        return [_Look(block, None, f"its pack cannot be opened: {error.strerror}", 0) for block in blocks]
    looks = []
    with reader:
        for number, block in enumerate(blocks):
            try:
                looks.append(_looked_at(reader, block, algorithm, whole=number in chosen))
            except OSError as error:
                looks.append(_Look(block, None, f"it cannot be read: {error.strerror}", 0))
    return looks


def _looked_at(reader: PackReader, block: PlacedBlock, algorithm: Algorithm, *, whole: bool) -> _Look:
    if reader.length < block.offset + block.length:
        return _Look(block, None, "its bytes are gone", 0)
    head = reader.head(block.offset)
    if head is None or head.length != block.length or head.magic != MAGICS.get(block.kind):
        # The header or the index is wrong; the check tells which.
        why = fault_of(reader.read(block.offset, block.length)) or "it is another record than the index says"
        return _Look(block, None, why, 0)
    if not whole:
        return _Look(block, head, None, 0)
    return _Look(block, head, wrong_in(reader.read(block.offset, block.length), algorithm), block.length)


def _lost_rows(namespace: int, block: int, head: Head, lookup: Lookup) -> list[tuple[int, bytes, int, int, int]]:
    """Return rows for what a record holds and no row, or a wrong one, stands for."""
    rows = []
    for entry, (digest, size) in enumerate(head.blobs):
        place = lookup.places.get(digest)
        lives = place is not None and place.block in lookup.blocks
        if not lives or (place is not None and place.block == block and (place.entry, place.size) != (entry, size)):
            rows.append((namespace, digest, block, entry, size))
    return rows
