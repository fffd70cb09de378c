"""Who holds a tree: our server and the repositories of the peers, kept from row to row.

Filling a store takes as long as what most rows measure, so each is filled once: row 1 leaves behind those of its last
turn, and a row that needs one which is not there yet has it filled outside of the time. Knows no row. The invariant:
what a row gets holds the tree as it was when the store was last filled; rows that change the tree come last.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence

from bench.measure import Failed, Sample, run
from bench.peers import KEEPERS, Keeper, has
from bench.place import Place, Server


class Stores:
    """The stores of the tree of `place`, and in it."""

    def __init__(self, place: Place) -> None:
        self.tree = place.tree
        self._place = place
        self._server: Server | None = None
        self._end: Callable[[], None] | None = None
        self._keepers: dict[str, Keeper] = {}
        self._holding: set[str] = set()
        self.cache = place.fresh("cache")  # what our client remembers of the tree

    def empty_server(self) -> None:
        """Start our server with nothing in it and make our client forget; what was there before is dropped."""
        self.close_server()
        self._server, self._end = self._place.start()
        self.cache = self._place.fresh("cache")

    @property
    def server(self) -> Server:
        """Our server as it is; an empty one if there is none."""
        if self._server is None:
            self.empty_server()
        assert self._server is not None, "it was just started"
        return self._server

    def archived(self) -> str:
        """Bring the tree as it is now to our server, unless it is there; returns its hash."""
        env = self._place.env(self.cache, self.server.url)
        return run(["isolate", "archive", str(self.tree)], env).stdout.split()[0]

    def empty(self, name: str) -> None:
        """Make an empty repository of a peer in place of the one that was there."""
        self._forget(name)
        self._keepers[name] = KEEPERS[name](self._place)

    def backup(self, name: str) -> Sample:
        """Bring the tree into the repository of a peer."""
        sample = self._keepers[name].backup(self.tree)
        self._holding.add(name)
        return sample

    def holders(self, names: Sequence[str]) -> Iterator[tuple[str, Keeper]]:
        """Yield those of `names` that are installed, each with a repository that holds the tree."""
        for name in filter(has, names):
            try:
                if name not in self._holding:
                    self.empty(name)
                    self.backup(name)
            except Failed as error:
                print(f"{name} is left out: {error}", file=sys.stderr)
                continue
            yield name, self._keepers[name]

    def close_server(self) -> None:
        """End our server, and drop what it holds."""
        if self._end is not None:
            self._end()
            self._place.drop(self.cache)
        self._server = self._end = None

    def close(self) -> None:
        """End and drop all."""
        self.close_server()
        for name in list(self._keepers):
            self._forget(name)

    def _forget(self, name: str) -> None:
        self._holding.discard(name)
        if name in self._keepers:
            self._keepers.pop(name).remove()
