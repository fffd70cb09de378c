"""From one hash to a cache that holds the whole tree: manifest, includes, then what the cache lacks.

Knows no disk and no transport: a `BlobStore` gives, a `LocalCache` keeps. The parts of a large manifest are read one
by one, each time they are needed: from the cache, where they are pinned like all else.

Invariants: what was fetched is pinned from before the first look until the pin in `Fetched` is released; memory does
not depend on the tree, but for eight bytes per blob.
"""

from __future__ import annotations

import asyncio
from array import array
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from struct import Struct

from isolate.cas.cache import LocalCache, Pin
from isolate.cas.digest import Blob
from isolate.cas.store import BlobStore
from isolate.entries import Entry
from isolate.errors import BlobsMissing, InvalidManifest
from isolate.isolated import MAX_MANIFEST_BYTES, Manifest, loads
from isolate.monitor import Monitor
from isolate.parts import Parts, Tree
from isolate.spool import Spool
from isolate.transfer import STREAMS, UNKNOWN_SIZE, Transfer

MAX_READ = 10_000  # blobs asked for in one call
MIN_READ = 512  # a smaller call is not worth its own stream
MAX_SEEN = 1 << 17  # blobs known to have been looked up; one that comes again much later is looked up again


@dataclass(frozen=True, slots=True)
class Fetched:
    """A tree that is in the cache as a whole, for as long as `pin` is not released."""

    root: bytes  # digest of the manifest
    tree: Tree
    pin: Pin
    cold: Sequence[int]  # sizes of what had to be transferred, manifests included
    hot: Sequence[int]  # and of what was there; in a large tree, a blob that comes again much later once more

    @property
    def downloaded_bytes(self) -> int:
        """Plain bytes transferred."""
        return sum(self.cold)


async def fetch(
    store: BlobStore,
    cache: LocalCache,
    root: str,
    monitor: Monitor,
    *,
    wanted: Callable[[str], object] | None = None,
    verify: bool = False,
) -> Fetched:
    """Return the tree whose hash is `root`, all of it in `cache` and pinned; of some paths only those `wanted`.

    With `verify`, what the cache has is hashed first. Raises InvalidDigest, InvalidManifest, BlobsMissing naming the
    path that needs it, StoredCorrupt when the store sends wrong bytes, NoSpace, and what the store raises.
    """
    digest = store.namespace.algorithm.parse_hex(root.lower())
    pin = await asyncio.to_thread(cache.pin, [digest])
    try:
        return await _Fetch(store, cache, monitor, pin).run(digest, wanted, verify=verify)
    except BaseException:
        pin.release()
        raise


class _Fetch:
    """One tree on its way into the cache."""

    def __init__(self, store: BlobStore, cache: LocalCache, monitor: Monitor, pin: Pin) -> None:
        self._namespace, self._cache, self._monitor, self._pin = store.namespace, cache, monitor, pin
        self._transfer = Transfer(store, cache, monitor)
        self._hot = array("Q")

    async def run(self, root: bytes, wanted: Callable[[str], object] | None, *, verify: bool) -> Fetched:
        tree = await self._tree(root)
        if wanted is not None:
            tree = tree.only(wanted)
        looking = _Looking(self._cache, self._pin, self._namespace.algorithm.digest_bytes, verify=verify)
        await asyncio.to_thread(looking.run, tree)
        self._hot += looking.hot
        self._monitor.count("known_blobs", len(self._hot))
        self._monitor.count("known_bytes", sum(self._hot))
        self._monitor.expect("fetched_blobs", looking.absent_blobs)
        self._monitor.expect("fetched_bytes", looking.absent_bytes)
        try:
            await self._transfer.run(looking.batches(), doubtful=looking.has_forgotten)
        except BlobsMissing as error:
            path = await asyncio.to_thread(_path_of_any, tree, set(error.digests))
            raise BlobsMissing(error.digests, f"the store, needed by {path!r}") from error
        return Fetched(root, tree, self._pin, self._transfer.sizes, self._hot)

    async def _tree(self, root: bytes) -> Tree:
        """Return the tree with its includes; each level of them is one read."""
        parts = Parts(self._namespace.algorithm)
        level = [root]
        while level:
            lacking = await asyncio.to_thread(self._add_cached, level, parts)
            self._hot.extend([size for size in lacking.values() if size is not None])
            gone = [digest for digest, size in lacking.items() if size is None]
            if gone:
                await asyncio.to_thread(self._pin.extend, gone)
                await self._transfer.run(iter(_in_batches([Blob(digest, UNKNOWN_SIZE) for digest in gone])))
                sizes = await asyncio.to_thread(self._add_cached, gone, parts)
                gone = [digest for digest, size in sizes.items() if size is None]
                if gone:  # the store sent it, and it is not here: somebody emptied the cache meanwhile
                    raise BlobsMissing(gone, f"the cache {self._cache.root}")
            level = parts.below(level)
        return await asyncio.to_thread(parts.tree, root, self._part)

    def _add_cached(self, digests: Sequence[bytes], parts: Parts) -> dict[bytes, int | None]:
        """Add the manifests that are in the cache to `parts`; returns the sizes of these, and None for the others."""
        sizes: dict[bytes, int | None] = {}
        for digest in digests:
            content = self._content(digest)
            sizes[digest] = None if content is None else len(content)
            if content is not None:
                parts.add(digest, loads(content, self._namespace))
        return sizes

    def _part(self, digest: bytes) -> Manifest:
        """Return a part that was read before."""
        content = self._content(digest)
        if content is None:
            raise BlobsMissing([digest], f"the cache {self._cache.root}")
        return loads(content, self._namespace)

    def _content(self, digest: bytes) -> bytes | None:
        return b"" if digest == self._namespace.empty.digest else self._cache.read(digest, MAX_MANIFEST_BYTES)


