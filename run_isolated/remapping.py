"""A kept tree is put to use again: as it was, of the same manifest, or turned into one that is near.

Knows no command and no server. The invariant: what is in the destination afterwards is what the manifest says, and
every file of the cache that it shares is pinned and in `proof`.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path

import msgspec

from isolate.cas.cache import LocalCache, Pin
from isolate.spool import Spool
from run_isolated.facts import Fact, Facts
from run_isolated.folders import Folder, Known, folders_of
from run_isolated.kept import About, Shared, Taken
from run_isolated.linked import Linked, Variant
from run_isolated.looking import Expected, Look
from run_isolated.mapper import Mapped, directory
from run_isolated.mapping import Ready, sketch
from run_isolated.plans import Plans
from run_isolated.proof import Proof
from run_isolated.renewal import NotReusable, Sources
from run_isolated.reuse import Trees
from run_isolated.standing import Layout
from run_isolated.stopping import Check, checked, go_on

TOUCH_S = 600  # the files of a tree that is used again and again are noted as used no more often
LOOK_BYTES = 32 << 10  # of facts: 500 names, 3 ms


def reuse(cache: LocalCache, trees: Trees, root: bytes, destination: Path, check: Check = go_on) -> Ready | None:
    """Put a kept tree of the manifest `root` at `destination`, an empty directory, without asking any store.

    None when there is none, or when a file that it shares is not in the cache any more as it was.
    """
    taken = trees.take_same(root, destination)
    if taken is None:
        return None
    ready = None
    try:
        ready = _renewed(cache, trees, root, taken, destination, check)
    finally:
        if ready is None:
            trees.give_up(taken.path)
    return ready


def _renewed(
    cache: LocalCache, trees: Trees, root: bytes, taken: Taken, destination: Path, check: Check
) -> Ready | None:
    shared = taken.shared()
    if shared is None:
        return None
    pin = cache.pin([root])
    expected = settled_files(cache, pin, shared, trees.facts, check)
    directories = Spool(cache.temporary)
    with sources_of(cache, check) as found, Look(cache, expected, taken.about.proven_ns, check) as look:
        sources = replace(found, are_seen_to=True)
        folders = _noting(checked(taken.folders(), check), directories)
        wanted = unless_changed(look, folders, partial(_are_right, cache, sources))
        if trees.renewed(taken, wanted, taken.about.names, sources, destination):
            about, layout = taken.about, _layout_of_list(destination, directories, taken, trees.facts)
            return Ready(
                root=root,
                pin=pin,
                proof=Proof.start(cache, expected, pin, layout),
                command=tuple(os.fsdecode(word) for word in about.command),
                relative_cwd=None if about.relative_cwd is None else os.fsdecode(about.relative_cwd),
                cold=(),
                hot=shared.sizes,
                about=_touched(about, cache, expected),
                shared=shared,
                taken=taken,
            )
    pin.release()
    return None


def settled_files(cache: LocalCache, pin: Pin, shared: Shared, facts: Facts, check: Check = go_on) -> Expected:
    """Pin the files of the cache that a kept tree shares, end doubts in them, and return what they should be."""
    expected = Expected(facts, cache.temporary)
    for packed in checked(shared.facts, check):
        pin.extend(facts.digests(packed))
        cache.settle(fact.variant for fact in facts.unpack(packed))
        expected.append(packed)
    return expected


def unless_changed(
    look: Look, folders: Iterable[Folder], are_right: Callable[[Sequence[Fact]], bool] = lambda _: False
) -> Iterator[Folder]:
    """Yield `folders` while others look at the files of the cache; raises NotReusable if one is another one now.

    Of what differs `are_right` may say that it is right all the same.
    """
    facts_bytes = 0
    for folder in folders:
        facts_bytes += len(folder.facts)
        if facts_bytes >= LOOK_BYTES:
            look.go_on()
            facts_bytes = 0
        yield folder
    for facts in look.untrue():
        if not are_right(facts):
            raise NotReusable("The cache has other files now")


def _are_right(cache: LocalCache, sources: Sources, facts: Sequence[Fact]) -> bool:
    """Whether files that somebody may have written to, or linked, are what they were: they are hashed."""
    if not all(sources.is_right(fact.variant) for fact in facts):
        return False
    known = cache.identities([fact.variant for fact in facts])
    return all(known.get(fact.variant) == (fact.size, fact.mtime_ns, fact.inode) for fact in facts)


def from_near(cache: LocalCache, trees: Trees, plans: Plans, destination: Path, check: Check) -> Mapped | None:
    """Turn a kept tree that has much in common with a new one into it, at `destination`; None when there is none."""
    names = sum(run.names for run in plans)
    taken = trees.take_near(sketch(plans), destination)
    if taken is None:
        return None
    linked = Linked(cache.namespace.algorithm, cache.temporary)
    wanted = folders_of(_known(cache, plans, linked), trees.facts, cache.temporary)
    try:
        with sources_of(cache, check) as sources:
            is_renewed = trees.renewed(taken, checked(wanted, check), names, sources, destination)
    finally:
        trees.give_up(taken.path)  # what it was is told by other lists than what it is
    return Mapped(linked, names=names) if is_renewed else None


def _known(cache: LocalCache, plans: Plans, linked: Linked) -> Iterator[Known]:
    """Yield each run with what its files are in the cache, adding these to `linked`; raises NotReusable."""
    for run in plans:
        variants = run.variants()
        cache.settle(variants)
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


@contextmanager
def sources_of(cache: LocalCache, check: Check = go_on) -> Iterator[Sources]:
    """Give the cache as a renewal sees it; each file that is hashed is checked for being wanted."""
    above = len(str(cache.files_dir)) + 1

    def is_right(variant: Variant) -> bool:
        check()
        return bool(cache.recheck([variant]))

    with directory(cache.files_dir) as files:
        yield Sources(
            files=files,
            path_of=lambda variant: cache.files_of([variant])[0][above:],
            is_right=is_right,
        )


def _touched(about: About, cache: LocalCache, expected: Expected) -> About:
    """Tell the cache that its files were used, if it was not told lately."""
    now_s = int(cache.clock.now())
    if now_s - about.touched_s < TOUCH_S:
        return about
    for variants in expected:
        cache.touch(variants)
    return msgspec.structs.replace(about, touched_s=now_s)
