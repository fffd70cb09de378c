"""What takes long for a large tree ends early when nobody wants it any more.

Knows no signal and no loop: who does the work calls a `Check` now and then, and that raises. The invariant: what is
stopped has left things as any other error would, for its caller to undo.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

T = TypeVar("T")
Check = Callable[[], None]  # raises when what is being done is wanted no more


def go_on() -> None:
    """Be the check of work that is always wanted."""


def checked(items: Iterable[T], check: Check) -> Iterator[T]:
    """Yield `items` as long as they are wanted."""
    for item in items:
        check()
        yield item
