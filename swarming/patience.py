"""Going on with a server that was there and is not now: it is being restarted, or the way to it is interrupted.

Knows no call; what it repeats is whatever raises Unavailable. The invariants: a server that never answered fails at
once; an interruption is told once, however many calls meet it, and so is its end. Each server needs one of its own:
what one answers says nothing of another.
"""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable
from typing import TypeVar

from isolate.clock import Clock
from isolate.errors import Unavailable

T = TypeVar("T")

LONGEST_S = 360.0  # as long as the tools of 2020 go on
FIRST_PAUSE_S, MAX_PAUSE_S = 0.5, 10.0


class Patience:
    """Repeats calls through an interruption; `tell` is given a line for a user, `draw` jitter in 0…1.

    `known`: the server is taken to have answered before, others having talked to it.
    """

    def __init__(
        self,
        clock: Clock,
        tell: Callable[[str], None],
        draw: Callable[[], float] = random.random,
        *,
        known: bool = False,
    ) -> None:
        self._clock, self._tell, self._draw = clock, tell, draw
        self._ever_answered = known
        self._since_s: float | None = None  # when the interruption began

    async def __call__(self, call: Callable[[], Awaitable[T]]) -> T:
        """Return what `call` returns; raises Unavailable when the server never answered, or is gone for too long."""
        pause_s = FIRST_PAUSE_S
        while True:
            try:
                result = await call()
            except Unavailable as error:
                if not self._may_go_on(error):
                    raise
            else:
                self._answered()
                return result
            await self._clock.sleep(pause_s * (0.5 + self._draw()))
            pause_s = min(pause_s * 2, MAX_PAUSE_S)

    def _may_go_on(self, error: Unavailable) -> bool:
        if not self._ever_answered:
            return False
        if self._since_s is None:
            self._since_s = self._clock.monotonic()
            self._tell(f"{error}; trying again for {LONGEST_S / 60:.0f} minutes")
        return self._clock.monotonic() - self._since_s < LONGEST_S

    def _answered(self) -> None:
        if self._since_s is not None:
            self._since_s = None
            self._tell("The server answers again")
        self._ever_answered = True
