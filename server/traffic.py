"""What the isolate API of 2020 did, counted by the minute, the hour and the day.

Knows no route and no store. The invariants: at most MAX_KEPT intervals of each length are held, whatever happens; what
was counted up to the last `save` outlives the process, and a damaged file is as good as none.
"""

from __future__ import annotations

import asyncio
import json
import logging
from enum import Enum
from pathlib import Path
from typing import Any, Self

from isolate.cas.files import write_atomic
from isolate.clock import Clock

log = logging.getLogger("server")

FILE = "isolate_stats.json"
MAX_KEPT = 1_000  # of each length: the longest page somebody can ask for
FIELDS = (
    "uploads",
    "uploads_bytes",
    "downloads",
    "downloads_bytes",
    "contains_requests",
    "contains_lookups",
    "requests",
    "failures",
)


class Resolution(Enum):
    """The length of an interval in seconds; they begin at multiples of it, UTC."""

    MINUTE = 60
    HOUR = 3_600
    DAY = 86_400


class Traffic:
    """Counters; used from the event loop only."""

    def __init__(self, clock: Clock, path: Path | None = None) -> None:
        self._clock, self._path = clock, path
        self._kept: dict[Resolution, dict[int, list[int]]] = {resolution: {} for resolution in Resolution}
        self._is_saved = True

    @classmethod
    def open(cls, directory: Path, clock: Clock) -> Self:
        """Go on from what was saved in `directory`."""
        traffic = cls(clock, directory / FILE)
        try:
            record = json.loads((directory / FILE).read_bytes())
            kept = {resolution: _intervals(record[resolution.name]) for resolution in Resolution}
        except (OSError, ValueError, KeyError, TypeError, AttributeError):  # it only counts: no reason not to start
            return traffic
        traffic._kept = kept
        return traffic

    def count(self, **amounts: int) -> None:
        """Add to the counters of now; names are those of FIELDS."""
        now_s = int(self._clock.now())
        self._is_saved = False
        for resolution, intervals in self._kept.items():
            start_s = now_s - now_s % resolution.value
            counters = intervals.setdefault(start_s, [0] * len(FIELDS))
            for name, amount in amounts.items():
                counters[FIELDS.index(name)] += amount
            if len(intervals) > MAX_KEPT:
                del intervals[min(intervals)]

    def measurements(self, resolution: Resolution, latest_s: float | None, limit: int) -> list[tuple[int, list[int]]]:
        """Return the newest intervals in which anything happened, up to the one of `latest_s`: starts and counters."""
        intervals = self._kept[resolution]
        starts = sorted((start_s for start_s in intervals if latest_s is None or start_s <= latest_s), reverse=True)
        return [(start_s, list(intervals[start_s])) for start_s in starts[:limit]]

    async def save(self) -> None:
        """Write down what was counted since the last time, if the disk takes it."""
        if self._is_saved or self._path is None:
            return
        self._is_saved = True
        record = {resolution.name: intervals for resolution, intervals in self._kept.items()}
        try:
            await asyncio.to_thread(write_atomic, self._path, json.dumps(record).encode())
        except OSError as error:
            self._is_saved = False
            log.warning("Statistics cannot be written: %s", error)


def _intervals(record: dict[str, Any]) -> dict[int, list[int]]:
    """Return saved intervals; raises ValueError, TypeError, AttributeError for what was not saved by us."""
    kept = {int(start): [int(one) for one in counters] for start, counters in record.items()}
    if len(kept) > MAX_KEPT or any(len(counters) != len(FIELDS) for counters in kept.values()):
        raise ValueError(len(kept))
    return kept
