"""A tree in its parts: read one after the other, as often as it takes, and given back in order of path.

Our large trees are cut into sorted runs that follow each other; those of others may overlap in any way, and then the
first definition of a path wins. Both are one sweep from the first path to the last, in which a part is in memory only
while the sweep is within its range. Knows no store and no disk: it is told how a part is loaded.

The invariants are those of `isolated`, for the tree as a whole: what `runs` gives is sorted, names each path once, and
has nothing below a file or a link. Only that a blob has one size is seen for one run at a time; nobody keeps a file
whose size is not what was asked for. At most HELD_ENTRIES entries stay in memory, and MAX_OPEN while a run is made.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from operator import attrgetter
from typing import Self

from isolate.cas.digest import Algorithm
from isolate.entries import MAX_PARTS, Entry, Kind, check_tree
from isolate.errors import InvalidManifest
from isolate.isolated import Manifest

HELD_ENTRIES = 1 << 17  # of a tree that is read once and kept as one run: about 45 MB
STEP_ENTRIES = 1 << 13  # read before a run is given: a hundred tiny parts are one run
MAX_OPEN = 1 << 20  # entries of parts whose ranges overlap, about 350 MB: nothing that we write comes near

Load = Callable[[bytes], Manifest]

_path_of = attrgetter("path")


@dataclass(frozen=True, slots=True)
class _Part:
    """A part without its entries; `first` and `last` are their paths."""

    digest: bytes
    count: int
    first: str
    last: str
    rank: int = 0  # in the order in which definitions count


class Tree:
    """All entries of one tree, and what its manifest says beside them."""

    def __init__(
        self,
        header: Manifest,
        parts: Sequence[_Part],
        load: Load,
        whole: Sequence[Entry] | None,
        wanted: Callable[[str], object] | None = None,
    ) -> None:
        """Use `of` or `Parts.tree`; `whole` are the entries if they are few enough to be held."""
        self.algorithm: Algorithm = header.algorithm
        self.command, self.relative_cwd = header.command, header.relative_cwd
        self.whole = whole
        self._header, self._parts, self._load, self._wanted = header, parts, load, wanted

    @classmethod
    def of(cls, manifest: Manifest) -> Self:
        """Return the tree of a manifest without includes."""
        assert not manifest.includes, "the others come from `Parts`"
        return cls(replace(manifest, entries=()), (), lambda _: manifest, manifest.entries)

    def only(self, wanted: Callable[[str], object]) -> Self:
        """Return this tree with some of its paths."""
        whole = None if self.whole is None else [entry for entry in self.whole if wanted(entry.path)]
        return type(self)(self._header, self._parts, self._load, whole, wanted)

    def runs(self) -> Iterator[Sequence[Entry]]:
        """Yield the entries in order, none of the runs empty; raises InvalidManifest and what loading raises."""
        if self.whole is not None:
            if self.whole:
                yield self.whole
            return
        border = _Border()
        for run in self._sweep():
            border.check(run)
            chosen = run if self._wanted is None else [entry for entry in run if self._wanted(entry.path)]
            if chosen:
                yield chosen

    def entries(self) -> Iterator[Entry]:
        """Yield the entries in order."""
        for run in self.runs():
            yield from run

    def _sweep(self) -> Iterator[Sequence[Entry]]:
        opened: list[tuple[int, Sequence[Entry]]] = []  # rank, and entries not given yet
        news = 0
        for part, following in pairwise([*self._parts, None]):
            assert part is not None, "only the last one is"
            if sum(len(entries) for _, entries in opened) + part.count > MAX_OPEN:
                raise InvalidManifest(f"Parts of the tree with more than {MAX_OPEN} entries overlap at {part.first!r}")
            opened.append((part.rank, self._load(part.digest).entries))
            news += part.count
            if following is None or news >= STEP_ENTRIES:
                run, opened = _cut(opened, None if following is None else following.first)
                news = 0
                if run:
                    yield run


class Parts:
    """The manifests of one tree while they come in, level by level."""

    def __init__(self, algorithm: Algorithm) -> None:
        self._algorithm = algorithm
        self._headers: dict[bytes, Manifest] = {}
        self._parts: dict[bytes, _Part] = {}
        self._held: dict[bytes, Manifest] | None = {}
        self.entries = 0  # in all that was added

    def add(self, digest: bytes, manifest: Manifest) -> None:
        """Take one; its entries stay only as long as there are few."""
        entries = manifest.entries
        self._headers[digest] = replace(manifest, entries=())
        if entries:
            self._parts[digest] = _Part(digest, len(entries), entries[0].path, entries[-1].path)
        self.entries += len(entries)
        if self.entries > HELD_ENTRIES:
            self._held = None
        if self._held is not None:
            self._held[digest] = manifest

    def below(self, level: Sequence[bytes]) -> list[bytes]:
        """Return what those of `level`, all added, include and is not here yet; raises InvalidManifest."""
        includes = dict.fromkeys(part for digest in level for part in self._headers[digest].includes)
        new = [digest for digest in includes if digest not in self._headers]
        if len(self._headers) + len(new) > MAX_PARTS:
            raise InvalidManifest(f"The tree has more than {MAX_PARTS} includes")
        return new

    def tree(self, root: bytes, load: Load) -> Tree:
        """Return the tree of `root`: all that is reachable was added, and `load` reads it once more.

        The root counts, then its includes left to right, depth first: the first definition of a path wins; so do the
        first command that is not empty and, independently, the first `relative_cwd`. Raises InvalidManifest when
        parts contradict each other, as far as they are held, and when one is reached twice: 2020 refuses even a
        diamond, and so no cycle can exist.
        """
        order = self._depth_first(root)
        headers = [self._headers[digest] for digest in order]
        header = Manifest(
            algorithm=self._algorithm,
            command=next((one.command for one in headers if one.command), ()),
            relative_cwd=next((one.relative_cwd for one in headers if one.relative_cwd is not None), None),
            read_only=headers[0].read_only,
        )
        whole: Sequence[Entry] | None = None
        if self._held is not None:
            runs = [self._held[digest].entries for digest in order if digest in self._parts]
            whole = runs[0] if len(runs) == 1 else _united(runs)
            if len(runs) > 1:
                check_tree(whole)
        found = [replace(self._parts[digest], rank=rank) for rank, digest in enumerate(order) if digest in self._parts]
        return Tree(header, sorted(found, key=attrgetter("first")), load, whole)

    def _depth_first(self, root: bytes) -> list[bytes]:
        order: dict[bytes, None] = {}
        pending = [root]
        while pending:
            digest = pending.pop()
            if digest in order:
                raise InvalidManifest(f"Include {digest.hex()} is retrieved recursively")
            order[digest] = None
            pending.extend(reversed(self._headers[digest].includes))
        return list(order)


def _united(runs: Sequence[Sequence[Entry]]) -> list[Entry]:
    """Return the entries of sorted `runs`, sorted; of two with one path that of the earlier run."""
    if all(one[-1].path < other[0].path for one, other in pairwise(runs)):
        return [entry for run in runs for entry in run]  # ranges of one large tree, as we and others write it
    entries: dict[str, Entry] = {}
    for run in runs:
        for entry in run:
            entries.setdefault(entry.path, entry)
    return sorted(entries.values())


def _cut(
    opened: list[tuple[int, Sequence[Entry]]], end: str | None
) -> tuple[Sequence[Entry], list[tuple[int, Sequence[Entry]]]]:
    """Return the entries before the path `end`, as one checked run, and what is left of `opened`."""
    if len(opened) == 1 and (end is None or opened[0][1][-1].path < end):
        return opened[0][1], []
    ready, rest = [], []
    for rank, entries in sorted(opened, key=lambda one: one[0]):
        at = len(entries) if end is None else bisect_left(entries, end, key=_path_of)
        if at:
            ready.append(entries[:at])
        if at < len(entries):
            rest.append((rank, entries[at:]))
    run = _united(ready)
    check_tree(run)
    return run, rest


class _Border:
    """Sees that nothing lies below a file or link of an earlier run.

    Of a sorted tree only few can still have something below them: the last path, and what it begins with.
    """

    def __init__(self) -> None:
        self._leaves: dict[str, Kind] = {}

    def check(self, run: Sequence[Entry]) -> None:
        """Take the next run; raises InvalidManifest."""
        for leaf, kind in self._leaves.items():
            below = entry_at_or_after(run, f"{leaf}/")
            if below is not None and below.path.startswith(f"{leaf}/"):
                raise InvalidManifest(f"{below.path!r} lies below {leaf!r}, which is a {kind.value}")
        last = run[-1].path
        self._leaves = {leaf: kind for leaf, kind in self._leaves.items() if may_follow_below(leaf, last)}
        for end in range(1, len(last) + 1):
            if may_follow_below(last[:end], last):
                entry = entry_at_or_after(run, last[:end])
                if entry is not None and entry.path == last[:end] and entry.kind is not Kind.DIR:
                    self._leaves[entry.path] = entry.kind


def may_follow_below(path: str, last: str) -> bool:
    """Whether something below `path` can come after the path `last` in a sorted tree; `path` is not after `last`."""
    return last < f"{path}0"  # "0" is what follows "/"


def entry_at_or_after(run: Sequence[Entry], path: str) -> Entry | None:
    """Return the first entry of a sorted run that is not before `path`."""
    at = bisect_left(run, path, key=_path_of)
    return run[at] if at < len(run) else None
