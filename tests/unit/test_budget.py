"""Leases of memory: bounded, fair, given back whatever happens."""

from __future__ import annotations

import asyncio

import pytest

from isolate.errors import Unavailable
from server.stores.budget import ByteBudget


async def settle() -> None:
    """Let every task that can go on go on."""
    for _ in range(5):
        await asyncio.sleep(0)


async def test_leases_together_stay_within_the_total() -> None:
    budget, inside, most = ByteBudget(100, "tests"), 0, 0

    async def work(size: int) -> None:
        nonlocal inside, most
        async with budget.lease(size):
            inside += size
            most = max(most, inside)
            await settle()
            inside -= size

    async with asyncio.TaskGroup() as group:
        for size in [40, 60, 1, 99, 100, 50, 50, 30]:
            group.create_task(work(size))
    assert most == 100
    assert budget.used_bytes == 0
    assert budget.leased_bytes == 430


async def test_what_is_too_large_gets_everything() -> None:
    budget = ByteBudget(100, "tests")
    async with budget.lease(1000):
        assert budget.used_bytes == 100
    assert budget.used_bytes == 0


async def test_first_come_first_served_also_for_large_ones() -> None:
    budget, order = ByteBudget(100, "tests"), []
    first = await budget.acquire(60)

    async def wait(size: int) -> None:
        async with budget.lease(size):
            order.append(size)

    async with asyncio.TaskGroup() as group:
        group.create_task(wait(90))
        await settle()
        group.create_task(wait(10))
        await settle()
        assert order == []  # 10 would fit, and would keep 90 waiting for ever if others like it came
        budget.release(first)
    assert order == [90, 10]


async def test_a_cancelled_waiter_leaves_the_queue() -> None:
    budget = ByteBudget(100, "tests")
    first = await budget.acquire(60)
    large = asyncio.ensure_future(budget.acquire(90))
    small = asyncio.ensure_future(budget.acquire(40))
    await settle()
    large.cancel()
    assert await small == 40
    budget.release(first)
    budget.release(40)
    assert budget.used_bytes == 0


async def test_a_turn_that_comes_with_the_cancellation_is_given_back() -> None:
    budget = ByteBudget(100, "tests")
    first = await budget.acquire(100)
    waiter = asyncio.ensure_future(budget.acquire(100))
    await settle()
    budget.release(first)
    waiter.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiter
    assert budget.used_bytes == 0


async def test_too_many_waiters_are_sent_away() -> None:
    budget = ByteBudget(100, "tests", max_waiting=1)
    first = await budget.acquire(100)
    waiter = asyncio.ensure_future(budget.acquire(1))
    await settle()
    with pytest.raises(Unavailable, match="in flight for tests") as raised:
        await budget.acquire(1)
    assert raised.value.retry_after_s is not None
    budget.release(first)
    assert await waiter == 1


async def test_nobody_waits_for_ever() -> None:
    budget = ByteBudget(100, "tests", patience_s=0)
    first = await budget.acquire(100)
    with pytest.raises(Unavailable, match="in flight for tests"):
        await budget.acquire(1)
    budget.release(first)
    assert await budget.acquire(100) == 100


async def test_who_could_give_back_is_told_when_somebody_begins_to_wait() -> None:
    told: list[bool] = []
    budget = ByteBudget(100, "tests", when_short=lambda: told.append(budget.is_short))
    lease = await budget.acquire(100)
    assert (told, budget.is_short) == ([], False)
    waiting = asyncio.ensure_future(budget.acquire(1))
    await settle()
    assert told == [True]
    budget.release(lease)
    budget.release(await waiting)
    assert not budget.is_short
