"""Whether the trees that tasks name are whole, asked of our own blob store (architecture, decision 14).

Knows no task. A tree that was found whole is kept by the store for `promised_s`, because looking at it refreshed it, so
it is not walked again for half of that. The manifest of a tree is read into memory, its files are not.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from weakref import WeakValueDictionary

from isolate import isolated
from isolate.cas.block import Absent, Block, ChunkList
from isolate.cas.digest import Blob, Namespace
from isolate.cas.store import MAX_BATCH, BlobStore
from isolate.clock import Clock
from isolate.entries import MAX_PARTS
from isolate.errors import InvalidManifest
from swarming.model import FilesRef

MAX_REMEMBERED = 10_000  # trees; 200 bytes each
INLINE_BYTES = 64 * 1024  # a larger manifest is parsed in a thread: 20,000 entries hold the loop up for 100 ms

Tree = tuple[str, str]  # namespace, hash


class TreeChecker:
    """Implements `swarming.scheduler.Inputs` on the blob stores of this server."""

    def __init__(self, store_of: Callable[[Namespace], BlobStore], clock: Clock, promised_s: float) -> None:
        self._store_of, self._clock = store_of, clock
        self._fresh_s = promised_s / 2
        self._whole_at: dict[Tree, float] = {}  # monotonic; insertion order is age
        self._locks: WeakValueDictionary[Tree, asyncio.Lock] = WeakValueDictionary()

    async def check(self, files: FilesRef) -> str | None:
        """Return None for a tree that is whole, or on another server, else the first missing path.

        Raises InvalidManifest for a hash of something that is no tree.
        """
        if files.server or files.isolated is None:
            return None
        tree = (files.namespace, files.isolated)
        # One walk for all who ask at the same time: the shards of a task come together.
        lock = self._locks.setdefault(tree, asyncio.Lock())
        async with lock:
            if self._clock.monotonic() - self._whole_at.get(tree, float("-inf")) < self._fresh_s:
                return None
            found_at = self._clock.monotonic()
            missing = await self._walk(Namespace.parse(files.namespace), files.isolated)
            self._whole_at.pop(tree, None)
            if missing is None:
                self._whole_at[tree] = found_at
                while len(self._whole_at) > MAX_REMEMBERED:
                    del self._whole_at[next(iter(self._whole_at))]
        return missing

    async def _walk(self, namespace: Namespace, root: str) -> str | None:
        store = self._store_of(namespace)
        waiting, seen = [namespace.algorithm.parse_hex(root)], set[bytes]()
        while waiting:
            digest = waiting.pop()
            if digest in seen:
                continue
            seen.add(digest)
            if len(seen) > MAX_PARTS:
                raise InvalidManifest(f"Tree {root} has more than {MAX_PARTS} parts")
            content = await read_whole(store, digest, isolated.MAX_MANIFEST_BYTES)
            if content is None:
                return f"{digest.hex()} (the .isolated itself)" if len(seen) == 1 else f"{digest.hex()} (an include)"
            manifest = await _parse(content, namespace)
            missing = await _first_missing(store, manifest)
            if missing is not None:
                return missing
            waiting += reversed(manifest.includes)
        return None


async def _parse(content: bytes, namespace: Namespace) -> isolated.Manifest:
    if len(content) <= INLINE_BYTES:
        return isolated.loads(content, namespace)
    return await asyncio.to_thread(isolated.loads, content, namespace)


async def _first_missing(store: BlobStore, manifest: isolated.Manifest) -> str | None:
    blobs = list(manifest.blobs())
    for start in range(0, len(blobs), MAX_BATCH):
        missing = await store.missing(blobs[start : start + MAX_BATCH])
        if missing:
            return next(entry.path for entry in manifest.entries if entry.blob == missing[0])
    return None


async def read_whole(store: BlobStore, digest: bytes, most_bytes: int) -> bytes | None:
    """Return the content of a blob, None when the store lacks it; raises InvalidManifest past `most_bytes`."""
    if digest == store.namespace.empty.digest:
        return b""
    found = await _read(store, [digest])
    if found is None:
        return None
    if not isinstance(found, ChunkList):
        return found[digest]
    if found.blob.size > most_bytes:
        raise InvalidManifest(f"{digest.hex()} has {found.blob.size} bytes, too many for a tree (limit {most_bytes})")
    chunks = [chunk.digest for chunk in found.chunks]
    parts = await _read(store, chunks)
    return None if parts is None or isinstance(parts, ChunkList) else b"".join(parts[chunk] for chunk in chunks)


async def _read(store: BlobStore, digests: Sequence[bytes]) -> dict[bytes, bytes] | ChunkList | None:
    """Return the contents of `digests`, the recipe of the only one, or None when one is absent."""
    wanted, contents = set(digests), dict[bytes, bytes]()
    async for record in store.read([Blob(digest, 0) for digest in wanted]):
        match record:
            case Block():
                contents |= {blob.digest: bytes(data) for blob, data in record.contents() if blob.digest in wanted}
            case ChunkList():
                return record
            case Absent():
                return None
    return contents if contents.keys() == wanted else None
