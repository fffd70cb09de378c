"""Rows 1 to 3: a tree into a store: for the first time, again, and again after some files changed."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

from bench.goals import OURS
from bench.measure import Contestant, Race, run
from bench.peers import Borg, Casync, Keeper, Ostree, Restic, installed, keepers
from bench.place import Place, Server
from bench.tree import Changer

CASYNC = "casync (not synced)"  # shown for scale: what it says is stored may not survive a power cut
CHANGED = 0.01  # of the files, before each turn of row 3


def archive_cold(place: Place) -> Race:
    """Row 1: nothing is known to anybody; ours is verified and durable at the end."""
    archive = place.fresh("tree.tar")
    tar = partial(run, ["tar", "-C", str(place.tree), "-cf", str(archive), "."], place.env(place.scratch))
    return Race(
        installed(
            [
                on_new_server(place, place.tree),
                _cold(place, "restic", Restic),
                _cold(place, "borg", Borg),
                _cold(place, "ostree", partial(Ostree, mode="bare-user")),
                _cold(place, CASYNC, Casync, is_peer=False),
                Contestant("tar (one file, not synced)", tar, tidy=archive.unlink),
            ]
        )
    )


def archive_again(place: Place) -> Race:
    """Row 2: everybody has seen the tree before, and nothing has changed."""
    return Race(_seen(place, place.tree))


def archive_changed(place: Place) -> Race:
    """Row 3: everybody has seen the tree before; then, before each turn, some files change."""
    tree = place.copy()
    changer = Changer(tree, CHANGED)
    contestants = _seen(place, tree)
    return Race(contestants, before_turn=lambda _turn: changer.change())


def on_new_server(place: Place, tree: Path) -> Contestant:
    """Return ours with an empty server and an empty stat cache for each run."""
    servers: list[tuple[Server, Callable[[], None]]] = []

    def end() -> None:
        servers.pop()[1]()

    return Contestant(
        OURS,
        lambda: place.ours(OURS, archive_of(tree), servers[-1][0], place.fresh("cache")),
        prepare=lambda: servers.append(place.start()),
        tidy=end,
    )


def archive_of(tree: Path) -> list[str]:
    return ["isolate", "archive", str(tree)]


def _cold(place: Place, name: str, make: Callable[[Place], Keeper], *, is_peer: bool = True) -> Contestant:
    """Return a peer that gets a new repository for each run."""
    current: list[Keeper] = []
    return Contestant(
        name,
        lambda: current[-1].backup(place.tree),
        is_peer=is_peer,
        prepare=lambda: current.append(make(place)),
        tidy=lambda: current.pop().remove(),
    )


def _seen(place: Place, tree: Path) -> list[Contestant]:
    """Return everybody, each with a store that holds `tree`."""
    contestants = []
    # Each with a server of its own: else the second would find what the first has just brought.
    for name, flags in ((OURS, []), ("isolate --no-stat-cache", ["--no-stat-cache"])):
        server, cache = place.server(), place.fresh("cache")
        run([*archive_of(tree), *flags], place.env(cache, server.url))
        argv = [*archive_of(tree), *flags]
        contestants.append(Contestant(name, partial(place.ours, name, argv, server, cache)))
    for name, keeper in keepers(place, compressing=False).items():
        place.stack.callback(keeper.remove)
        if isinstance(keeper, Casync):
            continue  # it reads all of the tree again, and syncs nothing: row 1 says what that costs
        keeper.backup(tree)
        contestants.append(Contestant(name, partial(keeper.backup, tree), is_peer=True))
    return contestants
