"""The task stores that the tests of this folder run on: each opens twice on the same data, to be two writers."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path

from server.stores.sqlite_tasks import SqliteTaskStore
from swarming.memory import MemoryTaskStore
from swarming.store import Store

Opened = tuple[Store, Store]


@asynccontextmanager
async def memory(_: Path) -> AsyncIterator[Opened]:
    store = MemoryTaskStore()
    yield store, store


@asynccontextmanager
async def sqlite(directory: Path) -> AsyncIterator[Opened]:
    first = SqliteTaskStore(directory / "tasks.sqlite")
    second = SqliteTaskStore(directory / "tasks.sqlite")
    try:
        yield first, second
    finally:
        await first.close()
        await second.close()


BACKENDS: dict[str, Callable[[Path], AbstractAsyncContextManager[Opened]]] = {"memory": memory, "sqlite": sqlite}
