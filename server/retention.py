"""How long tasks, what they printed and what happened to bots are kept, and their deletion at an easy pace.

Knows no SQL and no file. Each step is small and followed by a pause, so that nobody who works waits for it; what one
round does not get to is old enough for the next.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from isolate.clock import Clock
from swarming.store import OutputStore, Retention

DAY_S = 86_400.0


@dataclass(frozen=True, slots=True, kw_only=True)
class RetentionPolicy:
    """What is kept for how long; the defaults are those of 2020."""

    tasks_s: float = 18 * 31 * DAY_S
    events_s: float = 366 * DAY_S
    # A result may answer younger tasks for so long, and then its output has to be there as long as they are.
    reuse_s: float = 8 * DAY_S
    step: int = 100  # tasks of one transaction: ~10 ms
    pause_s: float = 0.2  # after each step: at most 500 tasks a second go
    steps: int = 250  # of one round


class Sweeper:
    """Deletes what is old."""

    def __init__(self, store: Retention, outputs: OutputStore, clock: Clock, policy: RetentionPolicy) -> None:
        self._store, self._outputs, self._clock = store, outputs, clock
        self.policy = policy

    async def run(self) -> int:
        """Do one round; returns how many things were deleted."""
        policy, now = self.policy, self._clock.now()
        count = await self._repeat(lambda: self._store.forget_tasks(now - policy.tasks_s, policy.step))
        count += await self._repeat(lambda: self._store.forget_events(now - policy.events_s, policy.step))
        return count + await self._outputs.forget(now - policy.tasks_s - policy.reuse_s)

    async def _repeat(self, step: Callable[[], Awaitable[int]]) -> int:
        total = 0
        for _ in range(self.policy.steps):
            count = await step()
            total += count
            if not count:
                break
            await self._clock.sleep(self.policy.pause_s)
        return total
