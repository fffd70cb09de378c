"""Runners that stand by."""

from __future__ import annotations

from swarming.bot.crew import Standby
from swarming.bot.launch import Launch
from tests.unit.bot_doubles import ScriptedRunner

USUAL = Launch(("runner",), {"A": "b"})


class Agency:
    """Starts scripted runners."""

    def __init__(self) -> None:
        self.runners: list[ScriptedRunner] = []
        self.launches: list[Launch] = []

    async def start(self, launch: Launch) -> ScriptedRunner:
        self.launches.append(launch)
        self.runners.append(ScriptedRunner())
        return self.runners[-1]


async def test_one_runner_stands_by_and_is_used_once() -> None:
    agency = Agency()
    standby = Standby(agency.start, USUAL)
    await standby.prepare()
    await standby.prepare()
    assert len(agency.runners) == 1
    assert await standby.take(USUAL) is agency.runners[0]
    assert await standby.take(USUAL) is agency.runners[1]


async def test_a_runner_that_died_meanwhile_is_replaced() -> None:
    agency = Agency()
    standby = Standby(agency.start, USUAL)
    await standby.prepare()
    agency.runners[0].kill()
    assert await standby.take(USUAL) is agency.runners[1]
    assert agency.runners[0].closed


async def test_closing_dismisses_it() -> None:
    agency = Agency()
    standby = Standby(agency.start, USUAL)
    await standby.close()
    await standby.prepare()
    await standby.close()
    assert (agency.runners[0].killed, agency.runners[0].closed) == (True, True)


async def test_one_that_is_wanted_otherwise_replaces_it() -> None:
    agency = Agency()
    standby = Standby(agency.start, USUAL)
    await standby.prepare()
    other = Launch(("nice", "runner"), {"A": "b"})
    assert await standby.take(other) is agency.runners[1]
    assert agency.runners[0].closed
    assert agency.launches == [USUAL, other]


async def test_one_that_is_wanted_just_so_is_taken() -> None:
    agency = Agency()
    standby = Standby(agency.start, USUAL)
    await standby.prepare()
    assert await standby.take(Launch.checked(["runner"], {"A": "b"})) is agency.runners[0]
