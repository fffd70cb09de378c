"""Retries: how often, how long, how spread out, and the loop that keeps to it.

Knows not what is retried: it is whatever raises Unavailable. Time and randomness are arguments.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TypeVar

from isolate.clock import Clock
from isolate.errors import Unavailable
from isolate.monitor import Monitor

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """How often and how long a call is repeated that the other side could not answer."""

    attempts: int = 5
    total_s: float = 60.0
    first_delay_s: float = 0.25
    max_delay_s: float = 10.0

    def delay_s(self, attempt: int, draw: float, asked_s: float | None) -> float:
        """Return the pause after failure number `attempt` (from 1); `draw` in 0…1 spreads out a crowd of clients."""
        backoff_s = min(self.max_delay_s, self.first_delay_s * 2.0 ** (attempt - 1))
        return backoff_s * (0.5 + draw) if asked_s is None else asked_s + backoff_s * draw


class Retrier:
    """Repeats calls as a policy says; `draw` gives the jitter, a number in 0…1."""

    def __init__(
        self, policy: RetryPolicy, clock: Clock, monitor: Monitor, draw: Callable[[], float] = random.random
    ) -> None:
        self._policy = policy
        self._clock = clock
        self._monitor = monitor
        self._draw = draw

    async def __call__(
        self,
        call: Callable[[], Awaitable[T]],
        attempts: int | None = None,
        may_retry: Callable[[], bool] = lambda: True,
    ) -> T:
        """Return what `call` returns, repeating it while it raises Unavailable and the policy allows.

        `attempts` overrides the policy's; `may_retry` is asked before each repetition.
        """
        started = self._clock.monotonic()
        for attempt in itertools.count(1):
            try:
                return await call()
            except Unavailable as error:
                delay_s = self._policy.delay_s(attempt, self._draw(), error.retry_after_s)
                too_late = self._clock.monotonic() - started + delay_s > self._policy.total_s
                if attempt >= (attempts or self._policy.attempts) or too_late or not may_retry():
                    if error.retry_after_s is None or delay_s <= self._policy.max_delay_s:
                        raise
                    asked = f"{error}; it asks to come again in {_wait_text(error.retry_after_s)}"
                    raise Unavailable(asked, error.retry_after_s) from error
            self._monitor.count("retried_requests")
            await self._clock.sleep(delay_s)
        raise AssertionError("unreachable")


def _wait_text(wait_s: float) -> str:
    """Return how long to wait, in the unit that a person would use."""
    for unit, unit_s in (("days", 86_400), ("hours", 3_600), ("minutes", 60)):
        if wait_s >= 2 * unit_s:
            return f"{wait_s / unit_s:.0f} {unit}"
    return f"{wait_s:.0f} seconds"
