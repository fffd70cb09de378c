"""Retries: how often, how long, how spread out, and the loop that keeps to it.

Knows not what is retried: it is whatever raises Unavailable. Time and randomness are arguments.
"""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TypeVar

from isolate.clock import Clock
from isolate.errors import Unavailable
from isolate.monitor import Monitor

T = TypeVar("T")


BUSY_TOTAL_S = 300.0  # a full server lets callers wait for 30 s before it asks them to come again: several times that
QUIET_S = 10.0  # of waiting for who is busy, before it is told


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """How often and how long a call is repeated that the other side could not answer.

    Who answers that we should come again is there: that is no failed attempt, and ends by a time of its own. A policy
    of a single attempt repeats nothing at all.
    """

    attempts: int = 5  # that fail
    total_s: float = 60.0  # spent on those
    busy_total_s: float = BUSY_TOTAL_S  # spent on those that were asked to come again
    first_delay_s: float = 0.25
    max_delay_s: float = 10.0

    def delay_s(self, attempt: int, draw: float, asked_s: float | None) -> float:
        """Return the pause after failure number `attempt` (from 1); `draw` in 0…1 spreads out a crowd of clients."""
        backoff_s = min(self.max_delay_s, self.first_delay_s * 2.0 ** (attempt - 1))
        return backoff_s * (0.5 + draw) if asked_s is None else asked_s + backoff_s * draw


class BusyNotice:
    """Says once that who asks to come again is waited for, when that takes longer than people expect."""

    def __init__(self, monitor: Monitor, most_s: float = BUSY_TOTAL_S) -> None:
        self._monitor, self._most_s = monitor, most_s
        self._is_said = False

    def waited(self, error: Unavailable, waited_s: float) -> None:
        """Hear that it will have been waited for so long because of `error`."""
        if waited_s > QUIET_S and not self._is_said:
            self._is_said = True
            self._monitor.problem(f"{error}; waiting, for {_wait_text(self._most_s)} at most")


class Retrier:
    """Repeats calls as a policy says; `draw` gives the jitter, a number in 0…1."""

    def __init__(
        self, policy: RetryPolicy, clock: Clock, monitor: Monitor, draw: Callable[[], float] = random.random
    ) -> None:
        self._policy = policy
        self._clock = clock
        self._monitor = monitor
        self._draw = draw
        self._notice = BusyNotice(monitor, policy.busy_total_s)

    async def __call__(
        self,
        call: Callable[[], Awaitable[T]],
        attempts: int | None = None,
        may_retry: Callable[[], bool] = lambda: True,
    ) -> T:
        """Return what `call` returns, repeating it while it raises Unavailable and the policy allows.

        `attempts` overrides the policy's; `may_retry` is asked before each repetition.
        """
        most = attempts or self._policy.attempts
        failing, busy = _Spent(self._policy.total_s), _Spent(self._policy.busy_total_s)
        while True:
            started_s = self._clock.monotonic()
            try:
                return await call()
            except Unavailable as error:
                spent = failing if error.retry_after_s is None else busy
                spent.add(self._clock.monotonic() - started_s)
                delay_s = self._policy.delay_s(spent.attempts, self._draw(), error.retry_after_s)
                is_last = most == 1 or failing.attempts >= most or not spent.allows(delay_s)
                if is_last or not may_retry():
                    if error.retry_after_s is None:
                        raise
                    asked = self._asked_text(error.retry_after_s, busy.total_s)
                    raise Unavailable(f"{error}{asked}", error.retry_after_s, busy.total_s) from error
                spent.add(delay_s, attempts=0)
                self._notice.waited(error, busy.total_s)
            self._monitor.count("retried_requests")
            await self._clock.sleep(delay_s)

    def _asked_text(self, asked_s: float, waited_s: float) -> str:
        """Return what to say of the wait that is given up."""
        if asked_s > self._policy.max_delay_s:
            return f"; it asks to come again in {_wait_text(asked_s)}"
        return f"; waited for {_wait_text(waited_s)}" if waited_s > QUIET_S else ""


class _Spent:
    """What was spent on attempts of one kind, in seconds."""

    def __init__(self, most_s: float) -> None:
        self.attempts, self.total_s = 0, 0.0
        self._most_s = most_s

    def add(self, seconds: float, attempts: int = 1) -> None:
        self.attempts += attempts
        self.total_s += seconds

    def allows(self, delay_s: float) -> bool:
        return self.total_s + delay_s <= self._most_s


def _wait_text(wait_s: float) -> str:
    """Return how long to wait, in the unit that a person would use."""
    for unit, unit_s in (("days", 86_400), ("hours", 3_600), ("minutes", 60)):
        if wait_s >= 2 * unit_s:
            return f"{wait_s / unit_s:.0f} {unit}"
    return f"{wait_s:.0f} seconds"
