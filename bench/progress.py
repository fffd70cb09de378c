"""How far a run of the benchmark is, and about how long the rest takes.

What was expected of the rows that are done, beside what they took, says how fast this machine is. Knows no row.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

TRUSTED_S = 30.0  # of what was expected: so much has to be done before the speed of this machine counts for half


class Progress:
    """`expected_s` is what the rows were expected to take, in the order in which they come."""

    def __init__(self, expected_s: Sequence[float], now: Callable[[], float]) -> None:
        self._left_s = list(expected_s)
        self._done_s = 0.0
        self._now, self._began_s = now, now()

    def row_done(self) -> None:
        """Go on to the next row."""
        self._done_s += self._left_s.pop(0)

    def rest_s(self, share: float) -> float:
        """Return how long the rest takes when `share` of the first row that is left is done."""
        inside_s = share * self._left_s[0] if self._left_s else 0.0
        done_s = self._done_s + inside_s
        slowness = (self._now() - self._began_s + TRUSTED_S) / (done_s + TRUSTED_S)
        return (sum(self._left_s) - inside_s) * slowness

    def said(self, share: float) -> str:
        """Return both in words."""
        elapsed_s = self._now() - self._began_s
        return f"{elapsed_s // 60:.0f}:{elapsed_s % 60:02.0f}, about {self.rest_s(share) / 60:.0f} min left"
