"""Background jobs: run each one on time for as long as the server lives, whatever happens to a single run.

Knows nothing of what the jobs do. The invariant: a job that raises is logged and runs again; a loop that was held up
(a suspended machine, a stopped process) is told to `on_pause` before the next run, because what happened meanwhile
was not heard by anybody (guarantee 8).
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from isolate.clock import Clock

PAUSE_S = 5.0  # late by more than this: the process did not run, so silence of bots proves nothing

log = logging.getLogger("server.jobs")


@dataclass(frozen=True, slots=True)
class Job:
    """Something to do again and again."""

    name: str
    every_s: float
    run: Callable[[], Awaitable[object]]


async def run_jobs(jobs: Sequence[Job], clock: Clock, on_pause: Callable[[], Awaitable[object]]) -> None:
    """Run every job until cancelled."""
    async with asyncio.TaskGroup() as group:
        for job in jobs:
            group.create_task(_repeat(job, clock), name=f"job {job.name}")
        group.create_task(_watch_pauses(clock, on_pause), name="job watch pauses")


async def _repeat(job: Job, clock: Clock) -> None:
    while True:
        await clock.sleep(job.every_s)
        await _survive(job.name, job.run)


async def _watch_pauses(clock: Clock, on_pause: Callable[[], Awaitable[object]]) -> None:
    while True:
        before_s, dated_s = clock.monotonic(), clock.now()
        await clock.sleep(1.0)
        paused_s = clock.monotonic() - before_s
        jumped_s = abs(clock.now() - dated_s - paused_s)  # somebody set the clock, or the machine slept
        if paused_s > PAUSE_S or jumped_s > PAUSE_S:
            log.warning("Did not run for %.0f s, or the clock was set by %.0f s: bots get new time", paused_s, jumped_s)
            await _survive("on_pause", on_pause)


async def _survive(name: str, run: Callable[[], Awaitable[object]]) -> None:
    try:
        await run()
    except Exception:
        log.exception("Job %s failed; it runs again", name)