class _Looking:
    """A look at the cache for all blobs of a tree, run by run: pins them, and notes on disk what is absent."""

    def __init__(self, cache: LocalCache, pin: Pin, digest_bytes: int, *, verify: bool) -> None:
        self._cache, self._pin, self._verify = cache, pin, verify
        self._layout = Struct(f"<{digest_bytes}sQ")
        self._absent = Spool(cache.temporary)  # a record for each batch
        self._waiting: list[Blob] = []
        self._seen: dict[bytes, int] = {}  # digest to size
        self.has_forgotten = False  # so that some may be among the absent twice
        self.absent_blobs = self.absent_bytes = 0
        self.hot = array("Q")

    def run(self, tree: Tree) -> None:
        for entries in tree.runs():
            self._look_up(entries)
        self._spool(self._waiting)
        self._waiting = []
        self._pin.restart()  # what was wrong until now is gone, and nothing of ours was linked to it

    def _look_up(self, entries: Sequence[Entry]) -> None:
        if len(self._seen) > MAX_SEEN:
            self._seen, self.has_forgotten = {}, True
        blobs, seen = [], self._seen
        for path, _, blob, _, _ in entries:
            if blob is not None and blob[1]:
                if blob[0] not in seen:
                    seen[blob[0]] = blob[1]
                    blobs.append(blob)
                elif seen[blob[0]] != blob[1]:
                    raise InvalidManifest(f"{path!r} gives blob {blob[0].hex()} a second size, {blob[1]} bytes")
        executables = list(dict.fromkeys(entry.blob for entry in entries if entry.blob and entry.is_executable))
        self._pin.extend(blob.digest for blob in blobs)
        absent = self._cache.absent(blobs)
        lacking = set(absent)
        variants = set(self._cache.absent(executables, executable=True))  # drops those that were damaged
        if self._verify:  # drops those that are wrong
            files = [(blob, False) for blob in blobs if blob not in lacking]
            right = self._cache.recheck(files + [(blob, True) for blob in executables if blob not in variants])
            wrong = [variant[0] for variant in files if variant not in right]
            absent += wrong
            lacking.update(wrong)
        self.hot.extend([blob.size for blob in blobs if blob not in lacking])
        self.absent_blobs += len(absent)
        self.absent_bytes += sum(blob.size for blob in absent)
        self._waiting += absent
        while len(self._waiting) >= 2 * STREAMS * MAX_READ:  # the last ones are shared by the streams
            self._spool(self._waiting[: STREAMS * MAX_READ])
            self._waiting = self._waiting[STREAMS * MAX_READ :]

    def _spool(self, blobs: Sequence[Blob]) -> None:
        for batch in _in_batches(blobs):
            self._absent.append(b"".join([self._layout.pack(*blob) for blob in batch]))

    def batches(self) -> Iterator[Sequence[Blob]]:
        """Yield what was absent."""
        for packed in self._absent:
            yield [Blob(*fields) for fields in self._layout.iter_unpack(packed)]


def _in_batches(blobs: Sequence[Blob]) -> list[Sequence[Blob]]:
    size = min(MAX_READ, max(MIN_READ, -(-len(blobs) // STREAMS)))
    return [blobs[start : start + size] for start in range(0, len(blobs), size)]


def _path_of_any(tree: Tree, digests: set[bytes]) -> str:
    return next(entry.path for entry in tree.entries() if entry.blob and entry.blob.digest in digests)
