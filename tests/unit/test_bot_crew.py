"""Runners that stand by."""

from __future__ import annotations

from swarming.bot.crew import Standby
from tests.unit.bot_doubles import ScriptedRunner


class Agency:
    """Starts scripted runners."""

    def __init__(self) -> None:
        self.runners: list[ScriptedRunner] = []

    async def start(self) -> ScriptedRunner:
        self.runners.append(ScriptedRunner())
        return self.runners[-1]


async def test_one_runner_stands_by_and_is_used_once() -> None:
    agency = Agency()
    standby = Standby(agency.start)
    await standby.prepare()
    await standby.prepare()
    assert len(agency.runners) == 1
    assert await standby.take() is agency.runners[0]
    assert await standby.take() is agency.runners[1]


async def test_a_runner_that_died_meanwhile_is_replaced() -> None:
    agency = Agency()
    standby = Standby(agency.start)
    await standby.prepare()
    agency.runners[0].kill()
    assert await standby.take() is agency.runners[1]
    assert agency.runners[0].closed


async def test_closing_dismisses_it() -> None:
    agency = Agency()
    standby = Standby(agency.start)
    await standby.close()
    await standby.prepare()
    await standby.close()
    assert (agency.runners[0].killed, agency.runners[0].closed) == (True, True)
