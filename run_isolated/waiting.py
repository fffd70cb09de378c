"""Ways to wait that leave nothing going on behind one's back.

Knows nothing of runs. The invariant: when one of them returns or raises, what was waited for has ended.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from threading import Lock
from typing import Any, Generic, TypeVar

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


async def or_told(work: Coroutine[Any, Any, T], cancelled: Callable[[], None]) -> T:
    """Return what `work` returns; who cancels the call makes `cancelled` be called at once, and then cancels `work`.

    So threads that `work` waits for can hear of it while it waits.
    """
    results: list[T] = []
    failures: list[Exception] = []

    async def caught() -> None:
        try:
            results.append(await work)
        except Exception as error:  # noqa: BLE001 - raised below, as itself rather than as a group
            failures.append(error)

    async with asyncio.TaskGroup() as group:
        task = group.create_task(caught())
        try:
            await asyncio.wait([task])
        except asyncio.CancelledError:
            cancelled()
            raise  # the group cancels the work, and waits for it
    if failures:
        raise failures[0]
    if not results:
        raise asyncio.CancelledError
    return results[0]


async def in_thread(job: Callable[[], T]) -> T:
    """Return what `job` returns in a thread; unlike `asyncio.to_thread`, cancelling waits for its end.

    When no thread can be had the job is done all the same, and everything else waits: it may be what undoes things.
    """
    once = _Once(job)
    try:
        running = asyncio.get_running_loop().run_in_executor(None, once)
    except (RuntimeError, OSError, ImportError, MemoryError):  # it may be in the queue of busy threads even so
        return once()
    try:
        return await asyncio.shield(running)
    except asyncio.CancelledError:
        await asyncio.wait([running])
        running.exception()  # nobody else will look at it
        raise


class _Once(Generic[T]):
    """A job that is done once, by the first who calls it; the others wait, and get what came of it."""

    def __init__(self, job: Callable[[], T]) -> None:
        self._job, self._lock = job, Lock()
        self._results: list[T] = []
        self._failure: BaseException | None = None

    def __call__(self) -> T:
        with self._lock:
            if not self._results and self._failure is None:
                self._do()
        if self._failure is not None:
            raise self._failure
        return self._results[0]

    def _do(self) -> None:
        try:
            self._results.append(self._job())
        except BaseException as error:
            self._failure = error
            raise
