"""From one hash to a cache that holds the whole tree: manifest, includes, then what the cache lacks.

Knows no disk and no transport: a `BlobStore` gives, a `LocalCache` keeps. Records are received while the ones before
are decompressed, verified and written by a thread; large blobs go through their recipes, straight into one file.

Invariants: what was fetched is pinned from before the first look until the pin in `Fetched` is released; memory is
bounded by STREAMS x (AHEAD + 2) blocks, whatever the tree; nothing that was not asked for is kept.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial

from isolate.cas.block import Block, ChunkList
from isolate.cas.cache import BlobWriter, LocalCache, Pin
from isolate.cas.digest import Blob
from isolate.cas.store import BlobStore
from isolate.entries import MAX_PARTS
from isolate.errors import (
    BlobCorrupt,
    BlobsMissing,
    InvalidManifest,
    InvalidRecord,
    IsolateError,
    StoredCorrupt,
    first_cause,
)
from isolate.isolated import MAX_MANIFEST_BYTES, Manifest, loads, resolve
from isolate.monitor import Monitor
from isolate.receiving import Record, each

STREAMS = 2  # parallel reads: enough to keep a thread busy while another one waits for the network
MAX_READ = 10_000  # blobs asked for in one call
MIN_READ = 512  # a smaller call is not worth its own stream
CHUNK_READ = 256  # chunks of a large blob asked for in one call: about 256 MiB, in any order
_UNKNOWN_SIZE = -1  # stores read by digest; a manifest's size is learnt when it comes


@dataclass(frozen=True, slots=True)
class Fetched:
    """A tree that is in the cache as a whole, for as long as `pin` is not released."""

    root: bytes  # digest of the manifest
    manifest: Manifest  # with all includes merged
    pin: Pin
    cold: tuple[Blob, ...]  # had to be transferred, manifests included
    hot: tuple[Blob, ...]  # were there

    @property
    def downloaded_bytes(self) -> int:
        """Plain bytes transferred."""
        return sum(blob.size for blob in self.cold)


async def fetch(
    store: BlobStore,
    cache: LocalCache,
    root: str,
    monitor: Monitor,
    *,
    wanted: Callable[[str], object] | None = None,
) -> Fetched:
    """Return the tree whose hash is `root`, all of it in `cache` and pinned; of some paths only those `wanted`.

    Raises InvalidDigest, InvalidManifest, BlobsMissing naming the path that needs it, StoredCorrupt when the store
    sends wrong bytes, NoSpace, and what the store raises.
    """
    digest = store.namespace.algorithm.parse_hex(root.lower())
    pin = await asyncio.to_thread(cache.pin, [digest])
    try:
        return await _Fetch(store, cache, monitor, pin).run(digest, wanted)
    except BaseException:
        pin.release()
        raise


class _Fetch:
    """One tree on its way into the cache."""

    def __init__(self, store: BlobStore, cache: LocalCache, monitor: Monitor, pin: Pin) -> None:
        self._store, self._cache, self._monitor, self._pin = store, cache, monitor, pin
        self._cold: list[Blob] = []
        self._hot: list[Blob] = []

    async def run(self, root: bytes, wanted: Callable[[str], object] | None) -> Fetched:
        manifest = await self._manifest(root)
        if wanted is not None:
            manifest = replace(manifest, entries=tuple(entry for entry in manifest.entries if wanted(entry.path)))
        blobs = list(manifest.blobs())
        executables = list(
            dict.fromkeys(entry.blob for entry in manifest.entries if entry.blob and entry.is_executable)
        )
        absent = await asyncio.to_thread(self._absent, blobs, executables)
        lacking = {blob.digest for blob in absent}
        self._hot += [blob for blob in blobs if blob.digest not in lacking]
        self._monitor.count("known_blobs", len(self._hot))
        self._monitor.count("known_bytes", sum(blob.size for blob in self._hot))
        self._monitor.expect("fetched_blobs", len(absent))
        self._monitor.expect("fetched_bytes", sum(blob.size for blob in absent))
        try:
            await self._transfer(absent)
        except BlobsMissing as error:
            gone = set(error.digests)
            path = next(entry.path for entry in manifest.entries if entry.blob and entry.blob.digest in gone)
            raise BlobsMissing(error.digests, f"the store, needed by {path!r}") from error
        return Fetched(root, manifest, self._pin, tuple(self._cold), tuple(self._hot))

    def _absent(self, blobs: Sequence[Blob], executables: Sequence[Blob]) -> list[Blob]:
        self._pin.extend(blob.digest for blob in blobs)
        absent = self._cache.absent(blobs)
        self._cache.absent(executables, executable=True)  # drops those that were damaged
        self._pin.restart()  # what was wrong until now is gone, and nothing of ours was linked to it
        return absent

    async def _manifest(self, root: bytes) -> Manifest:
        """Return the tree with its includes; each level of them is one read."""
        parts: dict[bytes, Manifest] = {}
        level = [root]
        while level:
            lacking = await asyncio.to_thread(self._load_cached, level, parts)
            if lacking:
                await asyncio.to_thread(self._pin.extend, lacking)
                await self._transfer([Blob(digest, _UNKNOWN_SIZE) for digest in lacking])
                gone = await asyncio.to_thread(self._load_cached, lacking, parts)
                if gone:  # the store sent it, and it is not here: somebody emptied the cache meanwhile
                    raise BlobsMissing(gone, f"the cache {self._cache.root}")
            includes = dict.fromkeys(part for digest in level for part in parts[digest].includes)
            level = [digest for digest in includes if digest not in parts]
            if len(parts) + len(level) > MAX_PARTS:
                raise InvalidManifest(f"The tree has more than {MAX_PARTS} includes")
        return await asyncio.to_thread(resolve, root, parts)

    def _load_cached(self, digests: Sequence[bytes], parts: dict[bytes, Manifest]) -> list[bytes]:
        """Add the manifests that are in the cache to `parts`; returns the others."""
        namespace, lacking = self._store.namespace, []
        for digest in digests:
            content = b"" if digest == namespace.empty.digest else self._cache.read(digest, MAX_MANIFEST_BYTES)
            if content is None:
                lacking.append(digest)
                continue
            parts[digest] = loads(content, namespace)
            if all(blob.digest != digest for blob in self._cold):
                self._hot.append(Blob(digest, len(content)))
        return lacking

    async def _transfer(self, blobs: Sequence[Blob]) -> None:
        """Read `blobs` from the store into the cache, in several streams; raises BlobsMissing."""
        size = min(MAX_READ, max(MIN_READ, -(-len(blobs) // STREAMS)))
        batches = iter([blobs[start : start + size] for start in range(0, len(blobs), size)])

        async def stream() -> None:
            for batch in batches:
                await _Batch(self._store, self._cache, self._monitor, batch, self._cold).run()

        with _one_error():
            async with asyncio.TaskGroup() as group:
                for _ in range(min(STREAMS, -(-len(blobs) // size)) if blobs else 0):
                    group.create_task(stream())


class _Batch:
    """One read of blobs, and the large ones among them; appends to `cold` what it has kept."""

    def __init__(
        self, store: BlobStore, cache: LocalCache, monitor: Monitor, blobs: Sequence[Blob], cold: list[Blob]
    ) -> None:
        self._store, self._cache, self._monitor, self._cold = store, cache, monitor, cold
        self._left = {blob.digest: blob for blob in blobs}
        self._recipes: list[ChunkList] = []

    async def run(self) -> None:
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
            self._done([blob for blob, _ in contents])

    def _take(self, blob: Blob) -> bool:
        """Whether `blob` was asked for and is new; raises InvalidManifest when its size was announced wrongly."""
        wanted = self._left.pop(blob.digest, None)
        if wanted is None:
            return False
        if wanted.size not in {blob.size, _UNKNOWN_SIZE}:
            raise InvalidManifest(f"Blob {blob.digest.hex()} has {blob.size} bytes, its manifest says {wanted.size}")
        if wanted.size == _UNKNOWN_SIZE and blob.size > MAX_MANIFEST_BYTES:
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
        with await asyncio.to_thread(self._cache.writer, recipe.blob) as writer:
            chunks = list(offsets)
            for start in range(0, len(chunks), CHUNK_READ):
                part = {chunk: offsets[chunk] for chunk in chunks[start : start + CHUNK_READ]}
                await each(self._store, list(part), partial(self._write, part, writer))
                if part:
                    raise BlobsMissing([recipe.blob.digest], "the store")
            with _store_at_fault():
                await asyncio.to_thread(writer.commit)
        self._done([recipe.blob])

    def _write(self, offsets: dict[Blob, list[int]], writer: BlobWriter, records: Sequence[Record]) -> None:
        """Write the chunks among `records` to all their places, forgetting these; runs in a thread."""
        for record in records:
            if isinstance(record, Block):
                for chunk, content in _verified(record):
                    for offset in offsets.pop(chunk, ()):
                        writer.write_at(offset, content)

    def _done(self, blobs: Sequence[Blob]) -> None:
        self._cold += blobs
        self._monitor.count("fetched_blobs", len(blobs))
        self._monitor.count("fetched_bytes", sum(blob.size for blob in blobs))


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
