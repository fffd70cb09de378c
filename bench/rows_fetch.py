"""Rows 4 to 6: a tree out of a store and into a directory: for the first time, with a warm cache, and once more.

In rows 4 and 5 all leave the tree where it is, and it is removed outside of the measurement. Ours also runs a command.
In row 6 the tree is put away within the measurement, proven unchanged, and used again by the next run.
"""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path

from bench.goals import OURS
from bench.measure import Contestant, Race, Sample, run
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
    target = place.fresh("copy")
    tidy = partial(removed, target)
    contestants = [_mapped_anew(place, OURS, server)]
    if has("ostree"):
        ostree = Ostree(place, "bare-user")
        place.stack.callback(ostree.remove)
        ostree.backup(place.tree)
        checkout = partial(ostree.restore, target, "-H")
        contestants.append(Contestant("ostree checkout -H", checkout, is_peer=True, tidy=tidy))
    link = partial(run, ["cp", "-al", str(place.tree), str(target)], dict(os.environ))
    contestants.append(Contestant("cp -al", link, is_peer=True, tidy=tidy))
    return Race(contestants)


def map_again(place: Place) -> Race:
    """Row 6: a task ran in the tree, and the next one wants the same; both proofs that it is unchanged are included."""
    server = place.server()
    return Race(
        [
            _mapped_again(place, OURS, server, "auto"),
            _mapped_again(place, OVERLAY, server, "overlay"),
            _mapped_anew(place, NO_REUSE, server),
        ]
    )


def _cold(place: Place, name: str, server: Server, digest: str) -> Contestant:
    """Return ours with an empty cache for each run; the tree stays until it is tidied away."""
    cache, root = place.fresh("blobs"), place.fresh("root")

    def once() -> Sample:
        return place.ours(name, [*run_of(digest, cache, root), "--leak-temp-dir", *TRUE], server, place.fresh("cache"))

    def tidy() -> None:
        removed(root)
        removed(cache)

    return Contestant(name, once, tidy=tidy)


def _mapped_anew(place: Place, name: str, server: Server) -> Contestant:
    """Return ours with a warm cache in which no tree is kept; it stays until it is tidied away."""
    cache, root = place.fresh("blobs"), place.fresh("root")
    argv = [*run_of(place.archive(server), cache, root), "--leak-temp-dir", *TRUE]
    once = partial(place.ours, name, argv, server, place.fresh("cache"))
    return Contestant(name, once, prepare=partial(_forget_trees, cache), tidy=partial(removed, root))


def _mapped_again(place: Place, name: str, server: Server, how: str) -> Contestant:
    """Return ours with a warm cache, and with what the run before left for the next one."""
    argv = [*run_of(place.archive(server), place.fresh("blobs"), place.fresh("root")), "--map", how, *TRUE]
    return Contestant(name, partial(place.ours, name, argv, server, place.fresh("cache")))


def _forget_trees(cache: Path) -> None:
    for depth in ("", "*/", "*/*/"):
        for trees in cache.glob(f"{depth}trees"):
            removed(trees)


TRUE = ("--raw-cmd", "--", "true")


def run_of(digest: str, cache: Path, root: Path) -> list[str]:
    """Return the beginning of a run of ours in the tree `digest`."""
    return ["run_isolated", "-s", digest, "--cache", str(cache), "--root-dir", str(root), "--no-log", *NO_LIMITS]
