"""The inputs of a run: a tree fetched into the cache, mapped, and proven unharmed afterwards.

Knows no command. The invariants: everything mapped stays pinned until `close`; when `verify` returns, the files of the
cache that the tree shares are the ones that were mapped.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Self

from isolate.cas.cache import CachePolicy, LocalCache, Usage
from isolate.cas.store import BlobStore
from isolate.clock import Clock
from isolate.errors import InternalFailure
from isolate.fetch import Fetched, fetch
from isolate.monitor import Monitor
from run_isolated.mapper import apply, plan
from run_isolated.proof import Proof
from run_isolated.result import Transfer
from run_isolated.waiting import in_thread


class Inputs:
    """One mapped tree."""

    def __init__(self, cache: LocalCache, before: Usage, fetched: Fetched, proof: Proof, duration_s: float) -> None:
        """Use `load`."""
        self.manifest = fetched.manifest
        self.before = before  # the cache, when we came
        self.transfer = Transfer(
            duration_s,
            items_cold=tuple(blob.size for blob in fetched.cold),
            items_hot=tuple(blob.size for blob in fetched.hot),
        )
        self._cache, self._fetched, self._proof = cache, fetched, proof

    @classmethod
    async def load(
        cls,
        store: BlobStore,
        root: str,
        destination: Path,
        cache_dir: Path,
        policy: CachePolicy,
        clock: Clock,
        monitor: Monitor,
    ) -> Self:
        """Fetch the tree whose hash is `root` and map it at `destination`, which is empty; raises IsolateError.

        When this returns, the command may start.
        """
        started_s = clock.monotonic()
        cache = await in_thread(partial(LocalCache.open, cache_dir, store.namespace, policy, clock, monitor))
        try:
            before = await in_thread(cache.usage)
            fetched = await fetch(store, cache, root, monitor)
            proof = await in_thread(partial(_map, cache, fetched, destination))
        except BaseException:
            await in_thread(cache.close)
            raise
        return cls(cache, before, fetched, proof, clock.monotonic() - started_s)

    def verify(self) -> None:
        """Raise InternalFailure when a file of the cache was overwritten; to be called when the command is over."""
        problem = self._proof.check().problem
        if problem is not None:
            raise InternalFailure(problem)

    def close(self) -> None:
        """Let the cache go, trimmed if this run made it grow or its limits do not hold."""
        try:
            self._fetched.pin.release()
            if self._fetched.cold or self._cache.is_over():
                self._cache.trim()
        finally:
            self._cache.close()


def _map(cache: LocalCache, fetched: Fetched, destination: Path) -> Proof:
    mapped = apply(plan(fetched.manifest), cache, destination)
    return Proof.start(cache, mapped, fetched.pin)
