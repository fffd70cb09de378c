"""Long verifications: joined, continued without their caller, never lost."""

from __future__ import annotations

import asyncio

import pytest

from isolate.cas.digest import Blob
from isolate.errors import InvalidInput, Unavailable
from server.stores.composing import MAX_RUNNING, MAX_WAITING, Compositions

KEY = ("default", b"digest")
CHUNKS, OTHER_CHUNKS = (Blob(b"a", 1),), (Blob(b"b", 1),)


class Work:
    """Ends when it is told to."""

    def __init__(self) -> None:
        self.runs = 0
        self.may_end = asyncio.Event()
        self.error: InvalidInput | None = None

    async def __call__(self) -> None:
        self.runs += 1
        await self.may_end.wait()
        if self.error is not None:
            raise self.error


async def test_it_goes_on_without_its_caller_and_is_joined() -> None:
    compositions, work = Compositions(), Work()
    assert not await compositions.run(KEY, CHUNKS, work, wait_s=0)
    joined = asyncio.ensure_future(compositions.run(KEY, CHUNKS, work))
    assert not await compositions.run(KEY, CHUNKS, work, wait_s=0)
    work.may_end.set()
    assert await joined
    assert work.runs == 1


async def test_a_failure_waits_for_whoever_comes_back() -> None:
    compositions, work = Compositions(), Work()
    work.error = InvalidInput("wrong")
    assert not await compositions.run(KEY, CHUNKS, work, wait_s=0)
    work.may_end.set()
    with pytest.raises(InvalidInput, match="wrong"):
        await compositions.run(KEY, CHUNKS, work, wait_s=None)
    assert work.runs == 1
    work.error = None
    assert await compositions.run(KEY, CHUNKS, work)
    assert work.runs == 2


async def test_somebody_elses_wrong_chunks_do_not_fail_mine() -> None:
    compositions, wrong, right = Compositions(), Work(), Work()
    wrong.error = InvalidInput("wrong")
    assert not await compositions.run(KEY, OTHER_CHUNKS, wrong, wait_s=0)
    mine = asyncio.ensure_future(compositions.run(KEY, CHUNKS, right))
    wrong.may_end.set()
    right.may_end.set()
    assert await mine
    assert (wrong.runs, right.runs) == (1, 1)


async def test_a_cancelled_caller_does_not_stop_it() -> None:
    compositions, work = Compositions(), Work()
    caller = asyncio.ensure_future(compositions.run(KEY, CHUNKS, work))
    await asyncio.sleep(0)
    caller.cancel()
    other = asyncio.ensure_future(compositions.run(KEY, CHUNKS, work))
    await asyncio.sleep(0)
    work.may_end.set()
    assert await other
    assert work.runs == 1


async def test_only_a_few_run_and_only_so_many_wait() -> None:
    compositions, work = Compositions(), Work()
    for number in range(MAX_RUNNING + MAX_WAITING):
        assert not await compositions.run(("default", bytes([number])), CHUNKS, work, wait_s=0)
    with pytest.raises(Unavailable):
        await compositions.run(("default", b"one more"), CHUNKS, work, wait_s=0)
    await asyncio.sleep(0)
    assert work.runs == MAX_RUNNING
    await compositions.close()
    assert work.runs == MAX_RUNNING
