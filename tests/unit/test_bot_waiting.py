"""Waiting for one of two things."""

from __future__ import annotations

import asyncio

import pytest

from swarming.bot.waiting import pause, unless
from tests.clock import ManualClock
from tests.unit.bot_doubles import until


async def test_a_pause_ends_with_its_time_or_with_the_event() -> None:
    clock, event = ManualClock(), asyncio.Event()
    waiting = asyncio.create_task(pause(clock, 5, event))
    await until(lambda: bool(clock._sleepers))
    clock.advance(5)
    assert await waiting is False
    waiting = asyncio.create_task(pause(clock, 5, event))
    await asyncio.sleep(0)
    event.set()
    assert await waiting is True


async def test_work_is_cancelled_by_the_event() -> None:
    event, log = asyncio.Event(), []

    async def work() -> int:
        try:
            await asyncio.Event().wait()
        finally:
            log.append("cancelled")
        return 1

    waiting = asyncio.create_task(unless(event, work()))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    event.set()
    assert await waiting is None
    assert log == ["cancelled"]


async def test_what_work_raises_is_raised() -> None:
    async def work() -> int:
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        await unless(asyncio.Event(), work())


async def test_whoever_waits_can_be_cancelled() -> None:
    waiting = asyncio.create_task(unless(asyncio.Event(), asyncio.Event().wait()))
    await asyncio.sleep(0)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert asyncio.all_tasks() == {asyncio.current_task()}
