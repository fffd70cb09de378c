"""Background jobs: run each one on time for as long as the server lives, whatever happens to a single run.

Knows nothing of what the jobs do. The invariant: a job that raises is logged and runs again.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from isolate.clock import Clock

log = logging.getLogger("server.jobs")


@dataclass(frozen=True, slots=True)
class Job:
    """Something to do again and again."""

    name: str
    every_s: float
    run: Callable[[], Awaitable[object]]


async def run_jobs(jobs: Sequence[Job], clock: Clock) -> None:
    """Run every job until cancelled."""
    async with asyncio.TaskGroup() as group:
        for job in jobs:
            group.create_task(_repeat(job, clock), name=f"job {job.name}")


async def _repeat(job: Job, clock: Clock) -> None:
    while True:
        await clock.sleep(job.every_s)
        try:
            await job.run()
        except Exception:
            log.exception("Job %s failed; it runs again in %s s", job.name, job.every_s)
