"""Rows 4 to 6: a tree out of a store and into a directory: for the first time, with a warm cache, and once more.

In rows 4 and 5 all leave the tree where it is, and it is put aside outside of the measurement. Ours also runs a
command. In row 6 the tree is put away within the measurement, proven unchanged, and used again by the next run.
"""

from __future__ import annotations

import os
import sys
from functools import partial
from pathlib import Path

from bench.goals import OURS
from bench.measure import Contestant, Race, Sample, run
from bench.peers import Ostree, absent
from bench.place import NO_LIMITS, Place, Server, removed, warmed
from bench.stores import Stores
from bench.tree import Changer

CHANGED = 0.01
TOLD_GENERATIONS = 20  # between two lines about how far it is
PEERS = ("restic", "borg", "ostree archive", "casync")
OVERLAY, MANY, ONE = "isolate --map overlay", "isolate, many generations", "isolate, one generation"
LINKED = "ostree checkout -H"
NO_REUSE = "isolate, no tree kept"


def fetch_cold(place: Place, stores: Stores) -> Race:
    """Row 4: into an empty cache, and mapped. A bare copy shows what creating the files costs."""
    contestants = [_cold(place, OURS, stores.server, stores.archived())]
    for name, keeper in stores.holders(PEERS):
        target = place.fresh("restored")
        contestants.append(
            Contestant(
                name,
                partial(keeper.restore, target),
                is_peer=True,
                prepare=partial(warmed, keeper.repository),
                tidy=partial(place.drop, target),
            )
        )
    target = place.fresh("copy")
    copy = partial(run, ["cp", "-a", str(stores.tree), str(target)], dict(os.environ))
    warm = partial(warmed, stores.tree)
    scale = Contestant("cp -a (no store)", copy, prepare=warm, tidy=partial(place.drop, target))
    return Race([*contestants, scale], absent=absent(PEERS))


def fetch_generations(place: Place, stores: Stores) -> Race:
    """Row 4b: the blobs of one tree lie where a hundred archives of its ancestors left them."""
    changer = Changer(stores.tree, CHANGED, seed=8)  # not that of row 3: the same changes would be none
    for generation in range(1, place.size.generations):
        stores.archived()
        changer.change()
        if generation % TOLD_GENERATIONS == 0:
            print(f"{generation} of {place.size.generations} generations are archived", file=sys.stderr)
    digest = stores.archived()
    together = place.server()
    run(["isolate", "archive", str(stores.tree)], place.env(place.fresh("cache"), together.url))
    return Race([_cold(place, MANY, stores.server, digest), _cold(place, ONE, together, digest)])


def map_warm(place: Place, stores: Stores) -> Race:
    """Row 5: everything is in the cache, and no tree is kept."""
    target = place.fresh("copy")
    tidy = partial(removed, target)
    contestants = [_mapped_anew(place, OURS, stores)]
    for _, ostree in stores.holders(("ostree",)):
        assert isinstance(ostree, Ostree), "as its name says"
        checkout = partial(ostree.link, target)
        contestants.append(Contestant(LINKED, checkout, is_peer=True, tidy=tidy))
    link = partial(run, ["cp", "-al", str(stores.tree), str(target)], dict(os.environ))
    contestants.append(Contestant("cp -al", link, is_peer=True, tidy=tidy))
    return Race(contestants, absent=absent([LINKED]))


def map_again(place: Place, stores: Stores) -> Race:
    """Row 6: a task ran in the tree, and the next one wants the same; both proofs that it is unchanged are included."""
    return Race(
        [
            _mapped_again(place, OURS, stores, "auto"),
            _mapped_again(place, OVERLAY, stores, "overlay"),
            _mapped_anew(place, NO_REUSE, stores),
        ]
    )


def _cold(place: Place, name: str, server: Server, digest: str) -> Contestant:
    """Return ours with an empty cache for each run; the tree stays until it is tidied away."""
    cache, root = place.fresh("blobs"), place.fresh("root")

    def once() -> Sample:
        return place.ours(name, [*run_of(digest, cache, root), "--leak-temp-dir", *TRUE], server, place.fresh("cache"))

    def tidy() -> None:
        place.drop(root)
        place.drop(cache)

    return Contestant(name, once, prepare=partial(warmed, server.data), tidy=tidy)


def _mapped_anew(place: Place, name: str, stores: Stores) -> Contestant:
    """Return ours with a warm cache in which no tree is kept; it stays until it is tidied away."""
    cache, root = place.fresh("blobs"), place.fresh("root")
    argv = [*run_of(stores.archived(), cache, root), "--leak-temp-dir", *TRUE]
    once = partial(place.ours, name, argv, stores.server, place.fresh("cache"))
    return Contestant(name, once, prepare=partial(_forget_trees, cache), tidy=partial(removed, root))


def _mapped_again(place: Place, name: str, stores: Stores, how: str) -> Contestant:
    """Return ours with a warm cache, and with what the run before left for the next one."""
    argv = [*run_of(stores.archived(), place.fresh("blobs"), place.fresh("root")), "--map", how, *TRUE]
    return Contestant(name, partial(place.ours, name, argv, stores.server, place.fresh("cache")))


def _forget_trees(cache: Path) -> None:
    for depth in ("", "*/", "*/*/"):
        for trees in cache.glob(f"{depth}trees"):
            removed(trees)


TRUE = ("--raw-cmd", "--", "true")


def run_of(digest: str, cache: Path, root: Path) -> list[str]:
    """Return the beginning of a run of ours in the tree `digest`."""
    return ["run_isolated", "-s", digest, "--cache", str(cache), "--root-dir", str(root), "--no-log", *NO_LIMITS]
