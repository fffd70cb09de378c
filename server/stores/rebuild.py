"""The index made anew from the packs alone, which say themselves what they hold.

Knows nothing of the index that was. The invariants: the new one takes the name of the old one only when it is whole,
and the old one stays beside it; every record is verified before it is believed, bytes that are none are noted; what is
restored counts as just asked for. Records that had died may live again: nothing says in a pack that they are dead.
"""

from __future__ import annotations

import asyncio
import os
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from isolate.cas.block import Block, ChunkList
from isolate.cas.digest import Algorithm, Blob
from isolate.cas.old_bytes import Segment, Unwrapping
from isolate.clock import Clock
from isolate.errors import BlobCorrupt, InvalidNamespace, InvalidRecord
from isolate.monitor import NullMonitor
from server.stores.pack_files import PackFiles
from server.stores.pack_scan import Found, PackReader
from server.stores.pack_storage import Location, Pack
from server.stores.records import namespace_of, opened, wrong_in
from server.stores.sqlite_index import BlobIndex, Kind, NewRecord
from server.stores.sqlite_upkeep import UpkeepIndex

INDEX = "blobs.sqlite"
ROWS_PER_ADD = 2_000
_SIDE_FILES = ("-wal", "-shm")

Report = Callable[[str], object]


@dataclass(slots=True)
class Rebuilt:
    """What was found."""

    packs: int = 0
    records: int = 0
    blobs: int = 0
    bad_ranges: int = 0


@dataclass(slots=True)
class _Later:
    """Records that say something only together with others, by where they are."""

    recipes: list[Location] = field(default_factory=list)
    segments: dict[tuple[Blob, int, bool], dict[int, Location]] = field(default_factory=lambda: defaultdict(dict))


