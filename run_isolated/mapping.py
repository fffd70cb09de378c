"""How a tree gets to where a command finds it, by the cheapest way there is.

That is a kept tree of the same manifest, one that is near, or all of it anew. Knows no command and no server. The
invariant: whatever the way, what is in the destination afterwards is what the manifest says, and every file of the
cache that it shares is pinned and in `proof`.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import msgspec

from isolate.cas.cache import LocalCache, Pin
from isolate.fetch import Fetched
from isolate.monitor import Monitor
from run_isolated.folders import Facts, Folder, Variant, folders_of
from run_isolated.mapper import How, Mapped, Plan, apply, directory, plan
from run_isolated.proof import Layout, Proof
from run_isolated.renewal import Sources
from run_isolated.reuse import MIN_NAMES, VERSION, About, Shared, Taken, Trees, shared_files, sketch_of

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
    listed: Path | None = None  # what it should hold; else that of `tree`
    tree: Plan | None = None  # None: it cannot be kept

    def keep(self, trees: Trees, cache: LocalCache, place: Path, beside: Path) -> bool:
        """Keep the tree at `place` for the next run, and return if it could be; its proof was found good."""
        described = self._described(cache)
        return described is not None and trees.keep(self.root, place, *described, beside)

    def _described(self, cache: LocalCache) -> tuple[About, Shared, Iterable[Folder] | Path] | None:
        if self.about is not None and self.shared is not None and self.listed is not None:
            return msgspec.structs.replace(self.about, proven_ns=self.proof.marker_ns), self.shared, self.listed
        if self.tree is None or self.tree.names < MIN_NAMES:
            return None
        known = self.proof.identities
        variants = _variants(self.tree)
        if not all(variant in known for variant in variants):
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
            names=self.tree.names,
            sketch=sketch_of(blob.digest for blob, _ in variants),
        )
        shared = Shared(
            sizes=[*self.cold, *self.hot],
            linked=facts.pack((*known[blob, executable], executable, blob.digest) for blob, executable in variants),
        )
        return about, shared, folders_of(self.tree, known, facts)


def reuse(cache: LocalCache, trees: Trees, root: bytes, destination: Path) -> Ready | None:
    """Put a kept tree of the manifest `root` at `destination`, an empty directory, without asking any store.

    None when there is none, or when a file that it shares is not in the cache any more as it was.
    """
    beside = destination.parent / "same"
    taken = trees.take_same(root, beside)
    has = taken.shared() if taken is not None else None
    if taken is None or has is None:
        return None
    shared = shared_files(has, trees.facts)
    pin = cache.pin(itertools.chain([root], (blob.digest for (blob, _), _ in shared)))
    cache.settle((variant for variant, _ in shared), beside)
    paths = cache.unchanged(shared)
    if paths is not None:
        linked = tuple((path, *variant) for path, (variant, _) in zip(paths, shared, strict=True))
        directories: list[str] = []
        wanted = _noting(taken.folders(), directories)
        with sources_of(cache) as sources:
            if trees.renewed(taken, wanted, taken.about.names, sources, beside / "aside", destination):
                about = taken.about
                return Ready(
                    root=root,
                    pin=pin,
                    proof=Proof.start(
                        cache, Mapped(linked, 0), pin, _layout_of_list(destination, directories, taken, trees.facts)
                    ),
                    command=tuple(os.fsdecode(word) for word in about.command),
                    relative_cwd=None if about.relative_cwd is None else os.fsdecode(about.relative_cwd),
                    cold=(),
                    hot=has.sizes,
                    about=_touched(about, cache, [variant for variant, _ in shared]),
                    shared=has,
                    listed=beside / "folders",
                )
    pin.release()
    return None


def map_fetched(
    cache: LocalCache, trees: Trees | None, fetched: Fetched, destination: Path, how: How, monitor: Monitor
) -> Ready:
    """Map a tree that is in the cache at `destination`, an empty directory; raises what `apply` raises."""
    tree = plan(fetched.manifest)
    mapped = None
    if trees is not None and how.is_shared and tree.names >= MIN_NAMES and not tree.tars:
        mapped = _from_near(cache, trees, tree, destination)
    if mapped is None:
        mapped = apply(tree, cache, destination, how)
        if mapped.problem:
            monitor.problem(mapped.problem)
    return Ready(
        root=fetched.root,
        pin=fetched.pin,
        proof=Proof.start(cache, mapped, fetched.pin, layout_of_plan(destination, tree)),
        command=fetched.manifest.command,
        relative_cwd=fetched.manifest.relative_cwd,
        cold=[blob.size for blob in fetched.cold],
        hot=[blob.size for blob in fetched.hot],
        tree=None if mapped.copied_files or tree.tars or not how.is_shared else tree,
    )


def _from_near(cache: LocalCache, trees: Trees, tree: Plan, destination: Path) -> Mapped | None:
    """Turn a kept tree that has much in common with `tree` into it, at `destination`; None when there is none."""
    variants = _variants(tree)
    beside = destination.parent / "near"
    taken = trees.take_near(sketch_of(blob.digest for blob, _ in variants), beside)
    if taken is None:
        return None
    cache.settle(variants, beside)
    paths = cache.paths(variants)
    known = cache.identities(variants)
    if len(known) < len(variants):
        return None  # evicted by somebody's hand; `apply` says which
    wanted = folders_of(tree, known, trees.facts)
    with sources_of(cache) as sources:
        if not trees.renewed(taken, wanted, tree.names, sources, beside / "aside", destination):
            return None
    return Mapped(tuple((path, *variant) for path, variant in zip(paths, variants, strict=True)), 0)


def _noting(folders: Iterable[Folder], directories: list[str]) -> Iterator[Folder]:
    """Yield `folders`, and add their paths to `directories`."""
    for folder in folders:
        directories.append(os.fsdecode(folder.path))
        yield folder


def _layout_of_list(root: Path, directories: Sequence[str], taken: Taken, facts: Facts) -> Layout:

    def files_in(wanted: Collection[str]) -> Iterator[tuple[str, str, Variant]]:
        for folder in taken.folders():
            if (path := os.fsdecode(folder.path)) in wanted:
                for name, fact in zip(folder.file_names, facts.unpack(folder.facts), strict=True):
                    yield path, name, fact.variant

    return Layout(root, directories, files_in)


def layout_of_plan(root: Path, tree: Plan) -> Layout:
    """Return where `tree`, mapped at `root`, has what."""

    def files_in(wanted: Collection[str]) -> Iterator[tuple[str, str, Variant]]:
        for entry in tree.files:
            above, _, name = entry.path.rpartition("/")
            if above in wanted and entry.blob is not None:
                yield above, name, (entry.blob, entry.is_executable)

    return Layout(root, ("", *tree.directories), files_in)


def _variants(tree: Plan) -> list[Variant]:
    """Return the files of the cache that `tree` is linked from, each once."""
    return list(dict.fromkeys((entry.blob, entry.is_executable) for entry in tree.files if entry.blob is not None))


@contextmanager
def sources_of(cache: LocalCache) -> Iterator[Sources]:
    above = len(str(cache.files_dir)) + 1
    with directory(cache.files_dir) as files:
        yield Sources(
            files=files,
            path_of=lambda variant: cache.file_of(*variant)[above:],
            is_right=lambda variant: bool(cache.recheck([variant])),
        )


def _touched(about: About, cache: LocalCache, variants: Sequence[Variant]) -> About:
    """Tell the cache that its files were used, if it was not told lately."""
    now_s = int(cache.clock.now())
    if now_s - about.touched_s < TOUCH_S:
        return about
    cache.touch(variants)
    return msgspec.structs.replace(about, touched_s=now_s)
