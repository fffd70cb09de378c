"""Digests that one pass over a tree has met, so that a content that occurs often is asked for and sent once.

Knows no trees and no store. The invariant: what was met among the last SEEN_BLOBS new digests is known, and never more
than twice as many are held. A content that comes back later than that is asked for again, which costs a question: all
that is in flight at a time is fewer.
"""

from __future__ import annotations

from collections.abc import Iterable

SEEN_BLOBS = 1 << 16


class Seen:
    """The digests met lately; `always` are met from the start and never forgotten."""

    def __init__(self, always: Iterable[bytes] = (), limit: int = SEEN_BLOBS) -> None:
        self._always = frozenset(always)
        self._limit = limit
        self._young: set[bytes] = set()
        self._old: set[bytes] = set()

    @property
    def held(self) -> int:
        """How many digests are in memory."""
        return len(self._young) + len(self._old)

    def first(self, digests: Iterable[bytes]) -> list[bytes]:
        """Return those of `digests`, all different, that are met for the first time, and know them from now on."""
        always, young, old = self._always, self._young, self._old
        new = [digest for digest in digests if digest not in young and digest not in old and digest not in always]
        young.update(new)
        if len(young) >= self._limit:
            self._young, self._old = set(), young
        return new