class Rebuild:
    """One rebuilding of the index below `root`, which nobody else has open."""

    def __init__(self, root: Path, clock: Clock, report: Report) -> None:
        self._root, self._clock, self._report = root, clock, report
        self._hour = int(clock.now() // 3600) + 1
        self.found = Rebuilt()

    async def run(self) -> Rebuilt:
        """Make the index and put it in its place; raises OSError, NoSpace."""
        fresh = self._root / f"{INDEX}.new"
        _remove(fresh)  # of one that was killed
        try:
            await self._make(fresh)
        except BaseException:
            _remove(fresh)  # on a full disk others need the room
            raise
        await asyncio.to_thread(self._replace, fresh)
        return self.found

    async def _make(self, fresh: Path) -> None:
        self._index = BlobIndex(fresh, self._clock, NullMonitor())
        self._upkeep = UpkeepIndex(self._index.database)
        try:
            for directory in sorted(path for path in (self._root / "packs").glob("*") if path.is_dir()):
                await self._namespace(directory)
            await self._settle()
        finally:
            await self._index.close()

    async def _namespace(self, directory: Path) -> None:
        try:
            algorithm = namespace_of(directory.name).algorithm
        except InvalidNamespace as error:
            self._report(f"{directory} is left alone: {error}")
            return
        later = _Later()
        for path in sorted(directory.glob("*.pack")):
            if not path.is_file():
                self.found.bad_ranges += 1
                self._report(f"Pack {path} is no regular file and is left alone")
                continue
            await self._pack(path, Pack(directory.name, path.stem), algorithm, later)
        for location in later.recipes:
            await self._recipe(location, algorithm)
        for (blob, _, _), places in later.segments.items():
            await self._old_blob(blob, places, algorithm)

    async def _pack(self, path: Path, pack: Pack, algorithm: Algorithm, later: _Later) -> None:
        self.found.packs += 1
        await self._index.announce(pack)
        await self._index.seal(pack)
        batch: list[NewRecord] = []
        rows = 0
        async for found in _records(path):
            location = Location(pack, found.offset, found.length)
            why = found.why if found.record is None else await asyncio.to_thread(wrong_in, found.record, algorithm)
            if found.record is None or why is not None:
                self.found.bad_ranges += 1
                self._report(f"{found.length} bytes at {found.offset} of pack {pack.name} are bad: {why}")
                place = (found.offset, found.length)
                await self._upkeep.note_bad_range(pack, place, why or "", self._clock.now())
                continue
            self.found.records += 1
            match opened(found.record, algorithm):
                case Block(entries=entries):
                    blobs = [(digest, number, size) for number, (digest, size) in enumerate(entries)]
                    batch.append(NewRecord(location, Kind.BLOCK, blobs))
                    rows += len(blobs)
                case ChunkList():
                    later.recipes.append(location)
                case Segment() as segment:
                    later.segments[segment.blob, segment.encoded_bytes, segment.bulk][segment.number] = location
            if rows >= ROWS_PER_ADD:
                await self._add(pack, batch)
                rows = 0
        await self._add(pack, batch)

    async def _add(self, pack: Pack, batch: list[NewRecord]) -> None:
        """Index what is new in a batch of blocks: one that holds nothing new was dead, or was copied elsewhere."""
        seen = set((await self._index.find(pack.namespace, {blob[0] for one in batch for blob in one.blobs})).places)
        records = []
        for one in batch:
            new = [blob for blob in one.blobs if blob[0] not in seen]
            seen.update(digest for digest, _, _ in new)
            if new:
                records.append(NewRecord(one.location, one.kind, new))
                self.found.blobs += len(new)
        batch.clear()
        if records:
            await self._index.add(pack.namespace, records, self._hour)

    async def _recipe(self, location: Location, algorithm: Algorithm) -> None:
        recipe = opened(self._read(location), algorithm)
        assert isinstance(recipe, ChunkList)
        namespace = location.pack.namespace
        lookup = await self._index.find(namespace, {recipe.blob.digest, *(chunk.digest for chunk in recipe.chunks)})
        places = [lookup.places.get(chunk.digest) for chunk in recipe.chunks]
        parts = {place.block for place in places if place is not None}
        if recipe.blob.digest in lookup.places or None in places:
            return
        record = NewRecord(location, Kind.RECIPE, [(recipe.blob.digest, 0, recipe.blob.size)], parts)
        await self._index.add(namespace, [record], self._hour)
        self.found.blobs += 1

    async def _old_blob(self, blob: Blob, places: dict[int, Location], algorithm: Algorithm) -> None:
        """Index a blob of old bytes if all its segments are there and together are this blob."""
        last = max(places)
        if len(places) != last + 1 or not await asyncio.to_thread(self._is_whole, blob, places, algorithm):
            return
        ids: list[int] = []
        for number in range(last):
            ids += await self._index.add(
                places[number].pack.namespace, [NewRecord(places[number], Kind.OLD, [])], self._hour
            )
        kind = Kind.OLD_LAST if ids else Kind.OLD
        record = NewRecord(places[last], kind, [(blob.digest, 0, blob.size)], ids)
        await self._index.add(places[last].pack.namespace, [record], self._hour)
        self.found.blobs += 1

    def _is_whole(self, blob: Blob, places: dict[int, Location], algorithm: Algorithm) -> bool:
        unwrapping = None
        try:
            for number in range(len(places)):
                segment = Segment.decode(self._read(places[number]), algorithm)
                unwrapping = unwrapping or Unwrapping(algorithm, segment.codec, blob)
                unwrapping.check(segment.data, last=number + 1 == segment.count)
        except (InvalidRecord, BlobCorrupt):
            return False
        return segment.count == len(places)

    def _read(self, location: Location) -> bytes:
        with PackReader(self._root / "packs" / location.pack.namespace / f"{location.pack.name}.pack") as reader:
            return reader.read(location.offset, location.length)

    async def _settle(self) -> None:
        for row in await self._upkeep.packs():
            path = self._root / "packs" / row.pack.namespace / f"{row.pack.name}.pack"
            await self._upkeep.settle(row.id, path.stat().st_size)

    def _replace(self, fresh: Path) -> None:
        """Keep the old index under another name, then let the new one have its name."""
        index = self._root / INDEX
        number = 1
        while (kept := self._root / f"{INDEX}.replaced-{number}").exists():
            number += 1
        if index.exists():
            for side in _SIDE_FILES:  # before the file itself: a log must never meet a file that is not its own
                if (log := index.with_name(index.name + side)).exists():
                    os.replace(log, kept.with_name(kept.name + side))
            os.link(index, kept)
        os.replace(fresh, index)
        PackFiles().sync_directory(self._root)


def _remove(index: Path) -> None:
    for path in (index, *(index.with_name(index.name + side) for side in _SIDE_FILES)):
        path.unlink(missing_ok=True)


async def _records(path: Path) -> AsyncIterator[Found]:
    """Yield everything in a pack; reading and verifying happen in a thread."""
    with PackReader(path) as reader:
        records: Iterator[Found] = reader.records()
        while (found := await asyncio.to_thread(next, records, None)) is not None:
            yield found
