"""Keeps the blob store within its limits: what nobody asked for goes, and the space of what went is given back.

Knows when and how much; `tidying.py` does it, or only counts what would be done. The invariants: nothing is evicted
within the promised time after it was last asked for, nor for as long after a stop that was not clean or a jump of the
clock; the oldest goes first, and no more than is needed; uploads and readers come before all of this, except when an
upload waits for the room.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass

from isolate.clock import Clock
from isolate.errors import IsolateError, NoSpace
from server.stores.blobs import LocalBlobStores
from server.stores.compaction import Compactor, Reclaimed
from server.stores.limits import BlobLimits
from server.stores.records import OUTPUT_SPACE
from server.stores.reserve import Reserve
from server.stores.sqlite_upkeep import Age, Freed, PackRow, PackState
from server.stores.tidying import Rehearsal, StoreTidying, Tidying

WORTHWHILE = 0.5  # a pack that is half dead is compacted: no more than one byte is copied for each that is given back
URGENT = 0.05  # the same when space is short
SLACK = 0.1  # of the limit: how much is freed beyond what is needed, so that the next upload needs not wait
WORK_SHARE = 0.25  # of the time, so that writers are not starved
LONGEST_PAUSE_S = 2.0
JUMP_S = 300.0  # adjustments of a clock are smaller; a suspended machine looks like a jump as well, and is one


@dataclass(frozen=True, slots=True)
class Tidied:
    """What one round did, or would do."""

    evicted: Freed
    packs: int
    freed_bytes: int
    copied_bytes: int
    stuck_packs: int = 0  # those the disk does not give back
    short_bytes: int = 0  # what had to go
    over_bytes: int = 0  # what still is, or would be, above the limits
    cramped_packs: int = 0  # those whose living records the disk has no room to copy

    @property
    def gained_bytes(self) -> int:
        """How much less the packs take: what is alive in a pack is copied before it goes."""
        return self.freed_bytes - self.copied_bytes


class Calm:
    """Whether eviction may be trusted with the times it sees."""

    def __init__(self, clock: Clock, promised_s: float, *, stopped_cleanly: bool) -> None:
        self._clock, self._promised_s = clock, promised_s
        self._difference_s = clock.now() - clock.monotonic()
        self._until_s = clock.monotonic() + (0.0 if stopped_cleanly else promised_s)

    def __bool__(self) -> bool:
        difference_s = self._clock.now() - self._clock.monotonic()
        if abs(difference_s - self._difference_s) > JUMP_S:
            self._until_s = self._clock.monotonic() + self._promised_s
        self._difference_s = difference_s
        return self._clock.monotonic() >= self._until_s


class Janitor:
    """Tidies one store; `run` is for a schedule, `make_room` for an upload that does not fit."""

    def __init__(
        self,
        stores: LocalBlobStores,
        clock: Clock,
        *,
        stopped_cleanly: bool = True,
        work_share: float = WORK_SHARE,
        reserve: Reserve | None = None,
    ) -> None:
        self._stores, self._clock, self._work_share, self._reserve = stores, clock, work_share, reserve
        self._calm = Calm(clock, stores.limits.promised_s, stopped_cleanly=stopped_cleanly)
        compactor = Compactor(stores.upkeep, stores.packs, stores.presence, stores.monitor, self._pause)
        self._store = StoreTidying(stores, compactor)
        self._turn = asyncio.Lock()
        self._waiting_uploads = 0
        self._woke_s = clock.monotonic()

    @property
    def is_calm(self) -> bool:
        """Whether what an unclean stop or a jump of the clock put in doubt is over."""
        return bool(self._calm)

    async def run(self, dead_share: float = WORTHWHILE) -> Tidied:
        """Evict what is too old or too much, compact what is mostly dead."""
        async with self._turn:
            try:
                tidied = await self._round(self._store, dead_share)
            except NoSpace:
                tidied = await self._cramped_round(dead_share)
            if self._reserve is not None:
                await asyncio.to_thread(self._reserve.take)
        self._stores.monitor.count("evicted_blocks", tidied.evicted.blocks)
        return tidied

    async def preview(self, dead_share: float = WORTHWHILE) -> Tidied:
        """Return what `run` would do, if nobody uses the store meanwhile; changes nothing."""
        return await self._round(Rehearsal(self._stores.upkeep), dead_share)

    async def make_room(self, size_bytes: int) -> None:
        """Free at least `size_bytes` if that is allowed; an upload waits for it."""
        self._waiting_uploads += 1
        try:
            async with self._turn:
                shortage = await self._shortage_bytes(size_bytes)
                if shortage and self.is_calm:
                    await self._evict_oldest(self._store, shortage)
                    await self._compact(self._store, shortage, WORTHWHILE)
        except IsolateError as error:
            self._stores.monitor.problem(error)  # the upload will be told that there is no space
        finally:
            self._waiting_uploads -= 1

    async def _cramped_round(self, dead_share: float) -> Tidied:
        """Make room for the index to note what goes, with the reserve and packs of which nothing is alive; use it."""
        if self._reserve is not None:
            await asyncio.to_thread(self._reserve.give_up)
        database = self._stores.index.database
        database.has_short_log = True
        try:
            return await self._round(self._store, dead_share, await self._compact(self._store, 0, 1.0))
        finally:
            database.has_short_log = False

    async def _round(self, store: Tidying, dead_share: float, before: Sequence[Reclaimed] = ()) -> Tidied:
        self._woke_s = self._clock.monotonic()
        evicted = await self._evict_unused(store) if self.is_calm else Freed()
        shortage = await self._shortage_bytes(0)
        if shortage and self.is_calm:
            evicted += await self._evict_oldest(store, shortage)
        over_bytes = await self._over_bytes()
        compacted = await self._compact(store, shortage, dead_share)
        over_bytes -= sum(one.freed_bytes - one.copied_bytes for one in compacted)
        done = [*before, *compacted]
        return Tidied(
            evicted,
            packs=sum(one.freed_bytes > 0 for one in done),
            freed_bytes=sum(one.freed_bytes for one in done),
            copied_bytes=sum(one.copied_bytes for one in done),
            stuck_packs=sum(one.is_stuck for one in done),
            short_bytes=shortage,
            over_bytes=max(0, over_bytes),
            cramped_packs=sum(one.is_cramped for one in compacted),
        )

    async def _evict_unused(self, store: Tidying) -> Freed:
        freed = Freed()
        for age in await _ages(store):
            cutoff_h = self._unused_h(age.name)
            if age.oldest_h is None or age.oldest_h > cutoff_h:
                continue
            while (more := await store.evict(age.namespace, cutoff_h)).blocks:
                freed += more
                await self._pause()
        return freed

    async def _evict_oldest(self, store: Tidying, shortage_bytes: int) -> Freed:
        """Evict in the order of age until compaction can give back enough, or all that is left is promised."""
        freed = Freed()
        while (lack_bytes := shortage_bytes - await _reclaimable_bytes(store)) > 0:
            ages = [age for age in await _ages(store) if age.oldest_h is not None]
            oldest = min(ages, key=lambda age: age.oldest_h or 0, default=None)
            cutoff_h = _hours_before(self._clock.now(), self._stores.limits.promised_s)
            if oldest is None or oldest.oldest_h is None or oldest.oldest_h > cutoff_h:
                break
            freed += await store.evict(oldest.namespace, oldest.oldest_h, lack_bytes)
            await self._pause()
        return freed

    async def _compact(self, store: Tidying, shortage_bytes: int, dead_share: float) -> list[Reclaimed]:
        """Compact the packs that are worth it, and others while there is a shortage; the most dead first."""
        done: list[Reclaimed] = []
        for row in await store.packs():
            is_short = sum(one.freed_bytes - one.copied_bytes for one in done) < shortage_bytes
            if _is_worth(row, min(dead_share, URGENT) if is_short else dead_share):
                try:
                    done.append(await store.reclaim(row))
                except NoSpace as error:  # for what is alive in it; one that is more dead, or smaller, may go
                    self._stores.monitor.problem(f"Pack {row.pack.name} is kept for now: {error}")
                    done.append(Reclaimed(is_cramped=True))
                await self._pause()
        return done

    async def _over_bytes(self) -> int:
        """Return how much is above the limits at this moment."""
        limits = self._stores.limits
        over = [limits.min_free_bytes - await self._stores.packs.free_bytes()]
        if limits.max_bytes is not None:
            over.append(self._stores.used_bytes - limits.max_bytes)
        return max(0, *over)

    async def _shortage_bytes(self, size_bytes: int) -> int:
        """Return how much has to go so that `size_bytes` fit with some slack; 0 when they fit anyway."""
        limits = self._stores.limits
        over = [self._stores.limits.min_free_bytes + size_bytes - await self._stores.packs.free_bytes()]
        slack = [limits.min_free_bytes * SLACK]
        if limits.max_bytes is not None:
            over.append(self._stores.used_bytes + size_bytes - limits.max_bytes)
            slack.append(limits.max_bytes * SLACK)
        # Half of the slack may be used up before anything happens, else every upload would cause a little round.
        short = [int(more + most) for more, most in zip(over, slack, strict=True) if more + most / 2 > 0]
        return max(short, default=0)

    async def _pause(self) -> None:
        """Leave the disk and the writer thread to others for a while."""
        now_s = self._clock.monotonic()
        if not self._waiting_uploads:
            pause_s = min((now_s - self._woke_s) * (1 / self._work_share - 1), LONGEST_PAUSE_S)
            if pause_s > 0:
                await self._clock.sleep(pause_s)
        self._woke_s = self._clock.monotonic()

    def _unused_h(self, namespace: str) -> int:
        return _hours_before(self._clock.now(), _kept_s(self._stores.limits, namespace))


def _kept_s(limits: BlobLimits, namespace: str) -> float:
    return max(limits.promised_s, limits.kept_in_name_s(namespace))


def _hours_before(now_s: float, age_s: float) -> int:
    """Return the last hour that is wholly `age_s` ago: blocks note the end of the hour they were asked for in."""
    return int((now_s - age_s) // 3600)


async def _ages(store: Tidying) -> list[Age]:
    """Return what may be evicted: what tasks printed is kept as long as they are, and goes with them."""
    return [age for age in await store.ages() if age.name != OUTPUT_SPACE.name]


async def _reclaimable_bytes(store: Tidying) -> int:
    """Return what compaction gives back when space is short."""
    return sum(row.dead_bytes for row in await store.packs() if _is_worth(row, URGENT))


def _is_worth(row: PackRow, dead_share: float) -> bool:
    if row.state is PackState.DEAD or (row.state is PackState.SEALED and not row.committed_bytes):
        return True
    return row.dead_bytes > 0 and row.dead_bytes >= dead_share * row.committed_bytes
