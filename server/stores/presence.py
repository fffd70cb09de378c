"""What is really there: the index's word, compared with the packs, refreshed.

Knows no protocol and opens no record. The invariants: a blob is called present only if the packs it needs were seen in
the last seconds and are long enough; whatever is called present was refreshed first, so that it stays as promised.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

from isolate.cas.digest import Namespace
from isolate.clock import Clock
from isolate.errors import InvalidDigest, NoSpace, Unavailable
from isolate.monitor import Monitor
from server.stores.pack_storage import PackStorage
from server.stores.sqlite_index import BlobIndex, BlockRow, Lookup

_ATTEMPTS = 5  # a block that goes between look-up and refresh is rare; five times in a row is not this


class Presence:
    """Answers for all namespaces of one store."""

    def __init__(self, index: BlobIndex, packs: PackStorage, clock: Clock, monitor: Monitor) -> None:
        self._index, self._packs, self._clock, self._monitor = index, packs, clock, monitor

    def hour(self) -> int:
        """Return the hour to note as "asked for": the end of this one, since times round up."""
        return int(self._clock.now() // 3600) + 1

    async def find(self, namespace: Namespace, digests: Collection[bytes]) -> Lookup:
        """Return where those of `digests` are that are present; all of these are refreshed."""
        for _ in range(_ATTEMPTS):
            present, old, hour = await self._look(namespace, digests)
            if not old or await self._index.touch(old, hour):
                return present
        raise Unavailable("The index changes faster than it can be read", retry_after_s=1.0)

    async def find_readable(self, namespace: Namespace, digests: Collection[bytes]) -> Lookup:
        """The same for a reader: where nothing can be noted any more, on a full disk for one, reading goes on."""
        try:
            return await self.find(namespace, digests)
        except (NoSpace, Unavailable) as error:
            self._monitor.problem(f"Blobs are read without being refreshed: {error}")
            return (await self._look(namespace, digests))[0]

    async def load(self, rows: Sequence[BlockRow]) -> tuple[list[BlockRow], list[bytes | None]]:
        """Return where these records are by now and their bytes, None where those are gone or cannot be read.

        Compaction may have moved a record since it was looked up.
        """
        rows, data = list(rows), await self._packs.read([row.location for row in rows])
        for _ in range(_ATTEMPTS):
            lost = [at for at, raw in enumerate(data) if raw is None]
            current = await self._index.rows([rows[at].id for at in lost]) if lost else {}
            moved = [at for at in lost if (row := current.get(rows[at].id)) and row.location != rows[at].location]
            if not moved:
                break
            for at in moved:
                rows[at] = current[rows[at].id]
            for at, raw in zip(moved, await self._packs.read([rows[at].location for at in moved]), strict=True):
                data[at] = raw
        return rows, data

    async def condemn(self, row: BlockRow, why: str) -> None:
        """Set a bad record aside; from now on its blobs are missing."""
        self._monitor.count("quarantined_records")
        self._monitor.problem(f"Record at {row.offset} of pack {row.pack.name} is bad: {why}")
        await self._index.quarantine(row.id, why, self._clock.now())

    async def forget(self, namespace: Namespace, digest: bytes) -> None:
        """Drop an index row that names the wrong record; the record itself may be good."""
        self._monitor.count("dropped_rows")
        self._monitor.problem(f"The index was wrong about blob {digest.hex()}")
        await self._index.forget(namespace.name, digest)

    async def _look(self, namespace: Namespace, digests: Collection[bytes]) -> tuple[Lookup, list[int], int]:
        """Return what is present, the blocks of it that are to be refreshed, and the hour to note for them."""
        if any(len(digest) != namespace.algorithm.digest_bytes for digest in digests):
            raise InvalidDigest(f"A digest is not of namespace {namespace.name}")
        present = await self._seen(namespace, digests)
        hour = self.hour()
        needed = {place.block for place in present.places.values()}
        needed.update(part for block in needed & present.parts.keys() for part in present.parts[block])
        return present, [block for block in needed if present.blocks[block].touched_h < hour], hour

    async def _seen(self, namespace: Namespace, digests: Collection[bytes]) -> Lookup:
        """Look `digests` up and leave out what is not in the packs; once more if it was moved meanwhile."""
        lookup = await self._index.find(namespace.name, digests)
        for _ in range(_ATTEMPTS):
            whole = await self._whole(lookup)
            if len(whole) == len(lookup.blocks):
                break
            again = await self._index.find(namespace.name, digests)
            if again.blocks == lookup.blocks:
                break
            lookup = again
        else:
            whole = await self._whole(lookup)
        return _present(lookup, whole)

    async def _whole(self, lookup: Lookup) -> set[int]:
        packs = {row.pack for row in lookup.blocks.values()}
        lengths = await self._packs.lengths(packs) if packs else {}
        return {id_ for id_, row in lookup.blocks.items() if row.offset + row.length <= lengths[row.pack]}


def _present(lookup: Lookup, whole: set[int]) -> Lookup:
    """Leave out the places that need a block which is not whole."""
    for recipe, parts in lookup.parts.items():
        if not parts or not whole.issuperset(parts):
            whole.discard(recipe)
    places = {digest: place for digest, place in lookup.places.items() if place.block in whole}
    return Lookup(places, lookup.blocks, lookup.parts)
