"""What a library tells whoever watches it: counters, progress, problems.

Knows no terminal and no log file; library code never prints, it calls a `Monitor`. The last word of a counter's name is
its unit (`uploaded_bytes`, `hashed_files`), so that no reader has to guess.
"""

from __future__ import annotations

from collections import Counter
from typing import Protocol


class Monitor(Protocol):
    """Receives what happens; safe to call from any thread."""

    def count(self, counter: str, amount: int = 1) -> None:
        """Add `amount` to a counter whose name ends in its unit."""
        ...

    def expect(self, counter: str, more: int) -> None:
        """Announce by how much more `counter` will grow, for a progress bar; less than 0 takes back what was said."""
        ...

    def problem(self, message: object) -> None:
        """Report something that was survived: counted and shown, never raised."""
        ...


class NullMonitor:
    """Watches nothing."""

    def count(self, counter: str, amount: int = 1) -> None:
        pass

    def expect(self, counter: str, more: int) -> None:
        pass

    def problem(self, message: object) -> None:
        pass


class TallyMonitor:
    """Keeps every number and problem, for summaries and tests."""

    def __init__(self) -> None:
        self.counters: Counter[str] = Counter()
        self.expected: Counter[str] = Counter()
        self.problems: list[str] = []

    def count(self, counter: str, amount: int = 1) -> None:
        self.counters[counter] += amount

    def expect(self, counter: str, more: int) -> None:
        self.expected[counter] += more

    def problem(self, message: object) -> None:
        self.problems.append(str(message))
