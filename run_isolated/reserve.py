"""Descriptors held back for what must be done in any case.

Knows no run. The invariant: whoever got a reserve can open as many files as it holds once it is released, as long as
nobody else in this process does.
"""

from __future__ import annotations

import os
from typing import Self

from isolate.errors import InternalFailure


class Reserve:
    """Some descriptors, until `release`."""

    def __init__(self, held: list[int]) -> None:
        """Use `take`."""
        self._held = held

    @classmethod
    def take(cls, count: int) -> Self:
        """Hold `count` descriptors; raises InternalFailure when there are not that many."""
        reserve = cls([])
        try:
            reserve._held.append(os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC))
            while len(reserve._held) < count:
                reserve._held.append(os.dup(reserve._held[0]))
        except OSError as error:
            reserve.release()
            raise InternalFailure(f"A run needs more descriptors than it may have: {error.strerror}") from error
        return reserve

    def release(self) -> None:
        """Let others have them; again is no harm."""
        while self._held:
            os.close(self._held.pop())
