"""Waiting for one of two things, without leaving the other behind.

Knows nothing of what is waited for. The invariant: when a function here returns or is cancelled, nothing it started is
still running.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

from isolate.clock import Clock

T = TypeVar("T")


async def pause(clock: Clock, delay_s: float, event: asyncio.Event) -> bool:
    """Return after `delay_s`, or earlier when `event` is set; say whether it is."""
    await unless(event, clock.sleep(delay_s))
    return event.is_set()


async def unless(event: asyncio.Event, work: Coroutine[Any, Any, T]) -> T | None:
    """Return or raise what `work` does; None when `event` came first, `work` being cancelled then."""
    working = asyncio.ensure_future(work)
    ringing = asyncio.ensure_future(event.wait())
    try:
        await asyncio.wait((working, ringing), return_when=asyncio.FIRST_COMPLETED)
        return working.result() if working.done() else None
    finally:
        ringing.cancel()
        working.cancel()
        await asyncio.wait((working, ringing))


async def within(clock: Clock, limit_s: float, work: Coroutine[Any, Any, T]) -> T:
    """Return or raise what `work` does; raises TimeoutError after `limit_s`, `work` being cancelled then."""
    working = asyncio.ensure_future(work)
    ticking = asyncio.ensure_future(clock.sleep(limit_s))
    try:
        await asyncio.wait((working, ticking), return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            raise TimeoutError
        return working.result()
    finally:
        ticking.cancel()
        working.cancel()
        await asyncio.wait((working, ticking))
