"""From one hash to a cache that holds the whole tree: manifest, includes, then what the cache lacks.

Knows no disk and no transport: a `BlobStore` gives, a `LocalCache` keeps. The invariants are those of found.py, which
says what the cache has.
"""

from __future__ import annotations

import asyncio
from array import array
from collections.abc import Callable

from isolate.cas.cache import LocalCache, Pin
from isolate.cas.digest import Blob
from isolate.cas.store import BlobStore
from isolate.errors import BlobsMissing, LostFromCache
from isolate.found import Counted, Fetched, Looking, Manifests, ignore, in_batches
from isolate.monitor import Monitor
from isolate.parts import Parts, Tree
from isolate.transfer import UNKNOWN_SIZE, Transfer


async def fetch(
    store: BlobStore,
    cache: LocalCache,
    root: str,
    monitor: Monitor,
    *,
    wanted: Callable[[str], object] | None = None,
    verify: bool = False,
    counted: Counted = ignore,
) -> Fetched:
    """Return the tree whose hash is `root`, all of it in `cache` and pinned; of some paths only those `wanted`.

    With `verify`, what the cache has is hashed first. Raises InvalidDigest, InvalidManifest, BlobsMissing naming the
    path that needs it, StoredCorrupt when the store sends wrong bytes, NoSpace, and what the store raises.
    """
    digest = store.namespace.algorithm.parse_hex(root.lower())
    pin = await asyncio.to_thread(cache.pin, [digest])
    try:
        return await _Fetch(store, cache, monitor, pin, counted).run(digest, wanted, verify=verify)
    except BaseException:
        pin.release()
        raise


class _Fetch:
    """One tree on its way into the cache."""

    def __init__(self, store: BlobStore, cache: LocalCache, monitor: Monitor, pin: Pin, counted: Counted) -> None:
        self._namespace, self._cache, self._monitor, self._pin = store.namespace, cache, monitor, pin
        self._manifests = Manifests(cache, counted)
        self._transfer = Transfer(store, cache, monitor)
        self._hot = array("Q")

    async def run(self, root: bytes, wanted: Callable[[str], object] | None, *, verify: bool) -> Fetched:
        tree = await self._tree(root)
        if wanted is not None:
            tree = tree.only(wanted)
        looking = Looking(self._cache, self._pin, self._namespace.algorithm.digest_bytes, verify=verify)
        await asyncio.to_thread(looking.run, tree)
        self._hot += looking.hot
        looking.tell(self._hot, self._monitor)
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
            lacking = await asyncio.to_thread(self._manifests.add, level, parts)
            self._hot.extend([size for size in lacking.values() if size is not None])
            gone = [digest for digest, size in lacking.items() if size is None]
            if gone:
                await asyncio.to_thread(self._pin.extend, gone)
                await self._transfer.run(iter(in_batches([Blob(digest, UNKNOWN_SIZE) for digest in gone])))
                sizes = await asyncio.to_thread(self._manifests.add, gone, parts)
                gone = [digest for digest, size in sizes.items() if size is None]
                if gone:  # the store sent it, and it is not here: somebody emptied the cache meanwhile
                    raise LostFromCache(gone, f"the cache {self._cache.root}")
            level = parts.below(level)
        return await asyncio.to_thread(parts.tree, root, self._manifests.part)


def _path_of_any(tree: Tree, digests: set[bytes]) -> str:
    return next(entry.path for entry in tree.entries() if entry.blob and entry.blob.digest in digests)
