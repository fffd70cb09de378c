"""Whether files of the cache are what a kept tree was told of them: looked at by us and, if many, by others beside us.

Knows no tree. Facts are held where no command can change them: in memory, or in a file without a name. The invariant:
what is not called differing was seen, after the look was begun, to be as its fact says; what another process found to
differ, or had no time to say, is looked at here.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from typing import TYPE_CHECKING, Self

from isolate.cas.cache import LocalCache
from isolate.cas.cache_files import key_of
from isolate.cas.cache_index import Row
from isolate.cas.cache_names import NEVER_NS, differing
from isolate.spool import Spool
from run_isolated.facts import Fact, Facts
from run_isolated.linked import HELD_FILES, Variant
from run_isolated.looker import COMMAND_LINE, batch_of
from run_isolated.stopping import Check, go_on

if TYPE_CHECKING:  # few trees are so large
    from run_isolated.beside import Helper

PIECE = 2048  # facts that are looked at in one go: 7 ms
MIN_SHARED_OUT = 10_000  # facts: 35 ms of work, while starting a process that helps takes 20
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
    """One look at all that is `expected`, begun now, and at what is added to that; a context manager."""

    def __init__(
        self,
        cache: LocalCache,
        expected: Expected,
        before_ns: int = NEVER_NS,
        check: Check = go_on,
        *,
        may_start: bool = True,
    ) -> None:
        """A file with a ctime of `before_ns` or later differs; `check` may raise while we wait for another process.

        None is started unless we `may_start` some.
        """
        self._cache, self._expected, self._before_ns, self._check = cache, expected, before_ns, check
        self._may_start = may_start
        self._begun = 0  # pieces
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
        self.expect(self._expected.files)
        self.go_on()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def expect(self, files: int) -> None:
        """Hear that there are so many files, or more: who helps is started for many."""
        if self._may_start and files >= MIN_SHARED_OUT and not self._helpers and self._files != _NOTHING:
            from run_isolated.beside import start_helpers

            self._helpers = start_helpers(self._stack, COMMAND_LINE, self._check, (self._files,))

    def go_on(self) -> None:
        """Give others something to do, if there are any: to be called now and then while we do something else."""
        for helper in self._helpers:
            self._doubtful += helper.collect(wait=False)
            while helper.is_waiting and (number := self._next()) is not None:
                helper.give(range(number, number + 1), self._batch(number))

    def differing(self) -> Iterator[list[Variant]]:
        """Yield the files that are not what they were, some at a time."""
        for facts in self.untrue():
            yield [fact.variant for fact in facts]

    def untrue(self) -> Iterator[list[Fact]]:
        """Yield what is not true any more of them, some at a time."""
        self.go_on()
        while (number := self._next()) is not None:
            yield from self._seen(number)
            self.go_on()
        for helper in self._helpers:
            self._doubtful += helper.collect(wait=True)
            self._doubtful += helper.left()
        while self._doubtful:
            yield from self._seen(self._doubtful.pop())

    def begin_anew(self, expected: Expected) -> None:
        """Look at what is `expected` now; to be called when all that differed is known."""
        self._expected, self._begun = expected, 0

    def _next(self) -> int | None:
        if self._begun == len(self._expected.pieces):
            return None
        self._begun += 1
        return self._begun - 1

    def _batch(self, number: int) -> bytes:
        return batch_of(self._expected.pieces[number], self._expected.facts.layout, self._before_ns)

    def _seen(self, number: int) -> Iterator[list[Fact]]:
        piece, facts = self._expected.pieces[number], self._expected.facts
        if others := differing(self._files, facts.layout.iter_unpack(piece), self._before_ns):
            told = list(facts.unpack(piece))
            yield [told[other] for other in others]


class Looks:
    """Looks at the files of one tree while they are looked up in the cache, as `Eyes`; a context manager."""

    def __init__(self, cache: LocalCache, check: Check = go_on) -> None:
        """`check` may raise while we wait for another process."""
        self._algorithm, self._temporary = cache.namespace.algorithm, cache.temporary
        self._expected = Expected(Facts(self._algorithm), self._temporary)
        self._look = Look(cache, self._expected, check=check)
        self._known_files, self._is_whole = 0, True

    def __enter__(self) -> Self:
        self._look.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        self._look.__exit__()

    def expect(self, files: int) -> None:
        """Hear that there are so many files, or more."""
        self._look.expect(files)

    def expected(self) -> Expected | None:
        """Return what all files are that were wanted; None when some were not as they were listed, or are too many."""
        return self._expected if self._is_whole else None

    def look(self, rows: Sequence[Row]) -> None:
        facts = ((size, mtime_ns, inode, key[-1] > 0, key[1:-1]) for key, size, mtime_ns, inode, _, _ in rows)
        self._expected.append(self._expected.facts.pack(facts))
        self._look.go_on()

    def differing(self, wanted: int, /) -> set[bytes]:
        found = {
            key_of(self._algorithm, blob.digest, executable=executable)
            for variants in self._look.differing()
            for blob, executable in variants
        }
        if found or self._expected.files - self._known_files != wanted or self._expected.files > HELD_FILES:
            self._is_whole = False
        if not self._is_whole:
            self._expected = Expected(self._expected.facts, self._temporary)
            self._look.begin_anew(self._expected)
        self._known_files = self._expected.files
        return found
