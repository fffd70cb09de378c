"""Compaction: gives back the space of dead records by moving the living ones out of a pack, byte for byte.

Knows no limit and no schedule: it is told which pack. The order keeps all readable at every moment: copies durable
in another pack, then the index moves there, block by block; when nothing in the old pack is alive, the index marks it
dead, then its file goes, then its row. Each step can be the last one before a crash: `finish_dead` completes it at the
start. Only where the disk has no room for the index to note it the file of a pack without living records goes first;
such a pack without a file is compacted like any other. The invariants: a record is copied only if its check is right, a
bad one is set aside and what is left of its bytes is saved before the pack goes; ids of blocks stay, so that blobs and
recipes never notice.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass

from isolate.errors import NoSpace
from isolate.monitor import Monitor
from server.stores.pack_scan import Head, fault_of
from server.stores.pack_storage import Location, Pack, PackStorage
from server.stores.presence import Presence
from server.stores.records import MAGICS
from server.stores.sqlite_index import BlockRow, Kind
from server.stores.sqlite_upkeep import PackRow, PackState, PlacedBlock, UpkeepIndex

BATCH_BYTES = 8 << 20  # copied per sync; what a compaction holds in memory
LANE = "kept"  # copies do not share packs with uploads: what was kept once is likely to be kept on

Pause = Callable[[], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Reclaimed:
    """What became of a pack: bytes copied out of it, its own if it is gone; whether the disk does not give it back."""

    copied_bytes: int = 0
    freed_bytes: int = 0
    is_stuck: bool = False
    is_cramped: bool = False  # there is no room to copy what is alive


class Compactor:
    """Empties packs; one call at a time."""

    def __init__(
        self, index: UpkeepIndex, packs: PackStorage, presence: Presence, monitor: Monitor, pause: Pause
    ) -> None:
        self._index, self._packs, self._presence = index, packs, presence
        self._monitor, self._pause = monitor, pause
        self._stuck: set[Pack] = set()  # packs the disk does not give back; they are tried again after the next start

    async def reclaim(self, row: PackRow) -> Reclaimed:
        """Empty and remove a sealed pack.

        Raises NoSpace, Unavailable; what was done until then counts.
        """
        if row.pack in self._stuck:
            return Reclaimed(is_stuck=True)
        copied_bytes = 0
        async for batch in self._batches(row):
            copied = await self._copy(row, batch)
            if copied is None:
                self._stuck.add(row.pack)
                return Reclaimed(copied_bytes, is_stuck=True)
            copied_bytes += copied
            await self._pause()
        if not await self._packs.rescue(row.pack, await self._index.bad_places(row.pack)):
            self._monitor.problem(f"Pack {row.pack.name} is kept: its bad records cannot be saved")
            self._stuck.add(row.pack)
            return Reclaimed(copied_bytes, is_stuck=True)
        heads = await self._packs.heads(row.pack)
        try:
            is_gone = await self._bury(row, heads)
        except NoSpace:
            if row.state is PackState.OPEN or await self._index.blocks_of(row.id, -1):
                raise
            await self._packs.delete(row.pack)
            is_gone = await self._bury(row, heads)
        if not is_gone:
            return Reclaimed(copied_bytes)
        self._monitor.count("compacted_packs")
        self._monitor.count("copied_bytes", copied_bytes)
        return Reclaimed(copied_bytes, row.committed_bytes)

    async def _batches(self, row: PackRow) -> AsyncIterator[list[PlacedBlock]]:
        after = -1
        while blocks := await self._index.blocks_of(row.id, after):
            for batch in _cut(blocks):
                yield batch
            after = blocks[-1].offset

    async def _copy(self, row: PackRow, batch: Sequence[PlacedBlock]) -> int | None:
        """Move `batch` out of its pack; returns the bytes copied, or None when the disk does not give them back."""
        read = await self._packs.read([Location(row.pack, block.offset, block.length) for block in batch])
        good: list[tuple[PlacedBlock, bytes]] = []
        for block, record in zip(batch, read, strict=True):
            why = "its bytes are gone" if record is None else fault_of(record)
            if record is not None and why is None:
                good.append((block, record))
                continue
            length = (await self._packs.lengths([row.pack]))[row.pack]
            if record is None and length >= block.offset + block.length:
                self._monitor.problem(f"Pack {row.pack.name} cannot be read and is kept")
                return None
            await self._presence.condemn(_row(row.pack, block), why or "")
        if not good:
            return 0
        locations = await self._packs.append(row.pack.namespace, [record for _, record in good], LANE)
        # If this fails the copies are garbage, of which nobody knows; taking them back might take what was moved.
        await self._index.move(row.id, [block for block, _ in good], locations)
        return sum(len(record) for _, record in good)

    async def _bury(self, row: PackRow, heads: Sequence[Head]) -> bool:
        """Take the last steps of a pack; False when something in it is alive."""
        await self._sweep(row, heads)
        if row.state is not PackState.DEAD and not await self._index.mark_dead(row.id):
            return False
        await finish(row, self._index, self._packs)
        return True

    async def _sweep(self, row: PackRow, heads: Sequence[Head]) -> None:
        """Drop the rows of blobs whose records die with this pack: it is the last one to know their digests."""
        digests: list[bytes] = []
        for head in heads:
            digests += [blob.digest for blob in head.blobs]
            if len(digests) >= 2_000:
                await self._index.forget_stale(row.namespace, digests)
                digests.clear()
                await self._pause()
        await self._index.forget_stale(row.namespace, digests)


async def finish(row: PackRow, index: UpkeepIndex, packs: PackStorage) -> None:
    """Take the last two steps of a pack that is marked dead."""
    await packs.delete(row.pack)
    await index.drop(row.id)


async def finish_dead(index: UpkeepIndex, packs: PackStorage) -> None:
    """Complete what a crash interrupted, or have the next round do it where there is no room."""
    for row in await index.packs():
        if row.state is PackState.DEAD:
            with suppress(NoSpace):
                await finish(row, index, packs)


def _cut(blocks: Sequence[PlacedBlock]) -> Iterator[list[PlacedBlock]]:
    batch: list[PlacedBlock] = []
    size_bytes = 0
    for block in blocks:
        if batch and size_bytes + block.length > BATCH_BYTES:
            yield batch
            batch, size_bytes = [], 0
        batch.append(block)
        size_bytes += block.length
    if batch:
        yield batch


def _row(pack: Pack, block: PlacedBlock) -> BlockRow:
    kind = Kind(block.kind) if block.kind in MAGICS else Kind.BLOCK  # a damaged row
    return BlockRow(block.id, pack, block.offset, block.length, kind, block.touched_h)
