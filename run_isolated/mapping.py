"""How a tree gets to where a command finds it, by the cheapest way there is.

That is a kept tree of the same manifest, one that is near, or all of it anew. Knows no command and no server. The
invariant: whatever the way, what is in the destination afterwards is what the manifest says, and every file of the
cache that it shares is pinned and in `proof`.
"""

from __future__ import annotations

import os
from array import array
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import msgspec

from isolate.cas.cache import LocalCache, Pin
from isolate.found import Fetched
from isolate.monitor import Monitor
from isolate.spool import Spool
from run_isolated.folders import Facts, Folder, Known, folders_of
from run_isolated.kept import About, Shared, Taken
from run_isolated.linked import Linked, Variant
from run_isolated.mapper import How, Mapped, apply, directory
from run_isolated.plans import Plan, Plans
from run_isolated.proof import Proof
from run_isolated.renewal import NotReusable, Sources
from run_isolated.reuse import MIN_NAMES, VERSION, Trees, sketch_of
from run_isolated.standing import Layout

TOUCH_S = 600  # the files of a tree that is used again and again are noted as used no more often


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
    listed: Path | None = None  # what it should hold; else that of `plans`
    plans: Plans | None = None  # None: it cannot be kept
    names: int = 0

    def keep(self, trees: Trees, cache: LocalCache, place: Path, beside: Path) -> bool:
        """Keep the tree at `place` for the next run, and return if it could be; its proof was found good."""
        described = self._described(cache) if self.proof.is_in_place() else None
        return described is not None and trees.keep(self.root, place, *described, beside)

    def _described(self, cache: LocalCache) -> tuple[About, Shared, Iterable[Folder] | Path] | None:
        if self.about is not None and self.shared is not None and self.listed is not None:
            return msgspec.structs.replace(self.about, proven_ns=self.proof.marker_ns), self.shared, self.listed
        if self.plans is None or self.names < MIN_NAMES or self.proof.facts is None:
            return None
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
            sketch=_sketch(self.plans),
        )
        known = map(facts.known, self.proof.facts)
        folders = folders_of(zip(self.plans, known, strict=True), facts, cache.temporary)
        return about, Shared(array("Q", self.cold) + array("Q", self.hot), self.proof.facts), folders


def reuse(cache: LocalCache, trees: Trees, root: bytes, destination: Path) -> Ready | None:
    """Put a kept tree of the manifest `root` at `destination`, an empty directory, without asking any store.

    None when there is none, or when a file that it shares is not in the cache any more as it was.
    """
    beside = destination.parent / "same"
    taken = trees.take_same(root, beside)
    shared = taken.shared() if taken is not None else None
    if taken is None or shared is None:
        return None
    pin = cache.pin([root])
    linked = unchanged_files(cache, pin, shared, trees.facts, beside)
    if linked is not None:
        directories = Spool(cache.temporary)
        wanted = _noting(taken.folders(), directories)
        aside = destination.parent / "same-aside"
        with sources_of(cache) as sources:
            if trees.renewed(taken, wanted, taken.about.names, sources, aside, destination):
                about = taken.about
                return Ready(
                    root=root,
                    pin=pin,
                    proof=Proof.start(
                        cache, linked, pin, _layout_of_list(destination, directories, taken, trees.facts)
                    ),
                    command=tuple(os.fsdecode(word) for word in about.command),
                    relative_cwd=None if about.relative_cwd is None else os.fsdecode(about.relative_cwd),
                    cold=(),
                    hot=shared.sizes,
                    about=_touched(about, cache, linked),
                    shared=shared,
                    listed=beside / "folders",
                )
    pin.release()
    return None


def unchanged_files(cache: LocalCache, pin: Pin, shared: Shared, facts: Facts, place: Path) -> Linked | None:
    """Pin the files of the cache that a kept tree in `place` shares and return them; None when one is another one."""
    linked = Linked(cache.namespace.algorithm, cache.temporary)
    for packed in shared.facts:
        known = facts.known(packed)
        pin.extend(blob.digest for blob, _ in known)
        cache.settle(known, place)
        if not cache.unchanged(known.items()):
            return None
        linked.append(list(known))
    return linked


