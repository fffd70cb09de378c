"""The files that tasks left behind, brought into one folder per shard through one cache.

Knows no tasks: it is told where a tree is and the number of its shard. The invariant: a file appears under its name
whole or not at all, an older one of the same name is replaced, and nothing else in the folder is touched, so that a
collection may be repeated, also after it was interrupted.
"""

from __future__ import annotations

import asyncio
import errno
import os
import re
import shutil
import tempfile
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Self

from isolate import __version__
from isolate.cas.cache import CachePolicy, LocalCache
from isolate.cas.digest import Namespace
from isolate.cas.remote import HttpStore
from isolate.clock import SystemClock
from isolate.errors import IsolateError, NoSpace
from isolate.fetch import fetch
from isolate.found import Fetched
from isolate.http import HttpClient
from isolate.monitor import Monitor
from isolate.staging import staging
from isolate.urls import normalize_url
from run_isolated.mapper import How, apply
from run_isolated.plans import Plans
from swarming.client import OutputsRef

# What the tools of 2020 keep on a user's machine.
POLICY = CachePolicy(max_bytes=50 << 30, max_items=100_000, min_free_bytes=2 << 30, max_age_s=21 * 24 * 3600)

CONNECTIONS = 4  # to a server that is not the scheduler itself


class OutputDownloader:
    """Brings outputs below one directory; an async context that owns the connections and caches it opened.

    Where the cache cannot be used, or its disk has no room, outputs come through one of their own, below the directory.
    """

    def __init__(
        self,
        directory: Path,
        cache: Path,
        path_filter: re.Pattern[str] | None,
        monitor: Monitor,
        known: HttpClient | None = None,
    ) -> None:
        """Bring only what `path_filter` matches, if there is one, at the start of paths.

        Outputs on the server that `known` talks to come through it, and cost no connections of their own.
        """
        self._directory, self._cache_root, self._monitor = directory, cache, monitor
        self._path_filter = path_filter or re.compile("")
        self._stack = AsyncExitStack()
        self.clients = {known.base_url: known} if known else {}
        self._places: dict[tuple[str, str], tuple[HttpStore, LocalCache]] = {}
        self._opening = asyncio.Lock()
        self._own_root: Path | None = None  # of a cache that lasts as long as we do

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._stack.aclose()

    async def fetch(self, index: int, outputs: OutputsRef) -> None:
        """Bring one tree into `<directory>/<index>`; raises what `isolate.fetch` does, NoSpace, IsolateError."""
        store, cache = await self._place(outputs)
        folder = self._directory / str(index)
        try:
            fetched = await self._fetched(store, cache, outputs)
        except NoSpace as error:
            cache = await self._roomier(outputs, cache, error)
            fetched = await self._fetched(store, cache, outputs)
        try:
            await asyncio.to_thread(self._write, Plans(fetched.tree), cache, folder)
        except NoSpace as error:  # said of a place that is gone
            raise NoSpace(f"Cannot write outputs to {folder}: no space left") from error
        except OSError as error:
            kind = NoSpace if error.errno in {errno.ENOSPC, errno.EDQUOT} else IsolateError
            raise kind(f"Cannot write outputs to {folder}: {error.strerror}") from error
        finally:
            await asyncio.to_thread(fetched.pin.release)

    async def _fetched(self, store: HttpStore, cache: LocalCache, outputs: OutputsRef) -> Fetched:
        return await fetch(store, cache, outputs.isolated, self._monitor, wanted=self._path_filter.match)

    async def _place(self, outputs: OutputsRef) -> tuple[HttpStore, LocalCache]:
        """Return the store and the cache for outputs that are on one server, in one namespace."""
        async with self._opening:
            key = (outputs.server, outputs.namespace)
            if key not in self._places:
                namespace = Namespace.parse(outputs.namespace)
                store = HttpStore(await self._client(outputs.server), namespace)
                self._places[key] = store, await self._open(namespace)
            return self._places[key]

    async def _roomier(self, outputs: OutputsRef, full: LocalCache, error: NoSpace) -> LocalCache:
        """Return a cache to use instead of one that is full; raises `error` where there is none."""
        async with self._opening:
            key = (outputs.server, outputs.namespace)
            store, cache = self._places[key]
            if cache is full:
                if self._own_root:
                    raise error
                self._leave_cache(error)
                cache = await self._open(store.namespace)
                self._places[key] = store, cache
            return cache

    async def _open(self, namespace: Namespace) -> LocalCache:
        if self._own_root is None:
            try:
                return self._kept(await asyncio.to_thread(_open_with_room, self._cache_root, namespace, self._monitor))
            except IsolateError as error:
                self._leave_cache(error)
        assert self._own_root is not None, "made by _leave_cache"
        clock, policy = SystemClock(), CachePolicy()
        return self._kept(
            await asyncio.to_thread(LocalCache.open, self._own_root, namespace, policy, clock, self._monitor)
        )

    def _kept(self, cache: LocalCache) -> LocalCache:
        self._stack.enter_context(cache)
        self._stack.callback(cache.trim)
        return cache

    def _leave_cache(self, error: IsolateError) -> None:
        """Use a cache of our own from now on."""
        self._monitor.problem(f"{error}; outputs come through a temporary cache in {self._directory}")
        try:
            self._directory.mkdir(parents=True, exist_ok=True)
            self._own_root = Path(tempfile.mkdtemp(prefix=".cache-", dir=self._directory))
        except OSError as refusal:
            raise IsolateError(f"Cannot write outputs to {self._directory}: {refusal.strerror}") from refusal
        self._stack.callback(shutil.rmtree, self._own_root, ignore_errors=True)

    async def _client(self, server: str) -> HttpClient:
        url = normalize_url(server)
        if url not in self.clients:
            http = HttpClient(url, user_agent=f"swarming/{__version__}", connections=CONNECTIONS, monitor=self._monitor)
            self.clients[url] = await self._stack.enter_async_context(http)
        return self.clients[url]

    def _write(self, tree: Plans, cache: LocalCache, folder: Path) -> None:
        """Make the tree beside `folder`, then move it in, file by file."""
        folder.mkdir(parents=True, exist_ok=True)
        with staging(self._directory, folder.name, self._monitor) as beside:
            apply(tree, cache, beside / "tree", How.COPY)
            _merge(beside / "tree", folder)


def _open_with_room(root: Path, namespace: Namespace, monitor: Monitor) -> LocalCache:
    """Return the cache at `root`; raises NoSpace when its disk has no room even after what is old was evicted."""
    cache = LocalCache.open(root, namespace, POLICY, SystemClock(), monitor)
    try:
        if _shortage_bytes(root) > 0:
            cache.trim()
        if _shortage_bytes(root) > 0:
            raise NoSpace(f"Less than {POLICY.min_free_bytes >> 30} GiB are free where the cache {root} is")
    except BaseException:
        cache.close()
        raise
    return cache


def _shortage_bytes(root: Path) -> int:
    return POLICY.shortage_bytes(shutil.disk_usage(root).free)


def _merge(source: Path, target: Path) -> None:
    """Move everything in `source` into `target`, replacing files and links; folders are joined, never followed."""
    for entry in os.scandir(source):
        place = target / entry.name
        if entry.is_dir(follow_symlinks=False):
            if place.is_symlink():
                place.unlink()
            place.mkdir(exist_ok=True)
            _merge(Path(entry.path), place)
        else:
            os.replace(entry.path, place)
