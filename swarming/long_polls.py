"""When long polls end: each about when it was asked to, and never too many in one moment.

Knows no bot and no clock. Thousands of polls that end together are answered, and asked again, before anything else is
done: with 5,000 bots a task waited three seconds for that. So the polls of bots that came in one moment, after a
restart of the server say, drift apart, and few end at a time.
"""

from __future__ import annotations

import heapq
import itertools
import random
from collections.abc import Callable

SPREAD = 0.2  # a poll may end so much of its time earlier than asked for
LEAST, PARTS = 50, 200  # that end at a time: so many, or this part of all that wait


class LongPolls:
    """Those that wait, by the time they end."""

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng
        self._until: list[tuple[float, int, Callable[[], None]]] = []  # a heap
        self._order = itertools.count()

    def add(self, end: Callable[[], None], now_s: float, until_s: float) -> None:
        """Call `end` at `until_s` (monotonic) or somewhat earlier."""
        until_s -= (until_s - now_s) * SPREAD * self._rng.random()
        heapq.heappush(self._until, (until_s, next(self._order), end))

    def release(self, now_s: float) -> None:
        """End those whose time has come, but not too many; to be called many times a second."""
        for _ in range(max(LEAST, len(self._until) // PARTS)):
            if not self._until or self._until[0][0] > now_s:
                return
            heapq.heappop(self._until)[2]()

    def release_all(self) -> None:
        """End them all."""
        while self._until:
            self._until.pop()[2]()
