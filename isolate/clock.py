"""Time as an argument: the only door to the system's clocks.

Knows nothing of who waits and why; `monotonic` measures durations, `now` dates events, and the two are never mixed.
"""

from __future__ import annotations

import time
from typing import Protocol


class Clock(Protocol):
    """Where the time comes from."""

    def now(self) -> float:
        """Return the wall-clock time in seconds since the epoch, UTC."""
        ...

    def monotonic(self) -> float:
        """Return seconds that never go back, for durations only."""
        ...

    async def sleep(self, delay_s: float) -> None:
        """Return after `delay_s` seconds of this clock."""
        ...


class SystemClock:
    """The clocks of this machine."""

    def now(self) -> float:
        # Whole microseconds, as replies show them: who asks for what is not older than a time it was shown gets it.
        return time.time_ns() // 1000 / 1e6

    def monotonic(self) -> float:
        return time.monotonic()

    async def sleep(self, delay_s: float) -> None:
        import asyncio  # who sleeps has it, and not everybody sleeps

        await asyncio.sleep(delay_s)
