"""Blobs on their way from a store into the cache.

Knows no trees. Records are received while the ones before are decompressed, verified and written by a thread; large
blobs go through their recipes, straight into one file, and what a chunk of theirs has in common with a small file that
is here already is not asked for. The invariants: memory is bounded by STREAMS x (AHEAD + 2) blocks; nothing that was
not asked for is kept.
"""

from __future__ import annotations

import asyncio
from array import array
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Self

from isolate.cas.block import Block, ChunkList
from isolate.cas.cache import BlobWriter, LocalCache
from isolate.cas.digest import Blob
from isolate.cas.store import BlobStore
from isolate.errors import (
    BlobCorrupt,
    BlobsMissing,
    InvalidManifest,
    InvalidRecord,
    IsolateError,
    StoredCorrupt,
    first_cause,
)
from isolate.found import STREAMS
from isolate.isolated import MAX_MANIFEST_BYTES
from isolate.monitor import Monitor
from isolate.receiving import Record, each

CHUNK_READ = 256  # chunks of a large blob asked for in one call: about 256 MiB, in any order
UNKNOWN_SIZE = -1  # stores read by digest; a manifest's size is learnt when it comes

_OF_FILES = ("fetched_blobs", "fetched_bytes")
_OF_MANIFESTS = ("fetched_manifests", "fetched_manifest_bytes")  # nobody announced them: they are no part of a whole


class Transfer:
    """Reads from one store into one cache; `sizes` are those of what came."""

    def __init__(self, store: BlobStore, cache: LocalCache, monitor: Monitor) -> None:
        self._store, self._cache, self._monitor = store, cache, monitor
        self.sizes = array("Q")

    async def run(self, batches: Iterator[Sequence[Blob]], *, doubtful: bool = False) -> None:
        """Read all `batches`, each in one call and several at a time; raises BlobsMissing.

        With `doubtful`, some may be here by the time it is their turn.
        """

        async def stream() -> None:
            for batch in batches:
                lacking = await asyncio.to_thread(self._cache.absent, batch) if doubtful else batch
                await _Batch(self._store, self._cache, self._monitor, lacking, self.sizes).run()

        with _one_error():
            async with asyncio.TaskGroup() as group:
                for _ in range(STREAMS):
                    group.create_task(stream())


