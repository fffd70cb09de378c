"""Putting the caches and the work directories of a machine in order, between runs.

Knows no flags. Safe while runs are going on: what they use is pinned, moved away or locked. Imports little, because
each run settles what dead ones left.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from isolate.clock import Clock
from isolate.monitor import Monitor
from run_isolated.command_group import end_leftovers
from run_isolated.spec import RunSpec
from run_isolated.stopping import Check, go_on
from run_isolated.workdir import is_kept, sweep

if TYPE_CHECKING:
    from isolate.cas.lru import Evicted


def settled(work_dir: Path, parent: str | None, clock: Clock, monitor: Monitor) -> int:
    """End what runs on in the work directory of a dead run and return its named caches; it may be deleted then.

    `parent` is where its control group would be, as in `end_leftovers`. Returns how many processes there were.
    """
    from run_isolated.installed import take_back

    ended = end_leftovers(work_dir, parent, by_place=not is_kept(work_dir))
    take_back(work_dir, clock, monitor)
    return ended


def swept(spec: RunSpec, clock: Clock, monitor: Monitor, check: Check = go_on) -> None:
    """Settle what dead runs left where this one has its work directory, and delete what was not to be kept.

    That may take minutes: `check` may raise to leave the rest to the next run.
    """
    sweep(spec.root_dir, partial(settled, parent=spec.group_parent, clock=clock, monitor=monitor), check, monitor)


def clean(spec: RunSpec, clock: Clock, monitor: Monitor) -> Evicted:
    """Delete what dead and other runs left, trim all caches to their limits, and return what was evicted."""
    from isolate.cas.cache import LocalCache
    from run_isolated.installed import named_caches_of
    from run_isolated.reuse import Trees

    swept(spec, clock, monitor)
    with LocalCache.open(spec.content_cache_dir, spec.namespace, spec.cache_policy, clock, monitor) as content:
        Trees(content, monitor).clear()
        evicted = content.trim()
    if spec.named_cache_dir.is_dir():
        named = named_caches_of(spec.named_cache_dir, spec.cache_policy, clock, monitor)
        evicted += named.trim()
        named.cleanup()
    return evicted
