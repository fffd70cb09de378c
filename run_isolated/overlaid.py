"""The inputs of a run over a kept tree: mounted for the command alone, and unchanged whatever the command does.

Decides whether a run can have that, and says why not. The kernel's part is in overlay.py, the trees' in lowers.py. The
invariants: the tree is held until `close`; what the command writes is in the work directory and is deleted with it;
when `verify` returns, the tree is what was mounted.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Self

from isolate.cas.cache import CachePolicy, Evicted, LocalCache, Usage
from isolate.cas.mounts import alias
from isolate.cas.store import BlobStore
from isolate.clock import Clock
from isolate.errors import InternalFailure
from isolate.monitor import Monitor
from run_isolated.command import Layers
from run_isolated.deletion import delete_tree
from run_isolated.fetching import load
from run_isolated.lowers import Lower, hold
from run_isolated.result import Stopped, Transfer
from run_isolated.reuse import Trees
from run_isolated.stopping import Check, go_on
from run_isolated.waiting import in_thread
from run_isolated.workdir import WorkDir

Mounts = Callable[[Sequence[str]], Awaitable[str]]  # says why a command could not have an overlay, or ""

_PRIVATE = 0o700
_TRIES = 8  # at a tree that others take, or change, before we hold it
_TAKEN = "other runs took, or changed, each tree that was made for it"
_NOT_KEPT = "the tree is not kept: it has less than 256 names, a tar, or files that cannot be links to the cache"


class CannotOverlay(Exception):
    """No overlay for a run; the text says why."""

    def __init__(self, why: str, before: Usage | None = None, came: Transfer | None = None) -> None:
        """What had come by then, and what the cache was `before`."""
        super().__init__(why)
        self.before, self.came = before, came


class Overlaid:
    """One tree, ready to be mounted: `overlay` says how, see overlay.py."""

    def __init__(self, lower: Lower, work: WorkDir, before: Usage, transfer: Transfer) -> None:
        """Use `load`."""
        about = lower.kept.about
        self.command = tuple(os.fsdecode(word) for word in about.command)
        self.relative_cwd = None if about.relative_cwd is None else os.fsdecode(about.relative_cwd)
        self.before, self.transfer = before, transfer
        self.overlay = _overlay(work, lower.cache, lower.kept.tree)
        self.layers = Layers(lower.kept.tree, Path(self.overlay[1]))
        self._lower = lower

    @classmethod
    async def load(
        cls,
        store: BlobStore,
        root: str,
        work: WorkDir,
        cache_dir: Path,
        policy: CachePolicy,
        clock: Clock,
        monitor: Monitor,
        mounts: Mounts,
        *,
        verify: bool = False,
        check: Check = go_on,
    ) -> Self:
        """Get the tree whose hash is `root` ready to be mounted in `work`; raises CannotOverlay, IsolateError.

        With `verify`, what the cache has is hashed first, and the tree is made anew.
        """
        started_s = clock.monotonic()
        opening = partial(LocalCache.open, cache_dir, store.namespace, policy, clock, monitor)
        cache = await in_thread(partial(opening, check=check))
        try:
            before = await in_thread(cache.usage)
            problem = await mounts(await in_thread(partial(_trial, work, cache)))
            if problem:
                raise CannotOverlay(problem)
            trees, digest = Trees(cache, monitor), store.namespace.algorithm.parse_hex(root.lower())
            came, why = None, ""
            lower = None if verify else await in_thread(partial(hold, cache, trees, digest, check))
            if lower is None:
                making = partial(_made, store, root, trees, cache, monitor)
                lower, came, why = await making(verify=verify, check=check)
            if lower is None:
                raise CannotOverlay(why, before, came)
        except BaseException:
            await in_thread(cache.close)
            raise
        hot = lower.shared.sizes if came is None else came.items_hot
        cold = () if came is None else came.items_cold
        return cls(lower, work, before, Transfer(clock.monotonic() - started_s, tuple(cold), tuple(hot)))

    def verify(self) -> None:
        """Raise InternalFailure when the tree was changed below the overlay; to be called when the command is over."""
        if not self._lower.is_good():
            raise InternalFailure("The tree below the overlay was changed while the command ran")

    def put_away(self) -> None:
        """Do nothing: the tree is where trees are kept, and what was written above it is nobody's."""

    def close(self, *, trim: bool = True) -> None:
        """Let the tree and the cache go, trimmed if that is due and we may."""
        cache = self._lower.cache
        try:
            self._lower.release()
            if trim:
                evicted = cache.trim() if cache.is_over() else Evicted()
                self._lower.trees.trim(evicted=bool(evicted))
        finally:
            cache.close()


async def _made(
    store: BlobStore, root: str, trees: Trees, cache: LocalCache, monitor: Monitor, *, verify: bool, check: Check
) -> tuple[Lower | None, Transfer | None, str]:
    """Return a good tree or why there is none, and what came for it if it was made here.

    Of several runs that want it one makes it, and the others wait.
    """
    digest, came = store.namespace.algorithm.parse_hex(root.lower()), None
    holding = partial(hold, cache, trees, digest, check)
    place = await in_thread(partial(trees.making, digest, check))
    try:
        lower = None if verify else await in_thread(holding)
        for _ in range(_TRIES):
            if lower is not None:
                break
            now, is_kept = await _make(store, root, trees, cache, monitor, verify=verify, check=check)
            came = now if came is None else now.after(came)
            if not is_kept:
                return None, came, _NOT_KEPT
            lower = await in_thread(holding)
    finally:
        trees.give_up(place)
    return lower, came, _TAKEN


async def _make(
    store: BlobStore, root: str, trees: Trees, cache: LocalCache, monitor: Monitor, *, verify: bool, check: Check
) -> tuple[Transfer, bool]:
    """Fetch and map a tree where trees are kept, on the file system of the cache; returns if it could be kept.

    What was made of one that is wanted no more goes when trees are trimmed.
    """
    staging = await in_thread(trees.staging)
    place, is_left = staging / "ir", False
    try:
        place.mkdir(mode=_PRIVATE)
        loading = partial(load, store, root, place, cache.root, cache.policy, cache.clock, monitor)
        made = await loading(verify=verify, check=check)
        try:
            is_kept = await in_thread(partial(made.give, trees))
        finally:
            await in_thread(made.close)
        return made.transfer, is_kept
    except (asyncio.CancelledError, Stopped):
        is_left = True
        raise
    finally:
        try:
            if not is_left:  # it is ours until nothing is left of it: nobody else deletes it, too
                await in_thread(partial(delete_tree, staging))
        finally:
            trees.give_up(staging)


def _trial(work: WorkDir, cache: LocalCache) -> list[str]:
    """Return an overlay to try out; raises CannotOverlay."""
    if work.path.is_relative_to(os.path.realpath(cache.root)):
        raise CannotOverlay("the work directory is in the cache, which the command must not see")
    if (other := alias(cache.root)) is not None:
        raise CannotOverlay(f"the cache, which the command must not see, is mounted elsewhere, too: {other}")
    return _overlay(work, cache, cache.root, "trial-")  # a work directory serves one mount only


def _overlay(work: WorkDir, cache: LocalCache, lower: Path, prefix: str = "") -> list[str]:
    """Make the directories for one mount, and return what to mount."""
    above = work.path / "overlay"
    upper, aside = above / f"{prefix}upper", above / f"{prefix}work"
    for path in (above, upper, aside):
        path.mkdir(mode=_PRIVATE, exist_ok=True)
    return [str(path) for path in (lower, upper, aside, work.run, os.path.realpath(cache.root), above)]
