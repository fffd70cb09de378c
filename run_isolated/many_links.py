"""Who makes the links of one tree, and looks at its files in the cache, besides the run itself: nobody, unless many.

Knows no index and no plan. The invariants: processes are started as soon as the tree is known to be large, before most
of it is in memory, since a process that is being born counts as one of our size until it is a program of its own; they
are gone when the context is left, or after `end`, also one that a thread which nobody waits for would start after that.
"""

from __future__ import annotations

from contextlib import ExitStack
from threading import Lock
from typing import TYPE_CHECKING, NamedTuple, Self

from isolate.cas.cache import LocalCache
from run_isolated.stopping import Check, go_on

if TYPE_CHECKING:
    from run_isolated.linking import Linkers
    from run_isolated.looking import Expected, Looks

MIN_SHARED_OUT = 10_000  # links: 0.1 s of work, while starting a process that helps takes 0.02 s; or looks: 0.04 s


class Places(NamedTuple):
    """The directories that sources and paths of links are relative to."""

    files: str
    root: str


class ManyLinks:
    """The processes that make the links of one tree; a context manager."""

    def __init__(self, check: Check = go_on) -> None:
        """`check` is called while a process is waited for, and may raise."""
        self._check = check
        self._mutex, self._is_over = Lock(), False
        self._linkers: Linkers | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.end()

    def end(self) -> None:
        """Return when none of them is left, and none will be started."""
        with self._mutex:
            self._is_over = True
        if self._linkers is not None:
            self._linkers.end()

    def expect(self, names: int) -> None:
        """Hear that the tree has so many names, or more; from any thread."""
        if names < MIN_SHARED_OUT:
            return
        with self._mutex:
            if self._linkers is None and not self._is_over:
                from run_isolated.linking import Linkers  # few trees are so large

                self._linkers = Linkers(check=self._check)

    def for_links(self, count: int) -> Linkers | None:
        """Return who can help with so many links, None when they are too few or were not to be expected."""
        return None if count < MIN_SHARED_OUT else self._linkers


class ManyLooks:
    """The processes that look at the files of one tree; a context manager, for one thread."""

    def __init__(self, cache: LocalCache, check: Check = go_on) -> None:
        """`check` is called while a process is waited for, and may raise."""
        self._cache, self._check = cache, check
        self._stack = ExitStack()
        self._looks: Looks | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def expect(self, names: int) -> None:
        """Hear that the tree has so many names, or more."""
        if names >= MIN_SHARED_OUT and self._looks is None:
            from run_isolated.looking import Looks  # few trees are so large

            self._looks = self._stack.enter_context(Looks(self._cache, self._check))
            self._looks.expect(names)

    def eyes(self) -> Looks | None:
        """Return who looks; None when the cache does that itself."""
        return self._looks

    def expected(self) -> Expected | None:
        """Return what all the files are that were found; None when that is not known."""
        return None if self._looks is None else self._looks.expected()
