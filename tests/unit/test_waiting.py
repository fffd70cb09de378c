"""Waiting that leaves nothing going on."""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from isolate.errors import NoSpace
from run_isolated.result import Stopped
from run_isolated.waiting import in_thread, or_told, unless_stopped


async def returning(value: int | None) -> int | None:
    return value


@pytest.mark.parametrize("value", [7, None])
async def test_result_is_passed_on(value: int | None) -> None:
    assert await unless_stopped(asyncio.Event(), returning(value)) is value


async def test_error_is_passed_on_as_itself_also_out_of_a_group() -> None:
    async def fail() -> None:
        async with asyncio.TaskGroup():
            raise NoSpace("full")

    with pytest.raises(NoSpace, match="full"):
        await unless_stopped(asyncio.Event(), fail())


async def test_stop_cancels_the_work_and_waits_for_its_end() -> None:
    stop, steps = asyncio.Event(), []

    async def work() -> None:
        stop.set()
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0)
            steps.append("tidied")

    with pytest.raises(Stopped):
        await unless_stopped(stop, work())
    assert steps == ["tidied"]


async def test_work_that_ends_before_it_is_cancelled_counts() -> None:
    stop = asyncio.Event()
    stop.set()
    assert await unless_stopped(stop, returning(7)) == 7


async def test_cancelling_the_caller_cancels_the_work() -> None:
    begun, ended = asyncio.Event(), asyncio.Event()

    async def work() -> None:
        begun.set()
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    async with asyncio.TaskGroup() as group:
        caller = group.create_task(unless_stopped(asyncio.Event(), work()))
        await begun.wait()
        caller.cancel()
    assert caller.cancelled()
    assert ended.is_set()


async def test_cancelling_waits_for_the_thread() -> None:
    begun, go_on, ended = threading.Event(), threading.Event(), threading.Event()

    def job() -> None:
        begun.set()
        go_on.wait()
        ended.set()
        raise NoSpace("seen by nobody")

    async with asyncio.TaskGroup() as group:
        waiting = group.create_task(in_thread(job))
        await asyncio.to_thread(begun.wait)
        waiting.cancel()
        await asyncio.sleep(0)
        assert not waiting.done()
        go_on.set()
    assert waiting.cancelled()
    assert ended.is_set()


async def test_thread_result_and_error_are_passed_on() -> None:
    def fail() -> None:
        raise NoSpace("full")

    assert await in_thread(lambda: 7) == 7
    with pytest.raises(NoSpace):
        await in_thread(fail)


def no_thread(*_: object) -> None:
    raise RuntimeError("can't start new thread")


async def test_without_a_thread_the_job_is_done_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> None:
        raise NoSpace("full")

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", no_thread)
        assert await in_thread(lambda: 7) == 7
        with pytest.raises(NoSpace):
            await in_thread(fail)


async def test_a_job_that_waits_for_a_busy_thread_is_done_once_when_no_other_thread_can_be_had(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    go_on, done = threading.Event(), []
    with ThreadPoolExecutor(2) as pool:
        asyncio.get_running_loop().set_default_executor(pool)
        busy = asyncio.create_task(asyncio.to_thread(go_on.wait))
        await asyncio.sleep(0)
        with monkeypatch.context() as patch:
            patch.setattr(threading.Thread, "start", no_thread)
            await in_thread(lambda: done.append(1))
        go_on.set()
        await busy
        pool.submit(int).result()  # whatever was in the queue is over
    assert done == [1]


async def test_who_is_cancelled_tells_before_the_thread_it_waits_for_has_ended() -> None:
    begun, told = threading.Event(), threading.Event()

    def job() -> None:
        begun.set()
        assert told.wait(60)

    async with asyncio.TaskGroup() as group:
        waiting = group.create_task(or_told(in_thread(job), told.set))
        await asyncio.to_thread(begun.wait)
        waiting.cancel()
    assert waiting.cancelled()


async def test_who_is_not_cancelled_tells_nothing() -> None:
    told: list[int] = []

    async def fail() -> None:
        raise NoSpace("full")

    assert await or_told(returning(7), lambda: told.append(1)) == 7
    with pytest.raises(NoSpace):
        await or_told(fail(), lambda: told.append(1))
    assert told == []
