"""Descriptors and memory held back for what must be done in any case.

Knows no run. The invariant: once a reserve is released, as many files can be opened, and as much memory be used, as it
held, as long as nobody else in this process does.
"""

from __future__ import annotations

import os
from typing import Self

from isolate.errors import InternalFailure


class Reserve:
    """Some descriptors and some memory, until `release`."""

    def __init__(self) -> None:
        """Hold nothing; else use `take`."""
        self._held: list[int] = []
        self._memory = b""

    @classmethod
    def take(cls, count: int, size_bytes: int = 0) -> Self:
        """Hold `count` descriptors, and memory; raises InternalFailure when they cannot be had."""
        reserve = cls()
        try:
            reserve._memory = bytes(size_bytes)  # that nobody touches is no page of anything
            reserve._held.append(os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC))
            while len(reserve._held) < count:
                reserve._held.append(os.dup(reserve._held[0]))
        except OSError as error:
            reserve.release()
            raise InternalFailure(f"A run needs more descriptors than it may have: {error.strerror}") from error
        except MemoryError as error:
            raise InternalFailure("A run needs more memory than it may have") from error
        return reserve

    def release(self) -> None:
        """Let others have them; again is no harm."""
        self._memory = b""
        while self._held:
            os.close(self._held.pop())
