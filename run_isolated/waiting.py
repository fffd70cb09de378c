"""Two ways to wait that leave nothing going on behind one's back.

Knows nothing of runs. The invariant: when either returns or raises, what was waited for has ended.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from isolate.errors import first_cause
from run_isolated.result import Stopped

T = TypeVar("T")


async def unless_stopped(stop: asyncio.Event, work: Coroutine[Any, Any, T]) -> T:
    """Return what `work` returns; when `stop` is set first, cancel it and raise Stopped."""
    results: list[T] = []
    failures: list[Exception] = []

    async def caught() -> None:
        try:
            results.append(await work)
        except Exception as error:  # noqa: BLE001 - raised below, as itself rather than as a group
            failures.append(error)

    async def watch(task: asyncio.Task[None]) -> None:
        await stop.wait()
        task.cancel()

    async with asyncio.TaskGroup() as group:
        task = group.create_task(caught())
        watcher = group.create_task(watch(task))
        await asyncio.wait([task])
        watcher.cancel()
    if failures:
        raise first_cause(failures[0])
    if not results:
        raise Stopped("Stopped before the command was started")
    return results[0]


async def in_thread(job: Callable[[], T]) -> T:
    """Return what `job` returns in a thread; unlike `asyncio.to_thread`, cancelling waits for its end."""
    running = asyncio.get_running_loop().run_in_executor(None, job)
    try:
        return await asyncio.shield(running)
    except asyncio.CancelledError:
        await asyncio.wait([running])
        running.exception()  # nobody else will look at it
        raise
