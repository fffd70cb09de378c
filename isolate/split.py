"""Where a large manifest is cut into parts, so that a small change of the tree changes one of them.

Only manifests of version 2.0 are: 2020 wrote one whatever the size, and its hash is that of those bytes.

Pure. The invariants: parts are consecutive runs of the sorted entries; whether a path begins a part depends on that
path alone, apart from the limits on a part's size; what is written can be read again.
"""

from __future__ import annotations

from binascii import crc32
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from isolate.cas.digest import Namespace
from isolate.entries import Entry
from isolate.isolated import MAX_MANIFEST_BYTES, MAX_NODES, too_large

LIMIT = 20_000  # entries of one part: about 3.5 MB of JSON


@dataclass(frozen=True, slots=True)
class Rule:
    """Where parts begin; the hashes of all large trees depend on it."""

    limit: int = LIMIT  # a tree of no more entries is one manifest
    min_entries: int = 4_096
    mask: int = 0xFFF  # one path in 4096 begins a part: parts of 8,200 entries on average, 2 % reach the limit

    def begins_part(self, path: str, entries: int) -> bool:
        """Whether `path` is the first of another part when `entries` are in the one before it."""
        return entries >= self.min_entries and (
            entries >= self.limit or not crc32(path.encode("utf-8", "surrogateescape")) & self.mask
        )


RULE = Rule()


def splitter_for(namespace: Namespace) -> Splitter | Whole:
    """Return what cuts the manifests of `namespace`."""
    return Splitter(RULE) if namespace.is_ours else Whole()


class Whole:
    """Keeps the entries of one tree together; raises TooLarge, early, when nobody could read their manifest again."""

    def __init__(self) -> None:
        self._entries: list[Entry] = []
        self._least_bytes = 0

    def extend(self, entries: Sequence[Entry]) -> list[list[Entry]]:
        """Take the next entries; no part is ever complete before the end."""
        self._entries += entries
        self._least_bytes += sum(
            [len(path) + (0 if blob is None else 2 * len(blob[0])) for path, _, blob, *_ in entries]
        )
        if self._least_bytes > MAX_MANIFEST_BYTES or len(self._entries) >= MAX_NODES:
            raise too_large(len(self._entries))
        return []

    def cut(self) -> list[list[Entry]]:
        """Return nothing: no entry begins a part."""
        return []

    def finish(self) -> tuple[list[Entry], bool]:
        """Return all of them."""
        return self._entries, True


class Groups:
    """Entries whose paths begin alike, kept apart from the others: they get parts of their own."""

    def __init__(self, prefixes: Sequence[str]) -> None:
        self._groups = [(prefix, list[Entry]()) for prefix in prefixes]

    def take(self, entries: Sequence[Entry]) -> Sequence[Entry]:
        """Keep those of `entries` that are of a group; return the others."""
        if not self._groups:
            return entries
        others: list[Entry] = []
        for entry in entries:
            group = next((group for prefix, group in self._groups if entry.path.startswith(prefix)), others)
            group.append(entry)
        return others

    def parts(self, make_splitter: Callable[[], Splitter | Whole]) -> Iterator[list[Entry]]:
        """Yield the parts of each group, several if it is large, in the order of the groups."""
        for _, entries in self._groups:
            splitter = make_splitter()
            yield from splitter.extend(entries)
            rest, _ = splitter.finish()
            if rest:
                yield rest


class Splitter:
    """Takes the entries of one tree in order and gives them back in parts, holding at most `rule.limit` of them."""

    def __init__(self, rule: Rule) -> None:
        self._rule = rule
        self._whole: list[Entry] = []  # everything, while it may still be one part
        self._current: list[Entry] = []
        self._is_split = False

    def extend(self, entries: Sequence[Entry]) -> list[list[Entry]]:
        """Take the next entries; returns the parts that are complete now."""
        if self._is_split:
            return self._push(entries)
        self._whole += entries
        if len(self._whole) <= self._rule.limit:
            return []
        return self._push_held()

    def cut(self) -> list[list[Entry]]:
        """Return the parts of what was taken; the next entry begins a part, and the tree is larger than one part."""
        parts = self._push_held()
        if self._current:
            parts.append(self._current)
            self._current = []
        return parts

    def finish(self) -> tuple[list[Entry], bool]:
        """Return what is left, and whether that is the whole tree."""
        return (self._current, False) if self._is_split else (self._whole, True)

    def _push_held(self) -> list[list[Entry]]:
        self._is_split = True
        held, self._whole = self._whole, []
        return self._push(held)

    def _push(self, entries: Sequence[Entry]) -> list[list[Entry]]:
        parts = []
        current, begins_part = self._current, self._rule.begins_part
        for entry in entries:
            if begins_part(entry[0], len(current)):
                parts.append(current)
                current = []
            current.append(entry)
        self._current = current
        return parts