def map_fetched(
    cache: LocalCache, trees: Trees | None, fetched: Fetched, destination: Path, how: How, monitor: Monitor
) -> Ready:
    """Map a tree that is in the cache at `destination`, an empty directory; raises what `apply` raises."""
    plans = Plans(fetched.tree)
    mapped = None
    if trees is not None and how.is_shared and trees.has_any():
        mapped = _from_near(cache, trees, plans, destination)
    if mapped is None:
        mapped = apply(plans, cache, destination, how)
        if mapped.problem:
            monitor.problem(mapped.problem)
    return Ready(
        root=fetched.root,
        pin=fetched.pin,
        proof=Proof.start(cache, mapped.linked, fetched.pin, layout_of(destination, plans)),
        command=fetched.tree.command,
        relative_cwd=fetched.tree.relative_cwd,
        cold=fetched.cold,
        hot=fetched.hot,
        plans=None if mapped.copied_files or mapped.tars or not how.is_shared else plans,
        names=mapped.names,
    )


def _from_near(cache: LocalCache, trees: Trees, plans: Plans, destination: Path) -> Mapped | None:
    """Turn a kept tree that has much in common with a new one into it, at `destination`; None when there is none."""
    names = sum(run.names for run in plans)
    if names < MIN_NAMES or any(run.tars for run in plans):
        return None
    beside = destination.parent / "near"
    taken = trees.take_near(_sketch(plans), beside)
    if taken is None:
        return None
    linked = Linked(cache.namespace.algorithm, cache.temporary)
    wanted = folders_of(_known(cache, plans, linked, beside), trees.facts, cache.temporary)
    aside = destination.parent / "near-aside"
    with sources_of(cache) as sources:
        if not trees.renewed(taken, wanted, names, sources, aside, destination):
            return None
    return Mapped(linked, names=names)


def _known(cache: LocalCache, plans: Plans, linked: Linked, place: Path) -> Iterator[Known]:
    """Yield each run with what its files are in the cache, adding these to `linked`; raises NotReusable."""
    for run in plans:
        variants = run.variants()
        cache.settle(variants, place)
        cache.paths(variants)
        known = cache.identities(variants)
        if len(known) < len(variants):
            raise NotReusable("Evicted by somebody's hand; `apply` says which")
        linked.append(variants)
        yield run, known


def _noting(folders: Iterable[Folder], directories: Spool) -> Iterator[Folder]:
    """Yield `folders`, and add their paths to `directories`."""
    for folder in folders:
        directories.append(folder.path)
        yield folder


def _layout_of_list(root: Path, directories: Iterable[bytes], taken: Taken, facts: Facts) -> Layout:

    def files_in(wanted: Collection[str]) -> Iterator[tuple[str, str, Variant]]:
        for folder in taken.folders():
            if (path := os.fsdecode(folder.path)) in wanted:
                for name, fact in zip(folder.file_names, facts.unpack(folder.facts), strict=True):
                    yield path, name, fact.variant

    return Layout(root, lambda: map(os.fsdecode, directories), files_in)


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


def _sketch(plans: Plans) -> bytes:
    return sketch_of([blob.digest for blob, _ in run.variants()] for run in plans)


@contextmanager
def sources_of(cache: LocalCache) -> Iterator[Sources]:
    above = len(str(cache.files_dir)) + 1
    with directory(cache.files_dir) as files:
        yield Sources(
            files=files,
            path_of=lambda variant: cache.files_of([variant])[0][above:],
            is_right=lambda variant: bool(cache.recheck([variant])),
        )


def _touched(about: About, cache: LocalCache, linked: Linked) -> About:
    """Tell the cache that its files were used, if it was not told lately."""
    now_s = int(cache.clock.now())
    if now_s - about.touched_s < TOUCH_S:
        return about
    for variants in linked:
        cache.touch(variants)
    return msgspec.structs.replace(about, touched_s=now_s)
