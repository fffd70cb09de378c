"""One blob store with two entrances: blobs that came through the API of 2020 and those that came in blocks.

A wrapper of `LocalBlobStore` for the namespaces of 2020; those of `blake3-*` need none. Knows no HTTP. The invariant:
what one entrance calls present, the other can give: blocks are encoded anew for 2020, old bytes are opened and blocked
anew for `/cas/v2`: small ones on the fly, large ones once, by storing their chunks.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from functools import partial
from weakref import WeakValueDictionary

from isolate.cas.block import MAX_PLAIN_BYTES, Absent, Block, ChunkList
from isolate.cas.digest import Blob, Codec, Namespace
from isolate.cas.old_bytes import Encoding, Unwrapping
from isolate.cas.packing import BlockBuilder
from isolate.cas.store import Written
from isolate.errors import BlobCorrupt, BlobsMissing, InvalidRecord
from server.stores.blobs import LocalBlobStore, LocalBlobStores
from server.stores.budget import ByteBudget
from server.stores.old_blobs import OldBlob, OldBlobs

REBLOCK_LEVEL = 1  # somebody waits for it
CHUNK_BYTES = 4 << 20  # of a large blob that is stored again; where it is cut matters to nobody else

log = logging.getLogger("server.stores")


@dataclass(frozen=True, slots=True)
class Held:
    """A blob that is present, for the API of 2020."""

    blob: Blob
    old: OldBlob | None
    encoded_bytes: int | None  # None where it would have to be encoded to know


class SharedBlobStores:
    """All namespaces of one data directory, each with every way in that it has."""

    def __init__(self, stores: LocalBlobStores) -> None:
        self._stores = stores
        self.limits = stores.limits
        self._opening = ByteBudget(stores.limits.egress_bytes, "downloads")  # not the one that segments are read in
        self._shared: WeakValueDictionary[str, SharedBlobStore] = WeakValueDictionary()
        self._old: WeakValueDictionary[str, OldBlobs] = WeakValueDictionary()

    def namespace(self, namespace: Namespace) -> LocalBlobStore | SharedBlobStore:
        """Return the store of one namespace."""
        return self._stores.namespace(namespace) if namespace.is_ours else self.shared(namespace)

    def shared(self, namespace: Namespace) -> SharedBlobStore:
        """Return the store of a namespace of 2020; there is one object for it at a time."""
        store = self._shared.get(namespace.name)
        if store is None:
            old = self._old.get(namespace.name) or OldBlobs(self._stores, namespace)
            self._old[namespace.name] = old
            store = SharedBlobStore(self._stores, namespace, old, self._opening)
            self._shared[namespace.name] = store
        return store

    def moved_bytes(self) -> int:
        """Return how much was ever in flight, in either direction: it grows as long as somebody stores or reads."""
        return self._stores.ingest.leased_bytes + self._stores.egress.leased_bytes

    def reject(self, error: Exception) -> None:
        """Count an upload whose content was wrong."""
        self._stores.monitor.count("rejected_uploads")
        log.info("Upload rejected: %s", error)

    async def purge(self, namespace: Namespace, digest: bytes) -> bool:
        """Let a blob be missing from now on, whatever was promised; returns whether it was there.

        What rests in a block with others stays on disk until that block goes.
        """
        was_here = digest in await self._stores.namespace(namespace).sizes([digest])
        await self._stores.index.forget(namespace.name, digest)
        return await self.shared(namespace).old.purge(digest) or was_here if not namespace.is_ours else was_here

    async def close(self) -> None:
        """Finish the commits under way."""
        for old in list(self._old.values()):
            await old.settle()


class SharedBlobStore:
    """One namespace of 2020; implements `isolate.cas.store.BlobStore`."""

    def __init__(self, stores: LocalBlobStores, namespace: Namespace, old: OldBlobs, opening: ByteBudget) -> None:
        self.old = old
        self._opening = opening
        self._stores, self._namespace = stores, namespace
        self._local = stores.namespace(namespace)
        self._adopting = asyncio.Lock()

    @property
    def namespace(self) -> Namespace:
        return self._namespace

    async def missing(self, blobs: Sequence[Blob]) -> list[Blob]:
        sizes = await self.sizes([blob.digest for blob in blobs])
        return [blob for blob in blobs if blob.digest not in sizes]

    async def sizes(self, digests: Sequence[bytes]) -> dict[bytes, int]:
        """Return the plain sizes of those of `digests` that are present; refreshes them as `missing` does."""
        sizes = await self._local.sizes(digests)
        if absent := {digest for digest in digests if digest not in sizes}:
            sizes.update({digest: found.blob.size for digest, found in (await self.old.find(absent)).items()})
        return sizes

    async def write(self, blocks: AsyncIterator[Block]) -> Written:
        return await self._local.write(blocks)

    async def compose(self, blob: Blob, chunks: Sequence[Blob]) -> None:
        await self.compose_within(blob, chunks, None)

    async def compose_within(self, blob: Blob, chunks: Sequence[Blob], wait_s: float | None) -> bool:
        """See `LocalBlobStore.compose_within`; chunks may be old bytes."""
        stored = await self._local.sizes([chunk.digest for chunk in chunks])
        if absent := {chunk.digest for chunk in chunks if chunk.digest not in stored}:
            small = [found for found in (await self.old.find(absent)).values() if found.blob.size <= MAX_PLAIN_BYTES]
            if small:
                async with aclosing(self._blocks(small, [])) as blocks:
                    await self._local.write(blocks)
        return await self._local.compose_within(blob, chunks, wait_s)

    async def read(self, blobs: Sequence[Blob]) -> AsyncGenerator[Block | ChunkList | Absent, None]:
        async with aclosing(self._local.read(blobs)) as records:
            async for record in records:
                if not isinstance(record, Absent):
                    yield record
                    continue
                async with aclosing(self._reblocked(record.digests)) as found:
                    async for converted in found:
                        yield converted

    async def pieces(self, digest: bytes, start: int, stop: int) -> AsyncGenerator[memoryview, None]:
        """Yield plain bytes of one blob, whatever it is made of; raises BlobsMissing."""
        began = False
        try:
            async with aclosing(self._local.pieces(digest, start, stop)) as pieces:
                async for piece in pieces:
                    began = True
                    yield piece
            return
        except BlobsMissing:
            if began or not (found := (await self.old.find_readable([digest])).get(digest)):
                raise
        at = 0
        async with aclosing(self._plain(found)) as opened:
            async for plain in opened:
                piece = memoryview(plain)[max(0, start - at) : max(0, stop - at)]
                if piece:
                    yield piece
                at += len(plain)

    async def kept(self, digests: set[bytes]) -> set[bytes]:
        """Return those of `digests` that an old client need not send; refreshes them.

        The empty blob is no exception here: it is kept once somebody sent it.
        """
        kept = set(await self.old.find(digests))
        rest = digests - kept - {self._namespace.empty.digest}
        return kept | (rest & (await self._local.sizes(list(rest))).keys())

    async def held(self, digest: bytes) -> Held | None:
        """Return what is here of a blob that an old client wants, old bytes first."""
        if old := (await self.old.find_readable([digest])).get(digest):
            return Held(old.blob, old, old.encoded_bytes)
        size = (await self._local.sizes([digest])).get(digest)
        if size is None:
            return None
        return Held(Blob(digest, size), None, None if self._namespace.codec is Codec.ZLIB else size)

    async def came_in_bulk(self, old: OldBlob) -> bool:
        """Whether these bytes were sent in bulk; raises BlobsMissing."""
        async with aclosing(self.old.segments(old)) as segments:
            return (await anext(segments)).bulk

    async def encoded(self, held: Held) -> AsyncGenerator[bytes | memoryview, None]:
        """Yield a blob as its namespace has it: old bytes as they came, others encoded anew; raises BlobsMissing."""
        if held.old is not None:
            async with aclosing(self.old.segments(held.old)) as segments:
                async for segment in segments:
                    yield segment.data
            return
        encoding = Encoding(self._namespace)
        if held.blob.size:
            async with aclosing(self._local.pieces(held.blob.digest, 0, held.blob.size)) as pieces:
                async for piece in pieces:
                    if data := await self._stores.run(partial(encoding.feed, piece)):
                        yield data
        yield encoding.finish()

    async def _reblocked(self, digests: Sequence[bytes]) -> AsyncGenerator[Block | ChunkList | Absent, None]:
        """Yield blocks of the old bytes of `digests`, recipes of the large ones, and what is absent."""
        found = await self.old.find_readable(digests)
        absent = [digest for digest in digests if digest not in found]
        ordered = sorted(found.values(), key=lambda one: (one.rows[0].pack.name, one.rows[0].offset))
        async with aclosing(
            self._blocks([one for one in ordered if one.blob.size <= MAX_PLAIN_BYTES], absent)
        ) as blocks:
            async for block in blocks:
                yield block
        for one in ordered:
            if one.blob.size > MAX_PLAIN_BYTES:
                try:
                    yield await self._adopted(one)
                except BlobsMissing:
                    absent.append(one.blob.digest)
        if absent:
            yield Absent(tuple(absent))

    async def _blocks(self, small: Sequence[OldBlob], absent: list[bytes]) -> AsyncGenerator[Block, None]:
        """Yield blocks of old bytes, each blob whole in one; adds to `absent` what turned out to be bad."""
        builder = BlockBuilder(self._namespace.algorithm, REBLOCK_LEVEL)
        for one in small:
            async with self._opening.lease(2 * one.blob.size):
                try:
                    async with aclosing(self._plain(one)) as pieces:
                        content = b"".join([bytes(piece) async for piece in pieces])
                except BlobsMissing:
                    absent.append(one.blob.digest)
                    continue
            if (full := await self._stores.run(partial(builder.add, one.blob, content))) is not None:
                yield full
        if (rest := await self._stores.run(builder.flush)) is not None:
            yield rest

    async def _adopted(self, large: OldBlob) -> ChunkList:
        """Return the recipe of a large blob, which is stored as chunks first if it is not yet."""
        async with self._adopting:  # one at a time: each runs at the speed of the disk
            recipe = await self._recipe(large.blob)
            if recipe is None:
                chunks: list[Blob] = []
                async with aclosing(self._chunks(large, chunks)) as blocks:
                    await self._local.write(blocks)
                await self._local.compose(large.blob, chunks)
                recipe = await self._recipe(large.blob)
        if recipe is None:
            raise BlobsMissing([large.blob.digest])
        return recipe

    async def _recipe(self, blob: Blob) -> ChunkList | None:
        async with aclosing(self._local.read([blob])) as records:
            async for record in records:
                if isinstance(record, ChunkList):
                    return record
        return None

    async def _chunks(self, large: OldBlob, chunks: list[Blob]) -> AsyncGenerator[Block, None]:
        """Yield a large blob as blocks of one chunk each, whose names are added to `chunks`."""
        algorithm, buffer = self._namespace.algorithm, bytearray()

        def packed(content: bytes) -> Block:
            chunks.append(self._namespace.blob(content))
            return Block.pack(algorithm, [(chunks[-1], content)], REBLOCK_LEVEL)

        async with aclosing(self._plain(large)) as pieces:
            async for piece in pieces:
                buffer += piece
                while len(buffer) >= CHUNK_BYTES:
                    content = bytes(memoryview(buffer)[:CHUNK_BYTES])
                    del buffer[:CHUNK_BYTES]
                    yield await self._stores.run(partial(packed, content))
        if buffer:
            yield await self._stores.run(partial(packed, bytes(buffer)))

    async def _plain(self, found: OldBlob) -> AsyncGenerator[bytes | memoryview, None]:
        """Yield the plain bytes of old ones, in pieces that are small however well they were compressed."""
        unwrapping = Unwrapping(self._namespace.algorithm, self._namespace.codec, found.blob)
        try:
            async with aclosing(self.old.segments(found)) as segments:
                async for segment in segments:
                    steps = unwrapping.feed(segment.data)
                    while (piece := await self._stores.run(partial(_step, steps))) is not None:
                        yield piece
            steps = unwrapping.finish()
            while (piece := await self._stores.run(partial(_step, steps))) is not None:
                yield piece
        except (BlobCorrupt, InvalidRecord) as error:  # every record was right by itself, so they do not fit together
            self._stores.monitor.problem(f"Old bytes of blob {found.blob.digest.hex()} are wrong: {error}")
            await self._stores.presence.condemn(found.rows[-1], str(error))
            raise BlobsMissing([found.blob.digest]) from error


def _step(steps: Iterator[bytes | memoryview]) -> bytes | memoryview | None:
    return next(steps, None)
