"""Rows 4 to 6: a tree out of a store and into a directory: for the first time, with a warm cache, and once more.

`run_isolated` always removes what it mapped, so where it is measured beside tools that leave removing to others, these
remove what they made within the measurement; only row 4, as its peers restore, leaves the tree where it is.
"""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path

from bench.goals import OURS
from bench.measure import Contestant, Race, Sample, added, run
from bench.peers import Ostree, has, keepers
from bench.place import NO_LIMITS, Place, Server, removed
from bench.tree import Changer

CHANGED = 0.01
OVERLAY, MANY, ONE = "isolate --map overlay", "isolate, many generations", "isolate, one generation"
NO_REUSE = "isolate, no tree kept"


def fetch_cold(place: Place) -> Race:
    """Row 4: into an empty cache, and mapped."""
    server = place.server()
    contestants = [_cold(place, OURS, server, place.archive(server))]
    for name, keeper in keepers(place, compressing=True).items():
        place.stack.callback(keeper.remove)
        keeper.backup(place.tree)
        target = place.fresh("restored")
        contestants.append(
            Contestant(name, partial(keeper.restore, target), is_peer=True, tidy=partial(removed, target))
        )
    return Race(contestants)


def fetch_generations(place: Place) -> Race:
    """Row 4b: the blobs of one tree lie where a hundred archives of its ancestors left them."""
    tree = place.copy()
    changer = Changer(tree, CHANGED)
    scattered, cache = place.server(), place.fresh("cache")
    for _ in range(place.size.generations):
        run(["isolate", "archive", str(tree)], place.env(cache, scattered.url))
        changer.change()
    together = place.server()
    many, one = place.archive(scattered, tree), place.archive(together, tree)
    return Race([_cold(place, MANY, scattered, many), _cold(place, ONE, together, one)])


def map_warm(place: Place) -> Race:
    """Row 5: everything is in the cache, and no tree is kept."""
    server = place.server()
    cache, target = place.fresh("blobs"), place.fresh("copy")
    contestants = [_mapped(place, OURS, server, cache)]

    def checkout(keeper: Ostree) -> Sample:
        return added(keeper.restore(target, "-H"), _remove(target))

    if has("ostree"):
        ostree = Ostree(place, "bare-user")
        place.stack.callback(ostree.remove)
        ostree.backup(place.tree)
        contestants.append(Contestant("ostree checkout -H, rm -rf", partial(checkout, ostree), is_peer=True))

    def copy_links() -> Sample:
        return added(run(["cp", "-al", str(place.tree), str(target)], dict(os.environ)), _remove(target))

    contestants.append(Contestant("cp -al, rm -rf", copy_links, is_peer=True))
    return Race(contestants)


def map_again(place: Place) -> Race:
    """Row 6: a task ran in the tree, and the next one wants the same; both proofs that it is unchanged are included."""
    server = place.server()
    cache, over = place.fresh("blobs"), place.fresh("blobs")
    contestants = [
        _mapped(place, OURS, server, cache),
        _mapped(place, NO_REUSE, server, place.fresh("blobs")),
    ]
    if "overlay" in run(["run_isolated", "--help"], place.env(cache)).stdout:
        contestants.append(_mapped(place, OVERLAY, server, over, how="overlay"))
    return Race(contestants)


def _cold(place: Place, name: str, server: Server, digest: str) -> Contestant:
    """Return ours with an empty cache for each run; the tree stays until it is tidied away."""
    cache, root = place.fresh("blobs"), place.fresh("root")

    def once() -> Sample:
        return place.ours(name, [*run_of(digest, cache, root), "--leak-temp-dir", *TRUE], server, place.fresh("cache"))

    def tidy() -> None:
        removed(root)
        removed(cache)

    return Contestant(name, once, tidy=tidy)


def _mapped(place: Place, name: str, server: Server, cache: Path, how: str = "auto") -> Contestant:
    """Return ours with a warm cache: a task that does nothing, its directory made before and removed after it."""
    argv = [*run_of(place.archive(server), cache, place.fresh("root")), "--map", how, *TRUE]
    return Contestant(name, partial(place.ours, name, argv, server, place.fresh("cache")))


TRUE = ("--raw-cmd", "--", "true")


def run_of(digest: str, cache: Path, root: Path) -> list[str]:
    """Return the beginning of a run of ours in the tree `digest`."""
    return ["run_isolated", "-s", digest, "--cache", str(cache), "--root-dir", str(root), "--no-log", *NO_LIMITS]


def _remove(target: Path) -> Sample:
    return run(["rm", "-rf", str(target)], dict(os.environ))
