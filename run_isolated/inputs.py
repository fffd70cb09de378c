"""The inputs of a run: a tree of the cache, mapped, proven unharmed afterwards, and kept for the next run.

Knows no command, no store and no loop; what has to be fetched first is the business of fetching.py. The invariants:
everything mapped stays pinned until `close`; when `verify` returns, the files of the cache that the tree shares are the
ones that were mapped; only a tree that was verified is kept.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Self

from isolate.cas.cache import CachePolicy, Evicted, LocalCache, Usage
from isolate.cas.digest import Namespace
from isolate.clock import Clock
from isolate.errors import BlobCorrupt, InternalFailure, LostFromCache
from isolate.found import Counted, Fetched, found, ignore
from isolate.monitor import Monitor
from run_isolated.command import Layers
from run_isolated.deletion import delete_tree
from run_isolated.many_links import ManyLinks, ManyLooks
from run_isolated.mapper import How
from run_isolated.mapping import Ready, map_fetched
from run_isolated.result import Transfer
from run_isolated.reuse import Trees
from run_isolated.stopping import Check, go_on

if TYPE_CHECKING:
    from run_isolated.looking import Expected


class Inputs:
    """One mapped tree."""

    overlay: Sequence[str] = ()  # nothing has to be mounted
    layers: Layers | None = None

    def __init__(
        self, cache: LocalCache, trees: Trees | None, before: Usage, ready: Ready, place: Path, duration_s: float
    ) -> None:
        """Use `found`, or fetching.py."""
        self.command, self.relative_cwd = ready.command, ready.relative_cwd
        self.before = before  # the cache, when we came
        self.transfer = Transfer(duration_s, items_cold=ready.cold, items_hot=ready.hot)
        self._cache, self._trees, self._ready, self._place = cache, trees, ready, place
        self._is_verified = self._is_good = False

    @classmethod
    def found(
        cls,
        namespace: Namespace,
        root: str,
        destination: Path,
        cache_dir: Path,
        policy: CachePolicy,
        clock: Clock,
        monitor: Monitor,
        how: How = How.LINK,
        *,
        keep: bool = True,
        check: Check = go_on,
    ) -> Self | None:
        """Map the tree whose hash is `root` at `destination`, which is empty, from what is in the cache.

        None when a store has to be asked. With `keep`, trees of earlier runs are used and this one is kept. When this
        returns inputs, the command may start. Raises IsolateError, and what `check` raises to stop.
        """
        started_s, digest = clock.monotonic(), namespace.algorithm.parse_hex(root.lower())
        cache = LocalCache.open(cache_dir, namespace, policy, clock, monitor, check=check)
        try:
            trees, before = trees_of(cache, how, monitor, keep=keep), cache.usage()
            ready = None
            if trees is not None and trees.has_any():
                from run_isolated.remapping import reuse  # few machines with small trees have kept one

                ready = reuse(cache, trees, digest, destination, check)
            if ready is None:
                with ManyLinks(check) as others, ManyLooks(cache, check) as looks:
                    fetched = found(
                        cache, digest, monitor, _both(others, looks) if how.is_shared else ignore, looks.eyes
                    )
                    if fetched is not None:
                        mapping = partial(mapped, cache, trees, fetched, destination, how, monitor, check, others)
                        ready = mapping(looks.expected())
        except BaseException:
            cache.close()
            raise
        if ready is None:
            cache.close()
            return None
        return cls(cache, trees, before, ready, destination, clock.monotonic() - started_s)

    def give(self, trees: Trees) -> bool:
        """Keep the tree now, before any command had it; False, and it stays where it is, when it cannot be kept."""
        self.verify()
        is_kept = self._ready.keep(trees, self._cache, self._place)
        self._is_good = False  # nothing is left to be kept
        return is_kept

    def verify(self) -> None:
        """Raise InternalFailure when a file of the cache was overwritten; to be called when the command is over."""
        problem = self._ready.proof.check().problem
        self._is_verified = True
        if problem is not None:
            raise InternalFailure(problem)
        self._is_good = True

    def put_away(self) -> None:
        """Prove the cache unharmed also when the run was cut short, and keep the tree if that is of use."""
        if not self._is_verified:
            self._ready.proof.check()
        if self._trees is not None and self._is_good:
            self._ready.keep(self._trees, self._cache, self._place)

    def close(self, *, trim: bool = True) -> None:
        """Let the cache go, trimmed if that is due and we may; nothing may be left of the tree unless it is kept.

        As long as our pins are there, nobody takes what is in the tree for names that somebody else has made.
        """
        try:
            self._ready.pin.release()
            if self._trees is not None and self._ready.taken is not None:
                self._trees.give_up(self._ready.taken.path)
            if trim:
                evicted = self._cache.trim() if self._ready.cold or self._cache.is_over() else Evicted()
                if self._trees is not None:
                    self._trees.trim(evicted=bool(evicted))
        finally:
            self._cache.close()


def trees_of(cache: LocalCache, how: How, monitor: Monitor, *, keep: bool) -> Trees | None:
    """Return the kept trees that a run may use and add to; None when its own cannot be one of them."""
    return Trees(cache, monitor) if keep and how.is_shared else None


def _both(others: ManyLinks, looks: ManyLooks) -> Counted:

    def counted(entries: int) -> None:
        others.expect(entries)
        looks.expect(entries)

    return counted


def mapped(
    cache: LocalCache,
    trees: Trees | None,
    fetched: Fetched,
    destination: Path,
    how: How,
    monitor: Monitor,
    check: Check,
    others: ManyLinks,
    expected: Expected | None = None,
) -> Ready | None:
    """Map the tree; None, with nothing left of it, when a file was found wrong meanwhile and has to be fetched again.

    The directory itself stays: somebody knows its inode. `expected` are its files in the cache, if that is known.
    """
    with suppress(LostFromCache, BlobCorrupt):
        ready = map_fetched(cache, trees, fetched, destination, how, monitor, check, others, expected)
        if not cache.poisoned_since(fetched.pin):
            return ready
    fetched.pin.release()
    for name in os.listdir(destination):
        delete_tree(destination / name)
    return None
