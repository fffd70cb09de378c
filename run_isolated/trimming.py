"""Room on one disk for several caches: whichever has the oldest thing gives it up first.

Pure but for what the caches do. The invariant: nothing is given up while there is enough, and nothing younger goes
before something older that may go.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Protocol

from isolate.cas.lru import Evicted


class Trimmable(Protocol):
    """A cache that can give up its oldest things."""

    def oldest_s(self) -> float | None: ...

    def evict_oldest(self, not_after_s: float, shortage_bytes: int) -> Evicted: ...

    def trim(self) -> Evicted: ...


def trim_caches(caches: Sequence[Trimmable], shortage_bytes: Callable[[], int]) -> Evicted:
    """Evict from `caches`, oldest first across all of them, until `shortage_bytes()` is no more, then trim each."""
    evicted = Evicted()
    giving = list(caches)  # those that still have something to give
    while giving and (short_bytes := shortage_bytes()) > 0:
        ages = sorted(((math.inf if age is None else age), at) for at, age in enumerate(c.oldest_s() for c in giving))
        next_oldest_s = ages[1][0] if len(ages) > 1 else math.inf
        oldest = giving[ages[0][1]]
        given = oldest.evict_oldest(next_oldest_s, short_bytes)
        if not given:  # empty, or all in use
            giving.remove(oldest)
        evicted += given
    for cache in caches:
        evicted += cache.trim()
    return evicted