class _Batch:
    """One read of blobs, and the large ones among them; appends to `sizes` what it has kept."""

    def __init__(
        self, store: BlobStore, cache: LocalCache, monitor: Monitor, blobs: Sequence[Blob], sizes: array[int]
    ) -> None:
        self._store, self._cache, self._monitor, self._sizes = store, cache, monitor, sizes
        self._left = {blob.digest: blob for blob in blobs}
        self._counters = _OF_MANIFESTS if any(blob.size == UNKNOWN_SIZE for blob in blobs) else _OF_FILES
        self._recipes: list[ChunkList] = []

    async def run(self) -> None:
        if self._left:
            await each(self._store, list(self._left.values()), self._keep)
        for recipe in self._recipes:
            await self._keep_large(recipe)
        if self._left:
            raise BlobsMissing(list(self._left), "the store")

    def _keep(self, records: Sequence[Record]) -> None:
        """Write what was asked for into the cache, in one transaction; runs in a thread."""
        contents = []
        for record in records:
            match record:
                case Block():
                    contents += [(blob, content) for blob, content in _verified(record) if self._take(blob)]
                case ChunkList(blob):
                    if blob.digest in self._left:
                        self._recipes.append(record)
        if contents:
            self._cache.add_verified(contents)
            self._came(sum([blob.size for blob, _ in contents]))
            self._done([blob for blob, _ in contents])

    def _take(self, blob: Blob) -> bool:
        """Whether `blob` was asked for and is new; raises InvalidManifest when its size was announced wrongly."""
        wanted = self._left.pop(blob.digest, None)
        if wanted is None:
            return False
        if wanted.size not in {blob.size, UNKNOWN_SIZE}:
            raise InvalidManifest(f"Blob {blob.digest.hex()} has {blob.size} bytes, its manifest says {wanted.size}")
        if wanted.size == UNKNOWN_SIZE and blob.size > MAX_MANIFEST_BYTES:
            raise InvalidManifest(f"Blob {blob.digest.hex()} of {blob.size} bytes is too large for a manifest")
        return True

    async def _keep_large(self, recipe: ChunkList) -> None:
        if not self._take(recipe.blob):
            return
        offsets: dict[Blob, list[int]] = {}
        offset = 0
        for chunk in recipe.chunks:
            offsets.setdefault(chunk, []).append(offset)
            offset += chunk.size
        if offset != recipe.blob.size:
            raise StoredCorrupt(recipe.blob, b"", "a recipe of the store")
        with (
            await asyncio.to_thread(self._cache.writer, recipe.blob) as writer,
            _Growing(writer, self._came) as file,
        ):
            chunks = list(offsets)
            for start in range(0, len(chunks), CHUNK_READ):
                part = {chunk: offsets[chunk] for chunk in chunks[start : start + CHUNK_READ]}
                await asyncio.to_thread(self._write_cached, part, file)
                if part:
                    await each(self._store, list(part), partial(self._write, part, file))
                if part:
                    raise BlobsMissing([recipe.blob.digest], "the store")
            with _store_at_fault():
                await asyncio.to_thread(writer.commit)
        self._done([recipe.blob])

    def _write(self, offsets: dict[Blob, list[int]], file: _Growing, records: Sequence[Record]) -> None:
        """Write the chunks among `records` to all their places, forgetting these; runs in a thread.

        What they hold is verified as a whole, when the file is: hashing each as well would prove nothing more.
        """
        for record in records:
            if isinstance(record, Block):
                for chunk, content in _opened(record):
                    file.write(offsets.pop(chunk, ()), content)

    def _write_cached(self, offsets: dict[Blob, list[int]], file: _Growing) -> None:
        """Write the chunks that are files of the cache, too, forgetting these; runs in a thread."""
        lacking = set(self._cache.absent(list(offsets)))
        for chunk in [chunk for chunk in offsets if chunk not in lacking]:
            content = self._cache.read(chunk.digest, chunk.size)
            if content is not None:  # it may have been evicted meanwhile
                file.write(offsets.pop(chunk), content)

    def _came(self, more_bytes: int) -> None:
        self._monitor.count(self._counters[1], more_bytes)

    def _done(self, blobs: Sequence[Blob]) -> None:
        self._sizes.extend([blob.size for blob in blobs])
        self._monitor.count(self._counters[0], len(blobs))


class _Growing:
    """A large file that tells how much of it came; of one that does not become whole, nothing came."""

    def __init__(self, writer: BlobWriter, came: Callable[[int], object]) -> None:
        self._writer, self._came, self._told_bytes = writer, came, 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, raised: type[BaseException] | None, *_: object) -> None:
        if raised is not None:
            self._came(-self._told_bytes)

    def write(self, offsets: Sequence[int], content: memoryview | bytes) -> None:
        """Put a chunk at all its places."""
        for offset in offsets:
            self._writer.write_at(offset, content)
        came_bytes = len(offsets) * len(content)
        self._told_bytes += came_bytes
        self._came(came_bytes)


def _opened(block: Block) -> Iterator[tuple[Blob, memoryview]]:
    with _store_at_fault():
        yield from block.pieces()


def _verified(block: Block) -> Iterator[tuple[Blob, memoryview]]:
    with _store_at_fault():
        yield from block.contents()


@contextmanager
def _store_at_fault() -> Iterator[None]:
    """Say who sent the wrong bytes."""
    try:
        yield
    except BlobCorrupt as error:
        raise StoredCorrupt(error.blob, error.found, "the store") from error
    except InvalidRecord as error:
        raise IsolateError(f"The store sent a damaged block: {error}") from error


@contextmanager
def _one_error() -> Iterator[None]:
    """Raise the error that made a group of tasks end, alone: it is what callers decide on."""
    try:
        yield
    except BaseExceptionGroup as group:
        raise first_cause(group) from group
