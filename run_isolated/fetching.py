"""The inputs of a run of which something has to be fetched.

Knows no command. The invariant: what comes out is as if it had been in the cache all the time, see inputs.py.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path

from isolate.cas.cache import CachePolicy, LocalCache
from isolate.cas.store import BlobStore
from isolate.clock import Clock
from isolate.errors import InternalFailure, LostFromCache, NoSpace
from isolate.fetch import fetch
from isolate.found import Counted, Fetched, ignore
from isolate.monitor import Monitor
from run_isolated.inputs import Inputs, mapped, trees_of
from run_isolated.many_links import ManyLinks
from run_isolated.mapper import How
from run_isolated.mapping import Ready
from run_isolated.result import Transfer
from run_isolated.reuse import Trees
from run_isolated.stopping import Check, go_on
from run_isolated.waiting import in_thread

_TRIES = 8  # each time only what somebody overwrote since is fetched


async def load(
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
    keep: bool = True,
    check: Check = go_on,
) -> Inputs:
    """Map the tree whose hash is `root` at `destination`, which is empty, fetched if need be; raises IsolateError.

    With `verify`, what the cache has is hashed first, and no kept tree is used. Else as `Inputs.found`.
    `check` may raise to stop what goes on in threads; what waits for a store is to be cancelled.
    """
    inputs = None
    if not verify:
        finding = partial(Inputs.found, store.namespace, root, destination, cache_dir, policy, clock, monitor, how)
        inputs = await in_thread(partial(finding, keep=keep, check=check))
    if inputs is None:
        into = partial(fetched, store, root, destination, cache_dir, policy, clock, monitor, how)
        inputs = await into(verify=verify, keep=keep, check=check)
    return inputs


async def fetched(
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
    keep: bool = True,
    check: Check = go_on,
) -> Inputs:
    """Do as `load` does for a tree that was looked for in the cache before."""
    started_s = clock.monotonic()
    opening = partial(LocalCache.open, cache_dir, store.namespace, policy, clock, monitor)
    cache = await in_thread(partial(opening, check=check))
    try:
        trees = trees_of(cache, how, monitor, keep=keep)
        before = await in_thread(cache.usage)
        others = ManyLinks(check)
        try:
            mapping = partial(_mapped, store, cache, root, trees, destination, how, monitor, others)
            ready, came = await mapping(verify=verify, check=check)
        finally:
            await in_thread(others.end)
    except BaseException:
        await in_thread(cache.close)
        raise
    inputs = Inputs(cache, trees, before, ready, destination, clock.monotonic() - started_s)
    inputs.transfer = replace(came, duration_s=inputs.transfer.duration_s)
    return inputs


async def _mapped(
    store: BlobStore,
    cache: LocalCache,
    root: str,
    trees: Trees | None,
    destination: Path,
    how: How,
    monitor: Monitor,
    others: ManyLinks,
    *,
    verify: bool,
    check: Check,
) -> tuple[Ready, Transfer]:
    """Return the tree `root`, mapped, and what came for it; what others overwrite meanwhile is fetched again."""
    came, counted = None, others.expect if how.is_shared else ignore
    for number in range(_TRIES):
        with suppress(LostFromCache):
            tree = await _tree(store, cache, root, trees, monitor, counted, verify=verify)
            now = Transfer(0.0, tree.cold, tree.hot)
            came = now if came is None else now.after(came)
            near = None if number else trees
            ready = await in_thread(partial(mapped, cache, near, tree, destination, how, monitor, check, others))
            if ready is not None:
                return ready, came
    raise InternalFailure(f"The inputs were fetched {_TRIES} times; others overwrite them in the cache {cache.root}")


async def _tree(
    store: BlobStore,
    cache: LocalCache,
    root: str,
    trees: Trees | None,
    monitor: Monitor,
    counted: Counted,
    *,
    verify: bool,
) -> Fetched:
    """Return the tree `root`, in the cache; what earlier runs left goes when there is no space for it."""
    fetching = partial(fetch, store, cache, root, monitor, verify=verify, counted=counted)
    try:
        tree = await fetching()
    except NoSpace:
        if trees is None or not await in_thread(trees.clear):
            raise
        tree = await fetching()
    return tree
