"""Entries that are looked at before they are taken, without looking into what came as a `Run` unless somebody must.

Knows no parts and no digests. The invariants: entries are given in the order in which they came, each once; no more is
held than was asked for and the batch behind.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Sequence

from isolate.scan import Found
from isolate.scanned import Run

BATCH_ENTRIES = 4_096  # of those that come one by one


class Lookahead:
    """What is left of `entries`, in batches that are given whole."""

    def __init__(self, entries: Iterable[Found | Run]) -> None:
        self._source = _batches(entries)
        self._held: deque[Sequence[Found]] = deque()  # none is empty
        self._count = 0

    def hold(self, entries: int) -> bool:
        """Have so many entries at hand; say whether there are as many."""
        while self._count < entries and (batch := next(self._source, None)) is not None:
            self._held.append(batch)
            self._count += len(batch)
        return self._count >= entries

    @property
    def first(self) -> str:
        """The path of the first entry at hand, of which there must be one."""
        return first_of(self._held[0])

    def look(self, entries: int) -> tuple[Sequence[Found], str | None]:
        """Return so many entries at hand, or all, and the path behind them; the next `take` takes them."""
        first = self._held[0]
        if len(first) != entries:
            joined: list[Found] = []
            while self._held and len(joined) < entries:
                joined += self._held.popleft()
            first = joined[:entries]
            if len(joined) > entries:
                self._held.appendleft(joined[entries:])
            self._held.appendleft(first)
        return first, first_of(self._held[1]) if len(self._held) > 1 else None

    def take(self) -> Sequence[Found]:
        """Return the first entries, at least one, as they came or were looked at."""
        batch = self._held.popleft()
        self._count -= len(batch)
        return batch

    def give_back(self, batch: Sequence[Found]) -> None:
        """Have entries at hand again that were taken last, at least one."""
        self._held.appendleft(batch)
        self._count += len(batch)


def first_of(batch: Sequence[Found]) -> str:
    """Return the path of the first of `batch`."""
    return batch.first if isinstance(batch, Run) else batch[0].path


def _batches(entries: Iterable[Found | Run]) -> Iterator[Sequence[Found]]:
    batch: list[Found] = []
    for one in entries:
        if isinstance(one, Run):
            if batch:
                yield batch
                batch = []
            yield one
            continue
        batch.append(one)
        if len(batch) == BATCH_ENTRIES:
            yield batch
            batch = []
    if batch:
        yield batch
