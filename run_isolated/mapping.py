"""How a tree gets to where a command finds it: from a kept one that is near, or all of it anew.

Knows no command and no server; what concerns kept trees is in remapping.py. The invariant: whatever the way, what is in
the destination afterwards is what the manifest says, and every file of the cache that it shares is pinned and in
`proof`.
"""

from __future__ import annotations

import os
from array import array
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from isolate.cas.cache import LocalCache, Pin
from isolate.found import Fetched
from isolate.monitor import Monitor
from run_isolated.facts import Facts
from run_isolated.linked import Variant
from run_isolated.many_links import ManyLinks
from run_isolated.mapper import How, Mapped, apply
from run_isolated.plans import Plan, Plans
from run_isolated.proof import Proof
from run_isolated.reuse import MIN_NAMES, VERSION, Trees, sketch_of
from run_isolated.standing import Layout
from run_isolated.stopping import Check, go_on

if TYPE_CHECKING:  # what concerns kept trees is imported when there is one, or is to be
    from run_isolated.folders import Folder
    from run_isolated.kept import About, Shared, Taken
    from run_isolated.looking import Expected


@dataclass(frozen=True, slots=True, kw_only=True)
class Ready:
    """A tree at its place."""

    root: bytes
    pin: Pin
    proof: Proof
    command: tuple[str, ...]
    relative_cwd: str | None
    cold: Sequence[int]  # sizes of what was transferred
    hot: Sequence[int]  # and of what was there
    about: About | None = None  # when it was kept before
    shared: Shared | None = None
    taken: Taken | None = None  # what it should hold; else that of `plans`
    plans: Plans | None = None  # None: it cannot be kept
    names: int = 0

    def keep(self, trees: Trees, cache: LocalCache, place: Path) -> bool:
        """Keep the tree at `place` for the next run, and return if it could be; its proof was found good."""
        described = self._described(cache) if self.proof.is_in_place() else None
        return described is not None and trees.keep(self.root, place, *described)

    def _described(self, cache: LocalCache) -> tuple[About, Shared, Iterable[Folder] | Taken] | None:
        if self.about is not None and self.shared is not None and self.taken is not None:
            return self.about.proven_at(self.proof.marker_ns), self.shared, self.taken
        known = None if self.plans is None or self.names < MIN_NAMES else self.proof.facts()
        if self.plans is None or known is None:
            return None
        from run_isolated.folders import folders_of
        from run_isolated.kept import About, Shared

        facts = Facts(cache.namespace.algorithm)
        about = About(
            version=VERSION,
            namespace=cache.namespace.name,
            boot_id=cache.boot_id,
            command=[os.fsencode(word) for word in self.command],
            relative_cwd=None if self.relative_cwd is None else os.fsencode(self.relative_cwd),
            proven_ns=self.proof.marker_ns,
            touched_s=int(cache.clock.now()),
            names=self.names,
            sketch=sketch(self.plans),
        )
        folders = folders_of(zip(self.plans, map(facts.known, known), strict=True), facts, cache.temporary)
        return about, Shared(array("Q", self.cold) + array("Q", self.hot), known), folders


def map_fetched(
    cache: LocalCache,
    trees: Trees | None,
    fetched: Fetched,
    destination: Path,
    how: How,
    monitor: Monitor,
    check: Check = go_on,
    others: ManyLinks | None = None,
    expected: Expected | None = None,
) -> Ready:
    """Map a tree that is in the cache at `destination`, an empty directory; `others` and errors are as of `apply`.

    `expected` are all its files in the cache, and perhaps more, if that is known.
    """
    plans = Plans(fetched.tree)
    mapped = None
    if trees is not None and how.is_shared and trees.has_any():
        mapped = _from_near(cache, trees, plans, destination, check)
    if mapped is None:
        mapped = apply(plans, cache, destination, how, check, others)
        if mapped.problem:
            monitor.problem(mapped.problem)
    return Ready(
        root=fetched.root,
        pin=fetched.pin,
        proof=Proof.start(
            cache,
            mapped.linked,
            fetched.pin,
            layout_of(destination, plans),
            None if fetched.tree.whole is None else expected,
        ),
        command=fetched.tree.command,
        relative_cwd=fetched.tree.relative_cwd,
        cold=fetched.cold,
        hot=fetched.hot,
        plans=None if mapped.copied_files or mapped.tars or not how.is_shared else plans,
        names=mapped.names,
    )


def _from_near(cache: LocalCache, trees: Trees, plans: Plans, destination: Path, check: Check) -> Mapped | None:
    """Turn a kept tree that has much in common with a new one into it, at `destination`; None when there is none."""
    if sum(run.names for run in plans) < MIN_NAMES or any(run.tars for run in plans):
        return None
    from run_isolated.remapping import from_near

    return from_near(cache, trees, plans, destination, check)


def layout_of(root: Path, plans: Iterable[Plan]) -> Layout:
    """Return where a tree, mapped at `root`, has what."""

    def directories() -> Iterator[str]:
        yield ""
        for run in plans:
            yield from run.directories

    def files_in(wanted: Collection[str]) -> Iterator[tuple[str, str, Variant]]:
        for run in plans:
            for entry in run.files:
                above, _, name = entry.path.rpartition("/")
                if above in wanted and entry.blob is not None:
                    yield above, name, (entry.blob, entry.is_executable)

    return Layout(root, directories, files_in)


def sketch(plans: Plans) -> bytes:
    return sketch_of([blob.digest for blob, _ in run.variants()] for run in plans)
