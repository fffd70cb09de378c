"""Putting the caches and the work directories of a machine in order, between runs.

Knows no flags. Safe while runs are going on: what they use is pinned, moved away or locked.
"""

from __future__ import annotations

from isolate.cas.cache import LocalCache
from isolate.clock import Clock
from isolate.monitor import Monitor
from run_isolated.installed import named_caches_of
from run_isolated.process import end_leftovers
from run_isolated.spec import RunSpec
from run_isolated.workdir import sweep


def clean(spec: RunSpec, clock: Clock, monitor: Monitor) -> list[int]:
    """Delete what dead runs left, trim all caches to their limits, and return the sizes of what was evicted."""
    sweep(spec.root_dir, end_leftovers, monitor)
    with LocalCache.open(spec.content_cache_dir, spec.namespace, spec.cache_policy, clock, monitor) as content:
        evicted = content.trim()
    if spec.named_cache_dir.is_dir():
        named = named_caches_of(spec.named_cache_dir, spec.cache_policy, clock, monitor)
        evicted += named.trim()
        named.cleanup()
    return evicted
