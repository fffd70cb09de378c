"""The links of a tree, made by several processes at once.

Knows no cache and no plan; the processes are those of beside.py. The invariants: each link is made by exactly one
process; when `Linkers.make` returns or `end` does, nobody makes links any more; what another process did not link, for
whatever reason, is tried again here, where the reason is dealt with.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import Self

from run_isolated.beside import start_helpers
from run_isolated.linker import COMMAND_LINE, batch_of
from run_isolated.many_links import Places
from run_isolated.stopping import Check, go_on

BATCH = 512  # links that another process makes in one go
OWN_BATCH = 64  # links of ours between looks at the others


class Linkers:
    """Processes that link files below one directory to names below another; a context manager."""

    def __init__(self, count: int | None = None, check: Check = go_on) -> None:
        """Start `count` of them, by default as many as are of use; `check` may raise."""
        self._stack = ExitStack()
        self._started = start_helpers(self._stack, COMMAND_LINE, check, count=count)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.end()

    def end(self) -> None:
        """Return when nobody makes links any more; whatever is asked for then is made by us alone."""
        self._started = []
        self._stack.close()

    def make(
        self,
        places: Places,
        numbers: range,
        sources: Sequence[str],
        paths: Sequence[str],
        make_one: Callable[[int], None],
        prepare: Callable[[int], None] = lambda _number: None,
    ) -> None:
        """Link those of `sources` that have these numbers to the paths beside them; `make_one` makes one here.

        Before a link is made, here or elsewhere, `prepare` is called with a number above its own: what it needs is to
        be there then. After an error nobody makes links any more, as after `end`.
        """
        try:
            self._share_out(places, _Todo(numbers, prepare), sources, paths, make_one)
            for linker in self._started:
                for failed in linker.collect(wait=True):
                    make_one(failed)
                for number in linker.left():
                    if not _is_made(f"{places.files}/{sources[number]}", f"{places.root}/{paths[number]}"):
                        make_one(number)
        except BaseException:
            self.end()
            raise

    def _share_out(
        self,
        places: Places,
        todo: _Todo,
        sources: Sequence[str],
        paths: Sequence[str],
        make_one: Callable[[int], None],
    ) -> None:
        while ours := todo.take(OWN_BATCH):
            for linker in self._started:
                for failed in linker.collect(wait=False):
                    make_one(failed)
                while linker.is_waiting and (batch := todo.take(BATCH)):
                    part = slice(batch.start, batch.stop)
                    linker.give(batch, batch_of(places.files, places.root, [*sources[part], *paths[part]]))
            for number in ours:
                make_one(number)


def _is_made(source: str, path: str) -> bool:
    """Whether a process that is no more, and that had no time to say so, made this link."""
    try:
        return os.path.samestat(os.lstat(path), os.lstat(source))
    except OSError:  # whoever makes it sees why
        return False


class _Todo:
    """Numbers, given out in turn, when all is prepared for them."""

    def __init__(self, numbers: range, prepare: Callable[[int], None]) -> None:
        self._left, self._prepare = numbers, prepare

    def take(self, count: int) -> range:
        taken, self._left = self._left[:count], self._left[count:]
        if taken:
            self._prepare(taken.stop)
        return taken
