"""What a janitor can do to a store, done for real or only counted, so that what it decides is decided in one place.

Knows no limit and no time. The invariant: `Rehearsal` answers as the store would after the same calls, and changes
nothing; nobody else may change the store meanwhile.
"""

from __future__ import annotations

from collections import Counter, deque
from typing import Protocol

from server.stores.blobs import LocalBlobStores
from server.stores.compaction import Compactor, Reclaimed
from server.stores.sqlite_upkeep import BLOCKS_PER_JOB, Age, Freed, PackRow, PackState, UpkeepIndex, Victim, enough_of

AHEAD = 10_000  # blocks a rehearsal reads at once; each time it has to pass all those before them


class Tidying(Protocol):
    """Every call may raise Unavailable, NoSpace, IndexCorrupt."""

    async def ages(self) -> list[Age]:
        """Return the namespaces and their oldest blocks."""
        ...

    async def evict(self, namespace: int, cutoff_h: int, enough_bytes: int | None = None) -> Freed:
        """Evict some of the oldest blocks, last asked for in `cutoff_h` or before, and no more than is enough."""
        ...

    async def packs(self) -> list[PackRow]:
        """Return all packs, those with the largest dead share first."""
        ...

    async def reclaim(self, row: PackRow) -> Reclaimed:
        """Give back the space of a pack."""
        ...


class StoreTidying:
    """Does it."""

    def __init__(self, stores: LocalBlobStores, compactor: Compactor) -> None:
        self._stores, self._compactor = stores, compactor
        self.ages, self.evict, self.packs = stores.upkeep.ages, stores.upkeep.evict, stores.upkeep.packs

    async def reclaim(self, row: PackRow) -> Reclaimed:
        if row.state is PackState.OPEN:
            await self._stores.seal(row.pack)
            row = next(sealed for sealed in await self.packs() if sealed.id == row.id)
        reclaimed = await self._compactor.reclaim(row)
        self._stores.account(reclaimed.copied_bytes - reclaimed.freed_bytes)
        return reclaimed


class Rehearsal:
    """Counts what would be done."""

    def __init__(self, upkeep: UpkeepIndex) -> None:
        self._upkeep = upkeep
        self._read: Counter[int] = Counter()  # blocks of a namespace, in the order in which they would go
        self._next: dict[int, deque[Victim]] = {}  # those of them that are still there
        self._buried: Counter[int] = Counter()  # bytes by pack

    async def ages(self) -> list[Age]:
        ages = []
        for age in await self._upkeep.ages():
            blocks = await self._ahead(age.namespace)
            ages.append(age._replace(oldest_h=blocks[0].touched_h if blocks else None))
        return ages

    async def evict(self, namespace: int, cutoff_h: int, enough_bytes: int | None = None) -> Freed:
        blocks = await self._ahead(namespace)
        old = [block for block in list(blocks)[:BLOCKS_PER_JOB] if block.touched_h <= cutoff_h]
        victims = enough_of(old, enough_bytes)
        for victim in victims:
            blocks.popleft()
            self._buried[victim.pack] += victim.length
        return Freed(len(victims), sum(victim.length for victim in victims))

    async def packs(self) -> list[PackRow]:
        rows = [
            row._replace(
                live_bytes=row.live_bytes - self._buried[row.id], dead_bytes=row.dead_bytes + self._buried[row.id]
            )
            for row in await self._upkeep.packs()
        ]
        return sorted(rows, key=lambda row: (-row.dead_bytes / max(row.committed_bytes, 1), row.id))

    async def reclaim(self, row: PackRow) -> Reclaimed:
        return Reclaimed(row.live_bytes, row.committed_bytes)

    async def _ahead(self, namespace: int) -> deque[Victim]:
        """Return blocks that would go next, at least as many as go at once, or all there are."""
        blocks = self._next.setdefault(namespace, deque())
        if len(blocks) < BLOCKS_PER_JOB:
            more = await self._upkeep.oldest(namespace, AHEAD, skip=self._read[namespace])
            self._read[namespace] += len(more)
            blocks.extend(more)
        return blocks
