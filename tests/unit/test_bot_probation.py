"""When a version on trial has shown that it works: a scripted server, a pipe for a guard, a clock moved by hand."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from swarming.bot import slots
from swarming.bot.probation import Guardian, Proving
from swarming.bot.protocol import Hello
from tests.clock import ManualClock
from tests.unit.bot_doubles import ScriptedApi

HELLO = Hello({}, {}, "v")
TRIED_S = 300.0
END = {"duration": 1.0, "exit_code": 0}


class Trial:
    """A version under a guard."""

    def __init__(self) -> None:
        self._told, self._tell = os.pipe()
        os.set_blocking(self._told, False)
        self.clock = ManualClock()
        self.calls = Proving(ScriptedApi(), Guardian(self._tell), self.clock, TRIED_S)

    def works(self) -> bool:
        """Say whether the guard was told so since the last time."""
        try:
            return slots.WORKS.encode() in os.read(self._told, 4096).split()
        except BlockingIOError:
            return False

    def close(self) -> None:
        os.close(self._told)
        os.close(self._tell)


@pytest.fixture
def trial() -> Iterator[Trial]:
    found = Trial()
    yield found
    found.close()


async def test_a_task_that_ended_is_not_enough(trial: Trial) -> None:
    await trial.calls.poll(HELLO)
    await trial.calls.update("t", END)
    trial.clock.advance(TRIED_S - 1)
    await trial.calls.poll(HELLO)
    assert not trial.works()
    trial.clock.advance(1)
    await trial.calls.poll(HELLO)
    assert trial.works()


async def test_polls_that_are_answered_for_long_are_enough(trial: Trial) -> None:
    for _ in range(10):
        await trial.calls.poll(HELLO)
        assert not trial.works()
        trial.clock.advance(TRIED_S / 10)
    await trial.calls.poll(HELLO)
    assert trial.works()
    trial.clock.advance(TRIED_S)
    await trial.calls.poll(HELLO)
    assert not trial.works()  # said once


async def test_heartbeats_of_a_first_task_are_not_enough(trial: Trial) -> None:
    await trial.calls.poll(HELLO)
    trial.clock.advance(2 * TRIED_S)
    await trial.calls.update("t", {"cost_usd": 0.0})
    assert not trial.works()
    await trial.calls.update("t", END)
    assert trial.works()


async def test_a_failure_has_to_be_made_good(trial: Trial) -> None:
    await trial.calls.poll(HELLO)
    await trial.calls.fail("t", "it could not be run")
    trial.clock.advance(2 * TRIED_S)
    await trial.calls.poll(HELLO)
    assert not trial.works()
    await trial.calls.update("t", END)
    assert trial.works()
