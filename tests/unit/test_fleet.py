"""Bots and queues in memory."""

from __future__ import annotations

from typing import Any

import pytest

from isolate.errors import NotFound
from swarming import matching
from swarming.bots import FORMER_SESSIONS, BotInfo
from swarming.doorbell import LocalDoorbell
from swarming.fleet import Fleet, Seat, must_end_by
from tests.tasks import LINUX, NOW, WINDOWS, hello

LINUX_QUEUE, WINDOWS_QUEUE = matching.queue_key(LINUX), matching.queue_key(WINDOWS)


def welcomed(fleet: Fleet, name: str = "b", **fields: Any) -> Seat:
    return fleet.welcome(hello(name, **fields), NOW, 1.0)


def windows(name: str) -> dict[str, Any]:
    return {"dimensions": (("id", (name,)), ("os", ("windows",)), ("pool", ("default",)))}


def test_a_bot_serves_queues_opened_before_and_after_it_came() -> None:
    fleet = Fleet()
    fleet.open(LINUX_QUEUE)
    seat = welcomed(fleet)
    own = matching.queue_key((("id", "b"),))
    for queue in (own, own, WINDOWS_QUEUE):
        fleet.open(queue)
    assert list(seat.queues) == [LINUX_QUEUE, own]


async def test_a_waiting_bot_hears_of_a_queue_that_is_opened() -> None:
    fleet, doorbell = Fleet(), LocalDoorbell()
    seat = welcomed(fleet)
    with doorbell.listen("b", seat.queues) as listener:
        seat.waiting = listener
        assert fleet.has_capacity(LINUX_QUEUE)
        doorbell.ring(LINUX_QUEUE)
        assert await listener.rung()


def test_capacity_is_any_bot_known_until_it_is_forgotten() -> None:
    fleet = Fleet()
    assert not fleet.has_capacity(LINUX_QUEUE)
    seat = welcomed(fleet)
    assert fleet.has_capacity(LINUX_QUEUE)
    assert not fleet.has_capacity(WINDOWS_QUEUE)
    seat.info = BotInfo(bot_id="b", is_dead=True)
    assert fleet.has_capacity(LINUX_QUEUE)
    fleet.forget("b")
    assert not fleet.has_capacity(LINUX_QUEUE)
    with pytest.raises(NotFound):
        fleet.forget("b")


def test_new_dimensions_change_what_a_bot_serves() -> None:
    fleet = Fleet()
    fleet.open(LINUX_QUEUE)
    fleet.open(WINDOWS_QUEUE)
    seat = welcomed(fleet)
    assert welcomed(fleet, **windows("b")) is seat
    assert list(seat.queues) == [WINDOWS_QUEUE]
    assert (fleet.has_capacity(LINUX_QUEUE), fleet.has_capacity(WINDOWS_QUEUE)) == (False, True)


def test_a_bot_cannot_pass_for_another() -> None:
    fleet = Fleet()
    seat = welcomed(fleet, "liar", dimensions=(("id", ("b",)), ("pool", ("default",))))
    own = matching.queue_key((("id", "liar"),))
    for queue in (matching.queue_key((("id", "b"),)), own):
        fleet.open(queue)
    assert list(seat.queues) == [own]


def test_queues_out_of_use_are_forgotten_and_opened_again() -> None:
    fleet = Fleet()
    seat = welcomed(fleet)
    fleet.open(LINUX_QUEUE)
    fleet.open(WINDOWS_QUEUE)
    fleet.retain({WINDOWS_QUEUE})
    assert list(seat.queues) == []
    assert fleet.has_capacity(LINUX_QUEUE)
    assert list(seat.queues) == [LINUX_QUEUE]
    fleet.forget("b")
    assert not fleet.has_capacity(LINUX_QUEUE)


def test_former_sessions_are_remembered_but_not_for_ever() -> None:
    fleet = Fleet()
    for number in range(FORMER_SESSIONS + 3):
        seat = welcomed(fleet, session=f"s{number}")
    assert seat.info.session == f"s{FORMER_SESSIONS + 2}"
    assert seat.info.former_sessions == tuple(f"s{number}" for number in range(FORMER_SESSIONS + 1, 1, -1))
    welcomed(fleet, session="s5")
    assert "s5" not in seat.info.former_sessions


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"problem": "no id"}, "no id"),
        ({"state": {"quarantined": True}}, "Bot self-quarantined"),
        ({"state": {"quarantined": "broken disk"}}, "broken disk"),
        ({"state": {"quarantined": ""}}, ""),
        ({"dimensions": (("id", ("b",)), ("quarantined", ("1",)))}, "Bot self-quarantined"),
    ],
)
def test_why_a_bot_is_quarantined(fields: dict[str, Any], reason: str) -> None:
    assert welcomed(Fleet(), **fields).info.quarantined == reason


def test_what_is_worth_writing_at_once() -> None:
    fleet = Fleet()
    seat = welcomed(fleet)
    assert seat.is_changed
    seat.is_changed = seat.is_heard = False
    welcomed(fleet, state={"sleep_streak": 3})
    assert (seat.is_changed, seat.is_heard, seat.info.state) == (False, True, {"sleep_streak": 3})
    welcomed(fleet, state={"maintenance": "oil"})
    assert (seat.is_changed, seat.info.maintenance) == (True, "oil")


def test_silence_ends_with_a_sign_of_life() -> None:
    fleet = Fleet()
    seat = welcomed(fleet)
    assert fleet.silent(11.0, 10.0) == []
    assert fleet.silent(11.5, 10.0) == [seat]
    fleet.grant(11.5)
    assert fleet.silent(12.0, 10.0) == []


@pytest.mark.parametrize(("value", "expected"), [(5, 5.0), (5.5, 5.5), ("5", None), (True, None), (None, None)])
def test_when_a_bot_vanishes(value: object, expected: float | None) -> None:
    assert must_end_by(BotInfo(bot_id="b", state={"lease_expiration_ts": value})) == expected
