"""The doorbell of one process."""

from __future__ import annotations

import asyncio

import pytest

from swarming.doorbell import LocalDoorbell, LocalListener


@pytest.fixture
def doorbell() -> LocalDoorbell:
    return LocalDoorbell()


async def has_rung(listener: LocalListener) -> bool:
    """Say whether the listener is awake, without waiting."""
    task = asyncio.ensure_future(listener.rung())
    for _ in range(3):
        await asyncio.sleep(0)
    if task.done():
        return task.result()
    task.cancel()
    return False


async def test_a_ring_wakes_one_the_one_that_waited_longest(doorbell: LocalDoorbell) -> None:
    with doorbell.listen("a", ["q"]) as first, doorbell.listen("b", ["q"]) as second:
        doorbell.ring("q")
        assert (await has_rung(first), await has_rung(second)) == (True, False)
        doorbell.ring("q")
        assert await has_rung(second)


async def test_who_was_woken_stands_at_the_end_again(doorbell: LocalDoorbell) -> None:
    with doorbell.listen("a", ["q"]) as first, doorbell.listen("b", ["q"]) as second:
        doorbell.ring("q")
        first.rearm()
        doorbell.ring("q")
        assert (await has_rung(first), await has_rung(second)) == (False, True)


async def test_only_those_who_listen_to_the_queue_and_suit_are_woken(doorbell: LocalDoorbell) -> None:
    with (
        doorbell.listen("a", ["other"]) as deaf,
        doorbell.listen("b", ["q"]) as unfit,
        doorbell.listen("c", ["q"]) as fit,
    ):
        doorbell.ring("q", lambda name: name == "c")
        assert [await has_rung(one) for one in (deaf, unfit, fit)] == [False, False, True]


async def test_a_queue_can_be_added_while_waiting(doorbell: LocalDoorbell) -> None:
    with doorbell.listen("a", []) as listener:
        listener.add("new")
        doorbell.ring("new")
        assert await has_rung(listener)


async def test_a_ring_between_looking_and_waiting_is_not_lost(doorbell: LocalDoorbell) -> None:
    with doorbell.listen("a", ["q"]) as listener:
        listener.rearm()
        doorbell.ring("q")
        assert await has_rung(listener)


async def test_who_goes_without_looking_passes_the_ring_on(doorbell: LocalDoorbell) -> None:
    with doorbell.listen("b", ["q"]) as second:
        with doorbell.listen("a", ["p", "q"]):
            pass
        with doorbell.listen("c", ["q"]) as third:
            doorbell.ring("q")
            assert await has_rung(second)
            second.release()
            doorbell.ring("q")
            assert await has_rung(third)
    with doorbell.listen("a", ["q"]) as first, doorbell.listen("b", ["q"]) as second:
        with doorbell.listen("z", ["q"]):
            doorbell.ring("q")
        assert (await has_rung(first), await has_rung(second)) == (True, False)
        with first:
            pass  # goes away, rung and not rearmed
        assert await has_rung(second)


async def test_who_looked_keeps_the_ring(doorbell: LocalDoorbell) -> None:
    with doorbell.listen("a", ["q"]) as first, doorbell.listen("b", ["q"]) as second:
        doorbell.ring("q")
        with first:
            first.rearm()
        assert not await has_rung(second)


async def test_a_released_listener_hears_nothing_and_is_in_no_line(doorbell: LocalDoorbell) -> None:
    with doorbell.listen("a", ["q"]) as listener:
        listener.release()
        assert await listener.rung() is False
        listener.rearm()
        assert await listener.rung() is False
        doorbell.ring("q")
    with doorbell.listen("b", ["q"]) as heir:
        assert not await has_rung(heir)
