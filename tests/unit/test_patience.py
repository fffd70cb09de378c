"""swarming.patience: interruptions are survived and told once; a server that never was there fails at once."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

import pytest

from isolate.errors import NotFound, Unavailable
from swarming.patience import LONGEST_S, Patience
from tests.clock import ManualClock

T = TypeVar("T")


class Flaky:
    """A call that fails as often as it is told to."""

    def __init__(self, failures: int = 0) -> None:
        self.failures, self.calls = failures, 0

    async def __call__(self) -> str:
        self.calls += 1
        if self.failures:
            self.failures -= 1
            raise Unavailable("Cannot reach http://x: connection refused")
        return "answer"


async def passing(clock: ManualClock, call: Callable[[], Awaitable[T]]) -> T:
    """Await `call` while time passes."""

    async def run() -> T:
        return await call()

    task = asyncio.ensure_future(run())
    while not task.done():
        await asyncio.sleep(0)
        clock.advance(0.5)
    return await task


async def test_a_server_that_never_answered_fails_at_once() -> None:
    call = Flaky(failures=1)
    with pytest.raises(Unavailable):
        await Patience(ManualClock(), pytest.fail)(call)
    assert call.calls == 1


async def test_an_interruption_is_survived_and_told_once() -> None:
    clock, said = ManualClock(), list[str]()
    patience = Patience(clock, said.append, lambda: 0.5)
    assert await patience(Flaky()) == "answer"
    answers = await asyncio.gather(*(passing(clock, lambda: patience(Flaky(failures=3))) for _ in range(4)))
    assert answers == ["answer"] * 4
    assert said == ["Cannot reach http://x: connection refused; trying again for 6 minutes", "The server answers again"]


async def test_patience_ends() -> None:
    clock, said = ManualClock(), list[str]()
    patience = Patience(clock, said.append, lambda: 0.5)
    await patience(Flaky())
    with pytest.raises(Unavailable):
        await passing(clock, lambda: patience(Flaky(failures=10**6)))
    assert clock.monotonic() >= LONGEST_S
    assert len(said) == 1


async def test_what_is_no_interruption_passes_through() -> None:
    async def missing() -> None:
        raise NotFound("Task x not found")

    with pytest.raises(NotFound):
        await Patience(ManualClock(), pytest.fail)(missing)
