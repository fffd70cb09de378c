"""Who makes the links of one tree besides the run itself: nobody, unless there are many.

Knows no cache and no plan. The invariants: processes are started as soon as the tree is known to be large, before most
of it is in memory, since a process that is being born counts as one of our size until it is a program of its own; they
are gone when the context is left, or after `end`, also one that a thread which nobody waits for would start after that.
"""

from __future__ import annotations

from threading import Lock
from typing import TYPE_CHECKING, NamedTuple, Self

from run_isolated.stopping import Check, go_on

if TYPE_CHECKING:
    from run_isolated.linking import Linkers

MIN_SHARED_OUT = 10_000  # links: 0.1 s of work, while starting a process that helps takes 0.02 s


class Places(NamedTuple):
    """The directories that sources and paths of links are relative to."""

    files: str
    root: str


class ManyLinks:
    """The processes for one tree; a context manager."""

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
