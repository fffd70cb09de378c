"""What a cache must give up, and in which order: sizes, ages and limits, no files.

Pure: the caller supplies the items oldest first, the time and the free space, and removes what it is told to. The
invariant: a pinned item is never chosen, and nothing is chosen once every limit holds.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import NamedTuple

FIRST_AHEAD_ITEMS = 64
AHEAD_ITEMS = FIRST_AHEAD_ITEMS * 8**3  # about 10 MB


@dataclass(frozen=True, slots=True, kw_only=True)
class CachePolicy:
    """The limits of a cache; 0 means that there is none."""

    max_bytes: int = 0
    max_items: int = 0
    min_free_bytes: int = 0  # of the file system the cache is on
    max_age_s: int = 0  # since the last use

    def shortage_bytes(self, free_bytes: int, needed_bytes: int = 0) -> int:
        """Return how much must be freed before `needed_bytes` more can be written; 0 or less when nothing."""
        return self.min_free_bytes + needed_bytes - free_bytes

    def is_exceeded_by(self, usage: Usage) -> bool:
        """Whether there are more items or bytes than may be."""
        too_many = self.max_items and usage.items > self.max_items
        return bool(too_many or (self.max_bytes and usage.size_bytes > self.max_bytes))

    def is_too_old(self, used_s: float | None, now_s: float) -> bool:
        """Whether what was last used at `used_s` is past the limit, not just at it."""
        return bool(used_s is not None and self.max_age_s and now_s - used_s > self.max_age_s)


class Usage(NamedTuple):
    """How full a cache is; both variants of a file count."""

    items: int
    size_bytes: int


@dataclass(frozen=True, slots=True)
class Evicted:
    """What a cache gave up: totals, since it may be millions of files; false when it is nothing."""

    items: int = 0
    size_bytes: int = 0

    def __bool__(self) -> bool:
        return self.items > 0

    def __add__(self, other: Evicted) -> Evicted:
        return Evicted(self.items + other.items, self.size_bytes + other.size_bytes)


class Item(NamedTuple):
    """One file of the cache."""

    key: bytes
    size: int
    used_s: int  # epoch seconds of the last use, coarse


class Ahead:
    """Items, and which of them are pinned, found out for many at a time, and only when that is asked.

    The invariant: no more than AHEAD_ITEMS are in memory, and of items that nobody asks for only a few are read.
    """

    def __init__(self, items: Iterable[Item], pinned_among: Callable[[Sequence[bytes]], set[bytes]]) -> None:
        """`pinned_among` returns the pinned ones of some keys; it may be slow."""
        self._items, self._pinned_among = iter(items), pinned_among
        self._keys: Sequence[bytes] = ()
        self._pinned: set[bytes] | None = None

    def __iter__(self) -> Iterator[Item]:
        count = FIRST_AHEAD_ITEMS
        while batch := list(islice(self._items, count)):
            self._keys, self._pinned = [item.key for item in batch], None
            yield from batch
            count = min(8 * count, AHEAD_ITEMS)

    def is_pinned(self, key: bytes) -> bool:
        """Whether the item that was given last is pinned."""
        if self._pinned is None:
            self._pinned = self._pinned_among(self._keys)
        return key in self._pinned


def victims(
    oldest_first: Iterable[Item],
    usage: Usage,
    policy: CachePolicy,
    *,
    now_s: float,
    shortage_bytes: int,
    is_pinned: Callable[[bytes], bool],
    not_after_s: float = math.inf,
) -> Iterator[Item]:
    """Yield what to evict, lazily: it reads no further than the first item that may stay.

    An item is too old only past `max_age_s`, not at it. When pins prevent a limit from holding, all others go. What was
    used after `not_after_s` stays, whatever the limits.
    """
    items, size_bytes = usage
    for item in oldest_first:
        is_enough = not (policy.is_too_old(item.used_s, now_s) or policy.is_exceeded_by(Usage(items, size_bytes)))
        if (is_enough and shortage_bytes <= 0) or item.used_s > not_after_s:
            return
        if is_pinned(item.key):
            continue
        items -= 1
        size_bytes -= item.size
        shortage_bytes -= item.size
        yield item
