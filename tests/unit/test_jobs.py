"""Background jobs."""

from __future__ import annotations

import asyncio

import pytest

from server.jobs import Job, run_jobs
from tests.clock import ManualClock


async def settle() -> None:
    for _ in range(10):
        await asyncio.sleep(0)


async def test_a_job_that_fails_runs_again(caplog: pytest.LogCaptureFixture) -> None:
    clock, ran = ManualClock(), []

    async def job() -> None:
        ran.append(clock.monotonic())
        raise RuntimeError("no luck")

    async with asyncio.TaskGroup() as group:
        running = group.create_task(run_jobs([Job("unlucky", 2.0, job)], clock))
        await settle()
        for _ in range(3):
            clock.advance(2.0)
            await settle()
        running.cancel()
    assert ran == [2.0, 4.0, 6.0]
    assert caplog.text.count("Job unlucky failed") == 3


async def test_jobs_have_their_own_pace_and_end_with_their_owner() -> None:
    clock = ManualClock()
    ran: list[str] = []

    def job(name: str, every_s: float) -> Job:
        async def run() -> None:
            ran.append(name)

        return Job(name, every_s, run)

    async with asyncio.TaskGroup() as group:
        running = group.create_task(run_jobs([job("a", 1.0), job("b", 2.0)], clock))
        await settle()
        for _ in range(4):
            clock.advance(1.0)
            await settle()
        running.cancel()
        await settle()
        clock.advance(10.0)
        await settle()
    assert (ran.count("a"), ran.count("b")) == (4, 2)
