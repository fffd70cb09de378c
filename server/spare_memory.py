"""Gives memory that is free back to the system when the server has nothing to do.

The allocator of glibc keeps what was freed between things that are still in use: after ten uploads at the same time
that is most of 200 MB, and stays so for as long as the server lives. Asking for it costs a walk through the heap and,
at the next upload, a page fault for each page; so it is asked for only when little was moved since the last look and
when there may be something to get: more than ever before, or, now and then, what was in use at the last time. Knows no
request and no store: it is told how many bytes were moved. Other allocators give back by themselves, or cannot be
asked; then this does nothing.
"""

from __future__ import annotations

import asyncio
import ctypes
import os
from collections.abc import Callable
from pathlib import Path

LOOK_S = 5.0  # so what a burst left is back within twice this
QUIET_BYTES = 4 << 20  # moved between two looks: below, nobody is slowed down
WORTHWHILE_BYTES = 8 << 20
MAX_PAUSE_LOOKS = 11  # so what was in use at a quiet moment is back within a minute of its end

_STATM = Path("/proc/self/statm")


class SpareMemory:
    """`moved_bytes` says how much went through this process since it began, `own_bytes` how much memory it has."""

    def __init__(
        self, moved_bytes: Callable[[], int], own_bytes: Callable[[], int], give_back: Callable[[], object] | None
    ) -> None:
        self._moved_bytes, self._own_bytes, self._give_back = moved_bytes, own_bytes, give_back
        self._seen_bytes = 0  # moved until the last look
        self._least_bytes = 0  # that were left after any time, or less since
        self._left_bytes = 0  # after the last time, or less since
        self._pause_looks = 0  # after a time that brought nothing
        self._looks = 0  # in this pause

    async def look(self) -> None:
        """Give back what is free if this is a quiet moment; to be called every LOOK_S."""
        moved_bytes = self._moved_bytes()
        is_quiet, self._seen_bytes = moved_bytes - self._seen_bytes < QUIET_BYTES, moved_bytes
        if self._give_back is None or not is_quiet:
            return
        own_bytes = self._own_bytes()
        self._looks += 1
        is_new = own_bytes >= self._left_bytes + WORTHWHILE_BYTES
        if is_new or (own_bytes >= self._least_bytes + WORTHWHILE_BYTES and self._looks > self._pause_looks):
            await asyncio.to_thread(self._give_back)
            before_bytes, own_bytes = own_bytes, self._own_bytes()
            brought_something = is_new or before_bytes - own_bytes >= WORTHWHILE_BYTES
            self._pause_looks = 0 if brought_something else min(2 * self._pause_looks + 1, MAX_PAUSE_LOOKS)
            self._looks, self._left_bytes = 0, own_bytes
            self._least_bytes = self._least_bytes or own_bytes
        self._left_bytes = min(self._left_bytes, own_bytes)
        self._least_bytes = min(self._least_bytes, own_bytes)


def own_bytes() -> int:
    """Return how much memory this process has that is no part of a file; 0 where the system does not say."""
    try:
        _, resident, shared, *_ = map(int, _STATM.read_bytes().split())
    except (OSError, ValueError):
        return 0
    return (resident - shared) * os.sysconf("SC_PAGE_SIZE")


def trim() -> Callable[[], object] | None:
    """Return what makes the C library give back what is free, None where it has no such call."""
    try:
        call = ctypes.CDLL(None).malloc_trim
    except (OSError, AttributeError):
        return None
    return lambda: call(0)
