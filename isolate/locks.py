"""Waiting for what another process has locked, so that who waits can be told to stop.

Knows neither what is locked nor who wants it. The kernel's own wait goes on after a signal, and hears of no event: here
the lock is tried again and again. The invariant: between two tries `check` is asked, at least every `LONGEST_S`.
"""

from __future__ import annotations

import select
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")

LONGEST_S = 0.064  # from one try to the next
_FIRST_S = 0.001  # most locks are held for less


def when_free(lock: Callable[[], T], check: Callable[[], None]) -> T:
    """Return what `lock` returns once it raises no BlockingIOError any more; raises what `check` raises to stop."""
    pause_s = _FIRST_S
    while True:
        try:
            return lock()
        except BlockingIOError:
            check()
        select.select((), (), (), pause_s)
        pause_s = min(2 * pause_s, LONGEST_S)
