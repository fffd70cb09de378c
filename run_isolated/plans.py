"""How a tree is made, decided before anything is: run by run, so that a tree of any size can be.

Pure. The invariant: a directory is in the plan of the first run that needs it, and of no other.
"""

from __future__ import annotations

from array import array
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass

from isolate.entries import Entry, Kind
from isolate.parts import Tree, may_follow_below
from isolate.paths import RelPath
from run_isolated.linked import Variant


@dataclass(frozen=True, slots=True)
class Plan:
    """What to make of one run of a tree, in this order; the links when all runs are made."""

    directories: tuple[str, ...]  # parents first, without those of earlier runs
    files_before: Sequence[int]  # of each directory: how many `files` need it not, and come before those that do
    empty_files: tuple[Entry, ...]
    files: tuple[Entry, ...]
    tars: tuple[Entry, ...]
    links: tuple[Entry, ...]
    last: str  # path; "" of no entry at all

    @property
    def names(self) -> int:
        """How many names the run has, not counting what is in tars."""
        return len(self.directories) + len(self.empty_files) + len(self.files) + len(self.links)

    def variants(self) -> list[Variant]:
        """Return the files of the cache that it is linked from, each once."""
        return list(dict.fromkeys([(entry.blob, entry.is_executable) for entry in self.files if entry.blob]))


class Plans:
    """How a tree is made, run by run; may be gone through again."""

    def __init__(self, tree: Tree) -> None:
        self._tree = tree
        self._held: Plan | None = None  # of a tree that is in memory anyway

    def __iter__(self) -> Iterator[Plan]:
        if self._tree.whole is not None:
            self._held = self._held or plan(self._tree.whole)
            yield self._held
            return
        known: list[str] = []
        for run in self._tree.runs():
            planned = plan(run, known)
            yield planned
            known = [path for path in (*known, *planned.directories) if may_follow_below(path, planned.last)]


def plan(entries: Sequence[Entry], known: Collection[str] = ()) -> Plan:
    """Return how a run of a tree is made; the directories `known` are there already."""
    directories: dict[str, None] = dict.fromkeys(known)
    files_before = array("L")
    empty_files: list[Entry] = []
    files: list[Entry] = []
    tars: list[Entry] = []
    links: list[Entry] = []
    file, folder, link = Kind.FILE, Kind.DIR, Kind.LINK  # looking up a member takes longer than all else here
    for entry in entries:
        path, kind, blob, _, _ = entry
        parent = path if kind is folder else path.rpartition("/")[0]
        if parent and parent not in directories:
            directories |= dict.fromkeys(RelPath(parent).parents)
            directories[parent] = None
            files_before.extend([len(files)] * (len(directories) - len(known) - len(files_before)))
        if blob is not None:
            if kind is file:
                (files if blob.size else empty_files).append(entry)
            elif blob.size:
                tars.append(entry)
        elif kind is link:
            links.append(entry)
    last = entries[-1].path if entries else ""
    new = tuple(directories)[len(known) :]
    return Plan(new, files_before, tuple(empty_files), tuple(files), tuple(tars), tuple(links), last)
