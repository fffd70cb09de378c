"""From digests to records: reads packs in their own order, checks every record, leaves out what nobody wants.

Knows no index and no HTTP: it is given places and says what it found bad. The invariants: no record leaves unchecked; a
record that is bad, or that does not hold what the index says it holds, is reported to `Presence` and its blobs to the
reader as absent.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Collection, Iterable, Iterator, Sequence
from concurrent.futures import Executor
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TypeVar
from weakref import WeakValueDictionary

from isolate.cas.block import Absent, Block, ChunkList, decode_record
from isolate.cas.digest import Algorithm, Blob, Namespace
from isolate.cas.packing import BlockBuilder
from isolate.errors import BlobCorrupt, InvalidRecord
from server.stores.budget import ByteBudget
from server.stores.presence import Presence
from server.stores.sqlite_index import BlockRow, Lookup

BATCH_BYTES = 2 << 20  # records read and checked per hop into a thread
SHARED_BYTES = 16 << 20  # sound records that one reader has just had and others, who read now as well, may want next
SPARSE = 4  # a block of which less than 1/4 is wanted is opened and packed anew
REPACK_LEVEL = 1  # somebody waits for it

T = TypeVar("T")


@dataclass(slots=True)
class Wanted:
    """One record, and which of its blobs somebody asked for: digest by entry number."""

    row: BlockRow
    entries: dict[int, bytes]


@dataclass(slots=True)
class Opened:
    """What a thread made of a batch of records."""

    records: list[Block | ChunkList] = field(default_factory=list)
    bad: list[tuple[Wanted, str]] = field(default_factory=list)  # the record is damaged
    wrong: list[bytes] = field(default_factory=list)  # the index names a record that does not hold this
    lost: list[Wanted] = field(default_factory=list)  # the pack does not have these bytes any more
    sound: list[tuple[BlockRow, Block | ChunkList]] = field(default_factory=list)  # as they lie in the pack


Use = Callable[[Block, Wanted], Iterable[Block]]


class SharedRecords:
    """Sound records of the last moments, for readers of the same tree at the same time: read and checked once.

    Holds SHARED_BYTES at most, and nothing once nobody reads: who comes alone reads the disk.
    """

    def __init__(self) -> None:
        self._readers = self._size_bytes = 0
        self._records: dict[int, tuple[int, Block | ChunkList]] = {}  # by the row, oldest first
        self._turns: WeakValueDictionary[int, asyncio.Lock] = WeakValueDictionary()

    @contextmanager
    def reading(self) -> Iterator[None]:
        """Count a reader for as long as it reads."""
        self._readers += 1
        try:
            yield
        finally:
            self._readers -= 1
            if not self._readers:
                self._records.clear()
                self._size_bytes = 0

    def turn(self, batch: Sequence[Wanted]) -> asyncio.Lock:
        """Return what to hold while `batch` is looked for and read, so that who wants the same waits for it."""
        return self._turns.setdefault(batch[0].row.id, asyncio.Lock())

    def keep(self, row: BlockRow, record: Block | ChunkList) -> None:
        """Take a record whose check was right."""
        if self._readers < 2 or row.id in self._records:
            return
        self._records[row.id] = row.length, record
        self._size_bytes += row.length
        while self._size_bytes > SHARED_BYTES:
            self._size_bytes -= self._records.pop(next(iter(self._records)))[0]

    def all_of(self, batch: Sequence[Wanted]) -> list[Block | ChunkList] | None:
        """Return the records of `batch` as they are to be sent; None when one is not here, or not to be sent whole."""
        found = []
        for wanted in batch:
            kept = self._records.get(wanted.row.id)
            if kept is None or not _is_worth_whole(kept[1], wanted) or _matched(kept[1], wanted)[1]:
                return None
            found.append(kept[1])
        return found


class RecordSource:
    """Reads records of one namespace."""

    def __init__(self, namespace: Namespace, presence: Presence, budget: ByteBudget, threads: Executor) -> None:
        self._namespace, self._presence = namespace, presence
        self._budget, self._threads = budget, threads
        self._shared = SharedRecords()

    async def read(
        self, wanted: Sequence[Wanted], absent: Collection[bytes]
    ) -> AsyncGenerator[Block | ChunkList | Absent, None]:
        """Yield the records of everything `wanted`, in this order, and at last what is absent."""
        builder = BlockBuilder(self._namespace.algorithm, REPACK_LEVEL)
        gone = list(absent)
        with self._shared.reading():
            for batch in _batches(wanted):
                async with self._budget.lease(sum(one.row.length for one in batch)):
                    async with self._shared.turn(batch):
                        records = self._shared.all_of(batch) or await self._opened(batch, builder, gone)
                    for record in records:
                        yield record
                    records.clear()
        if (rest := await self._run(builder.flush)) is not None:
            yield rest
        if gone:
            yield Absent(tuple(gone))

    async def _opened(
        self, batch: Sequence[Wanted], builder: BlockBuilder, gone: list[bytes]
    ) -> list[Block | ChunkList]:
        """Return the records to send of a batch; those that are not whole join `builder`, and what is bad `gone`."""
        opened = await self.open(batch, lambda block, one: _repacked(block, one, builder))
        gone += await self.report(opened)
        for row, record in opened.sound:
            self._shared.keep(row, record)
        return opened.records

    async def open(self, batch: Sequence[Wanted], use: Use) -> Opened:
        """Load and check `batch`; `use` runs in a thread and says what to make of each block, whose digests match."""
        rows, data = await self._presence.load([wanted.row for wanted in batch])
        batch = [Wanted(row, wanted.entries) for wanted, row in zip(batch, rows, strict=True)]
        return await self._run(lambda: _open(self._namespace.algorithm, batch, data, use))

    async def report(self, opened: Opened) -> list[bytes]:
        """Tell `Presence` what was found bad, and return the digests that are absent for it."""
        for wanted, why in opened.bad:
            await self._presence.condemn(wanted.row, why)
        for digest in opened.wrong:
            await self._presence.forget(self._namespace, digest)
        failed = [*opened.lost, *(wanted for wanted, _ in opened.bad)]
        return [*opened.wrong, *(digest for wanted in failed for digest in wanted.entries.values())]

    async def _run(self, call: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._threads, call)


def _open(algorithm: Algorithm, batch: Sequence[Wanted], data: Sequence[bytes | None], use: Use) -> Opened:
    opened = Opened()
    for wanted, raw in zip(batch, data, strict=True):
        if raw is None:
            opened.lost.append(wanted)
            continue
        try:
            record = decode_record(raw, algorithm)
            if not isinstance(record, (Block, ChunkList)):
                raise InvalidRecord("Record is of a kind that is not stored")
            right, wrong = _matched(record, wanted)
            opened.wrong += wrong
            if right.entries:
                opened.records += use(record, right) if isinstance(record, Block) else [record]
            opened.sound.append((wanted.row, record))
        except (InvalidRecord, BlobCorrupt) as error:
            opened.bad.append((wanted, str(error)))
    return opened


def _matched(record: Block | ChunkList, wanted: Wanted) -> tuple[Wanted, list[bytes]]:
    """Split what is wanted of a record into what it holds, and digests it does not hold where the index says."""
    held = record.entries if isinstance(record, Block) else (record.blob,)
    right = {
        entry: digest
        for entry, digest in wanted.entries.items()
        if 0 <= entry < len(held) and held[entry].digest == digest
    }
    wrong = [digest for entry, digest in wanted.entries.items() if entry not in right]
    return Wanted(wanted.row, right), wrong


def _repacked(block: Block, wanted: Wanted, builder: BlockBuilder) -> Iterator[Block]:
    """Yield `block` when enough of it is wanted, else what `builder` makes of the wanted contents."""
    if _is_worth_whole(block, wanted):
        yield block
        return
    contents = list(_selected(block, wanted))  # all of them verified before any is used
    for blob, content in contents:
        if (full := builder.add(blob, content)) is not None:
            yield full


def _is_worth_whole(record: Block | ChunkList, wanted: Wanted) -> bool:
    """Say whether a record is to be sent as it lies in the pack."""
    if isinstance(record, ChunkList):
        return True
    return sum(record.entries[entry].size for entry in wanted.entries) * SPARSE >= record.plain_size


def _selected(block: Block, wanted: Wanted) -> Iterator[tuple[Blob, bytes]]:
    for entry, (blob, content) in enumerate(block.contents()):
        if entry in wanted.entries:
            yield blob, bytes(content)


def plan(lookup: Lookup) -> list[Wanted]:
    """Return the records that hold everything found, in the order they lie in."""
    by_block: dict[int, Wanted] = {}
    for digest, place in lookup.places.items():
        wanted = by_block.get(place.block)
        if wanted is None:
            wanted = by_block[place.block] = Wanted(lookup.blocks[place.block], {})
        wanted.entries[place.entry] = digest
    return sorted(by_block.values(), key=lambda wanted: (wanted.row.pack.name, wanted.row.offset))


def _batches(plan: Sequence[Wanted]) -> Iterator[list[Wanted]]:
    batch: list[Wanted] = []
    size_bytes = 0
    for wanted in plan:
        length = wanted.row.length
        if batch and size_bytes + length > BATCH_BYTES:
            yield batch
            batch, size_bytes = [], 0
        batch.append(wanted)
        size_bytes += length
    if batch:
        yield batch
