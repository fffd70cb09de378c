"""What a row is to reach, and whether it did.

A goal compares one figure of one contestant with the fastest of others, or with a number. The invariant: a goal without
anybody to compare with is neither met nor missed.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from bench.measure import Result

OURS = "isolate"


@dataclass(frozen=True, slots=True)
class Verdict:
    """How a goal ended."""

    text: str
    measured: str
    is_met: bool | None  # None: there was nothing to compare with

    @property
    def word(self) -> str:
        return {True: "met", False: "MISSED", None: "no peer"}[self.is_met]


@dataclass(frozen=True, slots=True, kw_only=True)
class Goal:
    """`figure` of `of` has to be at most `limit`, times the least of `against` or of all peers if it is a ratio."""

    text: str
    limit: float
    of: str = OURS
    figure: str = "wall_s"
    against: tuple[str, ...] | None = ()  # nobody named: all peers; None: `limit` is the figure itself
    at_least: bool = False
    unit: str = "s"

    def judge(self, results: Sequence[Result]) -> Verdict:
        """Say whether `results` reach it."""
        by_name = {result.name: result for result in results}
        is_fine: Callable[[float, float], bool] = operator.ge if self.at_least else operator.le
        if self.of not in by_name:
            return Verdict(self.text, "not measured", None)
        ours = by_name[self.of].median(self.figure)
        if self.against is None:
            return Verdict(self.text, f"{ours:.3g} {self.unit}", is_fine(ours, self.limit))
        if self.against:
            others = [by_name[name] for name in self.against if name in by_name]
        else:
            others = [result for result in results if result.is_peer]
        if not others:
            return Verdict(self.text, "nobody to compare with", None)
        best = min(others, key=lambda result: result.median(self.figure))
        ratio = ours / best.median(self.figure)
        return Verdict(self.text, f"{ratio:.2f} x {best.name}", is_fine(ratio, self.limit))
