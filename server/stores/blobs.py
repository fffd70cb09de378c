"""The blob store of one machine: packs and their index, behind the `BlobStore` protocol.

Knows no HTTP. The invariant: what `write` and `compose` return for was verified, then durable, then indexed, then
acknowledged, in this order and in groups.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing
from functools import partial
from pathlib import Path
from typing import Self, TypeVar
from weakref import WeakValueDictionary

from isolate.cas.block import Absent, Block, ChunkList, check_recipe
from isolate.cas.digest import Blob, Namespace
from isolate.cas.store import MAX_BATCH, Written
from isolate.clock import Clock
from isolate.errors import NoSpace, TooLarge, Unavailable
from isolate.monitor import Monitor
from server.stores.budget import ByteBudget
from server.stores.committer import GroupCommitter
from server.stores.compaction import finish_dead
from server.stores.composing import Compositions
from server.stores.limits import BlobLimits
from server.stores.pack_files import PackFiles
from server.stores.pack_storage import Pack
from server.stores.packs import ROTATE_BYTES, LocalPacks
from server.stores.plain import PlainSource
from server.stores.presence import Presence
from server.stores.reading import RecordSource, Wanted, plan
from server.stores.receiving import Receiver
from server.stores.recipes import verified_recipe
from server.stores.sqlite_index import BlobIndex, Kind, Lookup, NewRecord
from server.stores.sqlite_upkeep import UpkeepIndex
from server.stores.streamed import PassingBlob, StreamedBlobs
from server.stores.uploading import Upload
from server.units import bytes_text

LOOKUP_DIGESTS = 20_000  # per index query: keeps the loop's share of the work below 10 ms
GROUP_BYTES = 32 << 20  # one fsync for this much; about 12 ms on a plain SSD
GATHERED_SHARE = 4  # of what may be in flight; measured: half of it saves no more

T = TypeVar("T")
MakeRoom = Callable[[int], Awaitable[None]]
NewBlobs = Sequence[tuple[bytes, int, int]]  # digest, entry number, plain size


class LocalBlobStores:
    """All namespaces of one data directory; made by `open`."""

    def __init__(self, index: BlobIndex, packs: LocalPacks, limits: BlobLimits, clock: Clock, monitor: Monitor) -> None:
        self.limits, self.monitor = limits, monitor
        self.index, self.packs = index, packs
        self.presence = Presence(index, packs, clock, monitor)
        self.compositions, self.streamed = Compositions(), StreamedBlobs()
        self.ingest = ByteBudget(limits.ingest_bytes, "uploads", when_short=self._press)
        self.egress = ByteBudget(limits.egress_bytes, "downloads")
        self.threads = ThreadPoolExecutor(max(2, os.cpu_count() or 1), thread_name_prefix="blobs")
        self.upkeep = UpkeepIndex(index.database)
        self.make_room: MakeRoom | None = None  # asked when an upload does not fit
        self.used_bytes = 0  # of all packs together
        self._turns: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        self._stores: WeakValueDictionary[str, LocalBlobStore] = WeakValueDictionary()

    @classmethod
    async def open(
        cls,
        root: Path,
        clock: Clock,
        monitor: Monitor,
        limits: BlobLimits | None = None,
        *,
        files: PackFiles | None = None,
        rotate_bytes: int = ROTATE_BYTES,
    ) -> Self:
        """Open the store below `root`, which this process owns; the time it takes does not depend on what is stored."""
        index = await asyncio.to_thread(BlobIndex, root / "blobs.sqlite", clock, monitor)
        packs = LocalPacks(root / "packs", index, clock, monitor, files=files, rotate_bytes=rotate_bytes)
        stores = cls(index, packs, limits or BlobLimits(), clock, monitor)
        try:
            for pack, committed_bytes in await index.open_packs():
                await packs.resume(pack, committed_bytes)
            await finish_dead(stores.upkeep, packs)
            stores.used_bytes = await index.used_bytes()
        except BaseException:
            await stores.close()
            raise
        return stores

    def namespace(self, namespace: Namespace) -> LocalBlobStore:
        """Return the store of one namespace; there is one object for it at a time, so that its appends are in turn."""
        store = self._stores.get(namespace.name)
        if store is None:
            store = self._stores[namespace.name] = LocalBlobStore(self, namespace)
        return store

    async def close(self) -> None:
        """Finish the commits under way and close all files."""
        await self.compositions.close()
        for store in list(self._stores.values()):
            await store.settle()
        await self.index.close()
        self.packs.close()
        self.threads.shutdown()

    async def run(self, call: Callable[[], T]) -> T:
        """Run `call`, which computes, in a thread."""
        return await asyncio.get_running_loop().run_in_executor(self.threads, call)

    async def append(self, namespace: str, uploads: Sequence[Upload], fresh: Sequence[NewBlobs]) -> list[int]:
        """Make one group durable and visible: pack first, then index; returns the ids of the records."""
        size_bytes = sum(len(upload.record) for upload in uploads)
        await self.want_room(size_bytes)
        async with self._turn(namespace):
            locations = await self.packs.append(namespace, [upload.record for upload in uploads])
            records = [
                NewRecord(location, upload.kind, blobs, upload.parts)
                for location, upload, blobs in zip(locations, uploads, fresh, strict=True)
            ]
            try:
                ids = await self.index.add(namespace, records, self.presence.hour())
            except BaseException:
                await self.packs.withdraw(locations)
                raise
        self.used_bytes += size_bytes
        return ids

    async def want_room(self, size_bytes: int) -> None:
        """See that so much more fits at this moment, after eviction if need be; raises NoSpace."""
        shortage = await self.shortage(size_bytes)
        if shortage is not None and self.make_room is not None:
            await self.make_room(size_bytes)
            shortage = await self.shortage(size_bytes)
        if shortage is not None:
            raise NoSpace(shortage)

    async def seal(self, pack: Pack) -> None:
        """Append no more to `pack`; on return everything that was appended to it is indexed."""
        async with self._turn(pack.namespace):
            await self.packs.retire(pack)

    def account(self, more_bytes: int) -> None:
        """Note that packs have become this much larger, or smaller, in another way than by uploads."""
        self.used_bytes += more_bytes

    async def shortage(self, size_bytes: int) -> str | None:
        """Return why `size_bytes` more cannot be stored."""
        limits = self.limits
        if limits.max_bytes is not None and self.used_bytes + size_bytes > limits.max_bytes:
            left = bytes_text(max(0, limits.max_bytes - self.used_bytes))
            held = f"The blob store holds {bytes_text(self.used_bytes)} of at most {bytes_text(limits.max_bytes)}"
            stays = f"what was asked for within {limits.promised_s / 3600:g} hours stays"
            return f"{held}, which leaves {left}: {bytes_text(size_bytes)} more do not fit, and {stays}"
        if await self.packs.free_bytes() < limits.min_free_bytes + size_bytes:
            floor = f", and {bytes_text(limits.min_free_bytes)} stay free" if limits.min_free_bytes else ""
            return f"The disk of the blob store is full: {bytes_text(size_bytes)} more do not fit{floor}"
        return None

    def _press(self) -> None:
        """Have no blocks gather: somebody waits for the memory they hold."""
        for store in list(self._stores.values()):
            store.press()

    def _turn(self, namespace: str) -> asyncio.Lock:
        """Return the lock that whoever appends to a namespace holds until what it appended is indexed."""
        return self._turns.setdefault(namespace, asyncio.Lock())


class LocalBlobStore:
    """One namespace; implements `isolate.cas.store.BlobStore`."""

    def __init__(self, stores: LocalBlobStores, namespace: Namespace) -> None:
        self._stores, self._namespace = stores, namespace
        self._source = RecordSource(namespace, stores.presence, stores.egress, stores.threads)
        self._find = partial(stores.presence.find, namespace)
        gathered_bytes = stores.limits.ingest_bytes // GATHERED_SHARE
        self._committer = GroupCommitter(self._commit, _weight, GROUP_BYTES, gathered_bytes)
        self._receiver = Receiver(namespace, stores.ingest, stores.run, self._committer)

    @property
    def namespace(self) -> Namespace:
        return self._namespace

    async def missing(self, blobs: Sequence[Blob]) -> list[Blob]:
        sizes = await self.sizes([blob.digest for blob in blobs])
        return [blob for blob in blobs if blob.digest not in sizes]

    async def sizes(self, digests: Sequence[bytes]) -> dict[bytes, int]:
        """Return the plain sizes of those of `digests` that are present; refreshes them as `missing` does."""
        _check_batch(digests)
        sizes = {self._namespace.empty.digest: 0}
        for start in range(0, len(digests), LOOKUP_DIGESTS):
            lookup = await self._find(digests[start : start + LOOKUP_DIGESTS])
            sizes.update({digest: place.size for digest, place in lookup.places.items()})
        return sizes

    async def write(self, blocks: AsyncIterator[Block]) -> Written:
        whole = PassingBlob(self._namespace.algorithm)
        written = await self._receiver.receive(blocks, whole)
        self._stores.streamed.remember(self._namespace.name, whole)
        return written

    async def compose(self, blob: Blob, chunks: Sequence[Blob]) -> None:
        await self.compose_within(blob, chunks, None)

    async def compose_within(self, blob: Blob, chunks: Sequence[Blob], wait_s: float | None) -> bool:
        """Compose as `compose` does, in the background once `wait_s` are over: False says "ask again later"."""
        if blob.size > self._stores.limits.max_blob_bytes:
            raise TooLarge(f"Blob of {blob.size} bytes, limit {self._stores.limits.max_blob_bytes}")
        check_recipe(blob, chunks)
        chunks, key = tuple(chunks), (self._namespace.name, blob.digest)
        return await self._stores.compositions.run(key, chunks, lambda: self._compose(blob, chunks), wait_s)

    async def read(self, blobs: Sequence[Blob]) -> AsyncGenerator[Block | ChunkList | Absent, None]:
        _check_batch(blobs)
        async with aclosing(self._source.read(*await self._plan(blobs))) as records:
            async for record in records:
                yield record

    def pieces(self, digest: bytes, start: int, stop: int) -> AsyncGenerator[memoryview, None]:
        """Yield plain bytes of one blob, also of a composed one; raises BlobsMissing."""
        return PlainSource(self._source, self._find_readable, self._stores.egress).pieces(digest, start, stop)

    def press(self) -> None:
        """Have what was verified committed, whoever may still be sending."""
        self._committer.press()

    async def settle(self) -> None:
        """Return when no commit is under way."""
        await self._committer.close()

    async def _plan(self, blobs: Sequence[Blob]) -> tuple[list[Wanted], list[bytes]]:
        """Return the records that hold `blobs`, in pack order, and the digests that are absent."""
        digests = {blob.digest for blob in blobs} - {self._namespace.empty.digest}
        lookup = await self._find_readable(digests)
        return plan(lookup), [digest for digest in digests if digest not in lookup.places]

    async def _find_readable(self, digests: Collection[bytes]) -> Lookup:
        return await self._stores.presence.find_readable(self._namespace, digests)

    async def _commit(self, group: Sequence[Upload]) -> list[Written]:
        """Store what is new in a group of verified records; the one caller of `append` in this namespace."""
        lookup = await self._find({blob.digest for upload in group for blob in upload.blobs})
        present = {digest: lookup.blocks[place.block].kind for digest, place in lookup.places.items()}
        results, uploads, fresh = [], [], []
        for upload in group:
            new = []
            for entry, (digest, size) in enumerate(upload.blobs):
                # A composed blob may be stored as itself as well: only then it can be a chunk of others.
                if digest not in present or upload.kind < present[digest]:
                    present[digest] = upload.kind
                    new.append((digest, entry, size))
            results.append(Written(len(new), len(upload.blobs) - len(new), sum(size for _, _, size in new)))
            if new:
                uploads.append(upload)
                fresh.append(new)
        if uploads:
            await self._stores.append(self._namespace.name, uploads, fresh)
        return results

    async def _compose(self, blob: Blob, chunks: Sequence[Blob]) -> None:
        """Verify that `chunks` are `blob` and store the recipe."""
        if (await self._find([blob.digest])).places:
            return
        lookup = await self._find({chunk.digest for chunk in chunks})
        stores, algorithm = self._stores, self._namespace.algorithm
        known = stores.streamed.digest(self._namespace.name, chunks)
        record = await verified_recipe(blob, chunks, lookup, self._source, algorithm, stores.ingest, known)
        parts = frozenset(place.block for place in lookup.places.values())
        # Verifying may have taken longer than anything is promised.
        if not await self._stores.index.touch(parts, self._stores.presence.hour()):
            raise Unavailable("A chunk went while the blob was verified", retry_after_s=1.0)
        await self._committer.add(Upload(record, Kind.RECIPE, (blob,), parts))


def _weight(upload: Upload) -> int:
    return max(upload.held_bytes, len(upload.record))


def _check_batch(items: Sequence[object]) -> None:
    if len(items) > MAX_BATCH:
        raise TooLarge(f"{len(items)} digests in one call, limit {MAX_BATCH}")
