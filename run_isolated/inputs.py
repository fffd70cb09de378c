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
from run_isolated.mapper import How, apply, plan
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
        self._is_verified = False

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
        how: How = How.LINK,
        *,
        verify: bool = False,
    ) -> Self:
        """Fetch the tree whose hash is `root` and map it at `destination`, which is empty; raises IsolateError.

        With `verify`, what the cache has is hashed first. When this returns, the command may start.
        """
        started_s = clock.monotonic()
        cache = await in_thread(partial(LocalCache.open, cache_dir, store.namespace, policy, clock, monitor))
        try:
            before = await in_thread(cache.usage)
            fetched = await fetch(store, cache, root, monitor)
            if verify and await in_thread(partial(_drop_damaged, cache, fetched)):
                fetched.pin.release()
                fetched = await fetch(store, cache, root, monitor)
            proof = await in_thread(partial(_map, cache, fetched, destination, how))
        except BaseException:
            await in_thread(cache.close)
            raise
        return cls(cache, before, fetched, proof, clock.monotonic() - started_s)

    def verify(self) -> None:
        """Raise InternalFailure when a file of the cache was overwritten; to be called when the command is over."""
        problem = self._proof.check().problem
        self._is_verified = True
        if problem is not None:
            raise InternalFailure(problem)

    def close(self) -> None:
        """Let the cache go, proven unharmed also when the run was cut short, and trimmed if that is due."""
        try:
            if not self._is_verified:
                self._proof.check()
            self._fetched.pin.release()
            if self._fetched.cold or self._cache.is_over():
                self._cache.trim()
        finally:
            self._cache.close()


def _drop_damaged(cache: LocalCache, fetched: Fetched) -> bool:
    """Hash all files of a tree, the executable variants that are here too, and say whether one was wrong."""
    hot = {blob.digest for blob in fetched.hot}
    known = [entry for entry in fetched.manifest.entries if entry.blob and entry.blob.size and entry.blob.digest in hot]
    plain = dict.fromkeys(entry.blob for entry in known if entry.blob)
    variants = dict.fromkeys(entry.blob for entry in known if entry.blob and entry.is_executable)
    lacking = set(cache.absent(list(variants), executable=True))
    wrong = [blob for blob in plain if not cache.recheck(blob, executable=False)]
    wrong += [blob for blob in variants if blob not in lacking and not cache.recheck(blob, executable=True)]
    return bool(wrong)


def _map(cache: LocalCache, fetched: Fetched, destination: Path, how: How) -> Proof:
    mapped = apply(plan(fetched.manifest), cache, destination, how)
    return Proof.start(cache, mapped, fetched.pin)
