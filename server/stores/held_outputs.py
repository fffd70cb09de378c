"""Which outputs did not fit into the blob store, and when each is tried again.

Knows no file and no store. The invariants: pauses grow, so that what never fits costs next to nothing; a shortage is
told of once, however many outputs and rounds meet it.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass

from isolate.clock import Clock
from isolate.errors import NoSpace
from isolate.monitor import Monitor

FIRST_PAUSE_S, LONGEST_PAUSE_S = 60.0, 3600.0


@dataclass(frozen=True, slots=True)
class _Rest:
    until_s: float
    pause_s: float


class HeldOutputs:
    """The runs whose output waits for room; at most as many as there are files."""

    def __init__(self, clock: Clock, monitor: Monitor) -> None:
        self._clock, self._monitor = clock, monitor
        self._rests: dict[str, _Rest] = {}
        self._held_now: set[str] = set()  # in this round

    def resting(self) -> Collection[str]:
        """Return the runs that are not to be tried in the round that begins."""
        now_s = self._clock.monotonic()
        self._held_now.clear()
        return {run_id for run_id, rest in self._rests.items() if now_s < rest.until_s}

    def hold(self, run_ids: Collection[str], error: NoSpace) -> None:
        """Note that these did not fit."""
        if not self._rests:
            self._monitor.problem(f"Output of a task does not fit and stays a file until there is room: {error}")
        now_s = self._clock.monotonic()
        for run_id in run_ids:
            before = self._rests.get(run_id)
            pause_s = min(2 * before.pause_s, LONGEST_PAUSE_S) if before else FIRST_PAUSE_S
            self._rests[run_id] = _Rest(now_s + pause_s, pause_s)
        self._held_now.update(run_ids)

    def forget(self, tried: Iterable[str]) -> None:
        """End a round: drop the runs that fitted at last, and those whose files are gone."""
        now_s = self._clock.monotonic()
        kept = self._held_now
        done = {run_id for run_id in tried if run_id not in kept}
        done |= {run_id for run_id, rest in self._rests.items() if rest.until_s <= now_s and run_id not in kept}
        for run_id in done:
            self._rests.pop(run_id, None)
