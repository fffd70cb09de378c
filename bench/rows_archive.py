"""Rows 1 to 3: a tree into a store: for the first time, again, and again after some files changed."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from bench.goals import OURS
from bench.measure import Contestant, Race, run
from bench.peers import absent, installed
from bench.place import Place
from bench.stores import Stores
from bench.tree import Changer

CASYNC = "casync (not synced)"  # shown for scale: what it says is stored may not survive a power cut
PEERS = ("restic", "borg", "ostree")
CHANGED = 0.01  # of the files, before each turn of row 3


def archive_cold(place: Place, stores: Stores) -> Race:
    """Row 1: nothing is known to anybody; ours is verified and durable at the end. The last stores are kept."""
    archive = place.fresh("tree.tar")
    tar = partial(run, ["tar", "-C", str(stores.tree), "-cf", str(archive), "."], place.env(place.scratch))
    contestants = [
        on_new_server(place, stores),
        *(on_new_repository(stores, name) for name in PEERS),
        Contestant(CASYNC, partial(stores.backup, "casync"), prepare=partial(stores.empty, "casync")),
        Contestant("tar (one file, not synced)", tar, tidy=archive.unlink),
    ]
    return Race(installed(contestants), absent=absent(one.name for one in contestants))


def archive_again(place: Place, stores: Stores) -> Race:
    """Row 2: everybody has seen the tree before, and nothing has changed."""
    flag = "--no-stat-cache"
    return Race([_ours(place, stores), _ours(place, stores, flag), *_peers(stores)], absent=absent(PEERS))


def archive_changed(place: Place, stores: Stores) -> Race:
    """Row 3: everybody has seen the tree before; then, before each turn, some files change."""
    changer = Changer(stores.tree, CHANGED)
    contestants = [_ours(place, stores), *_peers(stores)]
    return Race(contestants, before_turn=lambda _turn: changer.change(), absent=absent(PEERS))


def on_new_server(place: Place, stores: Stores) -> Contestant:
    """Return ours with an empty server and an empty stat cache for each run."""
    return Contestant(
        OURS,
        lambda: place.ours(OURS, archive_of(stores.tree), stores.server, stores.cache),
        prepare=stores.empty_server,
    )


def on_new_repository(stores: Stores, name: str) -> Contestant:
    """Return a peer that gets a new repository for each run."""
    return Contestant(name, partial(stores.backup, name), is_peer=True, prepare=partial(stores.empty, name))


def archive_of(tree: Path) -> list[str]:
    return ["isolate", "archive", str(tree)]


def _ours(place: Place, stores: Stores, *flags: str) -> Contestant:
    """Return ours with a server that holds the tree."""
    stores.archived()
    name, argv = " ".join((OURS, *flags)), [*archive_of(stores.tree), *flags]
    return Contestant(name, lambda: place.ours(name, argv, stores.server, stores.cache))


def _peers(stores: Stores) -> list[Contestant]:
    """Return all peers but casync, which reads all of the tree again and syncs nothing: row 1 says what that costs."""
    return [Contestant(name, partial(stores.backup, name), is_peer=True) for name, _ in stores.holders(PEERS)]
