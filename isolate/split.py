"""Where a large manifest is cut into parts, so that a small change of the tree changes one of them.

Pure. The invariants: parts are consecutive runs of the sorted entries; whether a path begins a part depends on that
path alone, apart from the limits on a part's size; at most `limit` entries are one part, as 2020 would have it.
"""

from __future__ import annotations

import os

from isolate.cas.digest import BLAKE3
from isolate.isolated import Entry

LIMIT = 20_000  # entries of one part: about 3.5 MB of JSON
MIN_ENTRIES = 4_096
BOUNDARY_MASK = 0xFFF  # one path in 4096 begins a part: parts of 8,200 entries on average, 2 % reach the limit


class Splitter:
    """Takes the entries of one tree in order and gives them back in parts, holding at most two parts' worth."""

    def __init__(self, limit: int = LIMIT, min_entries: int = MIN_ENTRIES, mask: int = BOUNDARY_MASK) -> None:
        self._limit, self._min_entries, self._mask = limit, min_entries, mask
        self._whole: list[Entry] = []  # everything, while it may still be one part
        self._current: list[Entry] = []
        self._is_split = False

    def add(self, entry: Entry) -> list[list[Entry]]:
        """Take one entry; returns the parts that are complete now."""
        if self._is_split:
            return self._push(entry)
        self._whole.append(entry)
        if len(self._whole) <= self._limit:
            return []
        self._is_split = True
        entries, self._whole = self._whole, []
        return [part for held in entries for part in self._push(held)]

    def finish(self) -> tuple[list[Entry], bool]:
        """Return what is left, and whether that is the whole tree."""
        return (self._current, False) if self._is_split else (self._whole, True)

    def _push(self, entry: Entry) -> list[list[Entry]]:
        full = len(self._current) >= self._limit
        if full or (len(self._current) >= self._min_entries and self._begins_part(entry.path)):
            part, self._current = self._current, [entry]
            return [part]
        self._current.append(entry)
        return []

    def _begins_part(self, path: str) -> bool:
        return not int.from_bytes(BLAKE3.digest(os.fsencode(path))[:4], "little") & self._mask
