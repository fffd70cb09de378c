"""Group commit: who waits together, who fails together."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from server.stores.committer import GroupCommitter


class Disk:
    """Commits when it is let; remembers the groups."""

    def __init__(self) -> None:
        self.groups: list[list[int]] = []
        self.turns = asyncio.Semaphore(0)
        self.error: Exception | None = None

    async def commit(self, group: Sequence[int]) -> list[str]:
        self.groups.append(list(group))
        await self.turns.acquire()
        if self.error is not None:
            error, self.error = self.error, None
            raise error
        return [f"did {item}" for item in group]


def started(committer: GroupCommitter[int, str], *items: int) -> list[asyncio.Task[str]]:
    return [asyncio.ensure_future(committer.add(item)) for item in items]


async def settle() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


async def test_those_who_come_during_a_commit_share_the_next() -> None:
    disk = Disk()
    committer = GroupCommitter(disk.commit, lambda _: 1, 10)
    first = started(committer, 1)
    await settle()
    later = started(committer, 2, 3, 4)
    await settle()
    disk.turns.release()
    disk.turns.release()
    assert await asyncio.gather(*first, *later) == ["did 1", "did 2", "did 3", "did 4"]
    assert disk.groups == [[1], [2, 3, 4]]


@pytest.mark.parametrize(("weights", "groups"), [
    ([1, 4, 5, 1], [[1], [4, 5, 1]]),
    ([1, 4, 6, 1], [[1], [4, 6], [1]]),
    ([1, 4, 7, 1], [[1], [4], [7, 1]]),
    ([1, 99, 1], [[1], [99], [1]]),
])  # fmt: skip
async def test_a_group_has_a_limit(weights: list[int], groups: list[list[int]]) -> None:
    disk = Disk()
    committer = GroupCommitter(disk.commit, lambda item: item, 10)
    first = started(committer, weights[0])
    await settle()
    tasks = [*first, *started(committer, *weights[1:])]
    for _ in weights:
        disk.turns.release()
    await asyncio.gather(*tasks)
    assert disk.groups == groups


async def test_a_failure_is_that_of_its_group() -> None:
    disk = Disk()
    disk.error = OSError("full")
    committer = GroupCommitter(disk.commit, lambda _: 1, 10)
    first = started(committer, 1)
    await settle()
    second = started(committer, 2)
    disk.turns.release()
    disk.turns.release()
    results = await asyncio.gather(*first, *second, return_exceptions=True)
    assert [str(result) for result in results] == ["full", "did 2"]


async def test_a_cancelled_caller_takes_nobody_along() -> None:
    disk = Disk()
    committer = GroupCommitter(disk.commit, lambda _: 1, 10)
    first = started(committer, 1)
    await settle()
    second, third = started(committer, 2, 3)
    await settle()
    first[0].cancel()
    second.cancel()
    disk.turns.release()
    disk.turns.release()
    assert await third == "did 3"


async def test_close_waits_for_what_was_added() -> None:
    disk = Disk()
    committer = GroupCommitter(disk.commit, lambda _: 1, 10)
    await committer.close()
    (task,) = started(committer, 1)
    await settle()
    closing = asyncio.ensure_future(committer.close())
    await settle()
    assert not closing.done()
    disk.turns.release()
    await closing
    assert await task == "did 1"


async def test_those_who_can_wait_do_so_until_one_cannot() -> None:
    disk = Disk()
    committer = GroupCommitter(disk.commit, lambda item: item, 100, enough_weight=10)
    disk.turns.release()
    patient = [asyncio.ensure_future(committer.add(item, can_wait=True)) for item in (2, 3)]
    await settle()
    assert disk.groups == []
    assert await committer.add(1) == "did 1"
    assert await asyncio.gather(*patient) == ["did 2", "did 3"]
    assert disk.groups == [[2, 3, 1]]


async def test_those_who_can_wait_do_so_until_somebody_presses_or_there_is_enough() -> None:
    disk = Disk()
    committer = GroupCommitter(disk.commit, lambda item: item, 100, enough_weight=10)
    for _ in range(3):
        disk.turns.release()
    tasks = [asyncio.ensure_future(committer.add(2, can_wait=True))]
    await settle()
    committer.press()
    await settle()
    tasks += [asyncio.ensure_future(committer.add(item, can_wait=True)) for item in (9, 1, 3)]
    await settle()
    assert disk.groups == [[2], [9, 1, 3]]
    committer.press()
    tasks.append(asyncio.ensure_future(committer.add(4, can_wait=True)))
    await settle()
    assert disk.groups == [[2], [9, 1, 3]]
    await committer.close()
    assert disk.groups == [[2], [9, 1, 3], [4]]
    assert len(await asyncio.gather(*tasks)) == 5
