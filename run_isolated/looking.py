"""Whether files of the cache are what a kept tree was told of them: looked at by us and, if many, by others beside us.

Knows no tree. Facts are held where no command can change them: in memory, or in a file without a name. The invariant:
what is not called differing was seen, after the look was begun, to be as its fact says; what another process found to
differ, or had no time to say, is looked at here.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import TYPE_CHECKING, Self

from isolate.cas.cache import LocalCache
from isolate.spool import Spool
from run_isolated.facts import Facts
from run_isolated.linked import Variant
from run_isolated.looker import COMMAND_LINE, batch_of, differing
from run_isolated.stopping import Check, go_on

if TYPE_CHECKING:  # few trees are so large
    from run_isolated.beside import Helper

PIECE = 2048  # facts that are looked at in one go: 7 ms
MIN_SHARED_OUT = 10_000  # facts: 35 ms of work, while starting a process that helps takes 20
NEVER_NS = (1 << 63) - 1  # no ctime is later
_NOTHING = -1  # a descriptor in which there is no file


class Expected:
    """Files of the cache that a tree shares, each with what is known of it."""

    def __init__(self, facts: Facts, temporary: Callable[[], str]) -> None:
        """`temporary` returns a path for a new file."""
        self.facts, self.files = facts, 0
        self.pieces = Spool(temporary)

    def append(self, packed: bytes) -> None:
        """Take the next list of facts; raises InvalidRecord."""
        self.files += self.facts.count(packed)
        step = PIECE * self.facts.fact_bytes
        for start in range(0, len(packed), step):
            self.pieces.append(packed[start : start + step])

    def __iter__(self) -> Iterator[list[Variant]]:
        """Yield the files, some at a time."""
        for piece in self.pieces:
            yield self.facts.variants(piece)


class Look:
    """One look at all that is `expected`, begun now; a context manager."""

    def __init__(self, cache: LocalCache, expected: Expected, before_ns: int = NEVER_NS, check: Check = go_on) -> None:
        """A file with a ctime of `before_ns` or later differs; `check` may raise while we wait for another process."""
        self._cache, self._expected, self._before_ns, self._check = cache, expected, before_ns, check
        self._todo = iter(range(len(expected.pieces)))
        self._stack, self._files = ExitStack(), _NOTHING
        self._helpers: list[Helper] = []
        self._doubtful: list[int] = []  # pieces that another process found to differ

    def __enter__(self) -> Self:
        folder = self._cache.files_dir / self._cache.namespace.algorithm.name
        try:
            self._files = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError:  # then all of them differ
            return self
        self._stack.callback(os.close, self._files)
        if self._expected.files >= MIN_SHARED_OUT:
            from run_isolated.beside import start_helpers

            self._helpers = start_helpers(self._stack, COMMAND_LINE, self._check, (self._files,))
            self.go_on()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def go_on(self) -> None:
        """Give others something to do, if there are any: to be called now and then while we do something else."""
        for helper in self._helpers:
            self._doubtful += helper.collect(wait=False)
            while helper.is_waiting and (number := next(self._todo, None)) is not None:
                helper.give(range(number, number + 1), self._batch(number))

    def differing(self) -> Iterator[list[Variant]]:
        """Yield the files that are not what they were, some at a time."""
        self.go_on()
        while (number := next(self._todo, None)) is not None:
            yield from self._seen(number)
            self.go_on()
        for helper in self._helpers:
            self._doubtful += helper.collect(wait=True)
            self._doubtful += helper.left()
        while self._doubtful:
            yield from self._seen(self._doubtful.pop())

    def _batch(self, number: int) -> bytes:
        return batch_of(self._expected.pieces[number], self._expected.facts.layout, self._before_ns)

    def _seen(self, number: int) -> Iterator[list[Variant]]:
        piece, facts = self._expected.pieces[number], self._expected.facts
        if others := differing(self._files, piece, facts.layout, self._before_ns):
            variants = facts.variants(piece)
            yield [variants[other] for other in others]
