"""The blob stores that take the exam of `test_blob_store.py`; a new one joins with one function and one line."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from isolate.cas.digest import Namespace
from isolate.cas.memory import MemoryStore
from isolate.cas.remote import HttpStore
from isolate.cas.store import BlobStore
from isolate.clock import SystemClock
from isolate.http import HttpClient, RetryPolicy
from isolate.monitor import NullMonitor
from server.stores.blobs import LocalBlobStores
from server.stores.limits import BlobLimits
from server.stores.shared import SharedBlobStores
from tests.cas_server import serving_cas
from tests.faults import ScriptedStore

LIMITS = BlobLimits(min_free_bytes=0)  # a test machine may be nearly full
ONCE = RetryPolicy(attempts=1)  # a retry would hide what failed


async def keep_open() -> None:
    """The `reopen` of what lives as long as its process."""


@dataclass
class Backend:
    """Opens stores of any namespace; `reopen` closes everything and starts again on the same place."""

    store: Callable[[Namespace], BlobStore]
    reopen: Callable[[], Awaitable[None]] = keep_open


@asynccontextmanager
async def memory(_: Path) -> AsyncIterator[Backend]:
    stores: dict[str, MemoryStore] = {}
    yield Backend(lambda namespace: stores.setdefault(namespace.name, MemoryStore(namespace)))


@asynccontextmanager
async def scripted(root: Path) -> AsyncIterator[Backend]:
    """A wrapper without a script changes nothing."""
    async with memory(root) as inner:
        yield Backend(lambda namespace: ScriptedStore(inner.store(namespace)))


@asynccontextmanager
async def local(root: Path) -> AsyncIterator[Backend]:
    """Packs and their index in one directory."""
    stores = await LocalBlobStores.open(root, SystemClock(), NullMonitor(), LIMITS)

    def store(namespace: Namespace) -> BlobStore:
        return stores.namespace(namespace)

    async def reopen() -> None:
        nonlocal stores
        await stores.close()
        stores = await LocalBlobStores.open(root, SystemClock(), NullMonitor(), LIMITS)

    yield Backend(store, reopen)
    await stores.close()


@asynccontextmanager
async def shared(root: Path) -> AsyncIterator[Backend]:
    """The local stores behind the wrapper that the API of 2020 shares with this one."""
    stores = await LocalBlobStores.open(root, SystemClock(), NullMonitor(), LIMITS)
    both = SharedBlobStores(stores)

    async def close() -> None:
        await both.close()
        await stores.close()

    async def reopen() -> None:
        nonlocal stores, both
        await close()
        stores = await LocalBlobStores.open(root, SystemClock(), NullMonitor(), LIMITS)
        both = SharedBlobStores(stores)

    def store(namespace: Namespace) -> BlobStore:
        return both.shared(namespace)

    yield Backend(store, reopen)
    await close()


@asynccontextmanager
async def http(root: Path) -> AsyncIterator[Backend]:
    """The client, the transfer API and the local stores, over a real socket; every reopening is a new server."""
    server = AsyncExitStack()

    async def start() -> HttpClient:
        stores = await LocalBlobStores.open(root, SystemClock(), NullMonitor(), LIMITS)
        server.push_async_callback(stores.close)
        url = await server.enter_async_context(serving_cas(stores))
        return await server.enter_async_context(HttpClient(url, user_agent="contract", policy=ONCE))

    client = await start()

    async def reopen() -> None:
        nonlocal client
        await server.aclose()
        client = await start()

    yield Backend(lambda namespace: HttpStore(client, namespace), reopen)
    await server.aclose()


BACKENDS: dict[str, Callable[[Path], AbstractAsyncContextManager[Backend]]] = {
    "memory": memory,
    "scripted": scripted,
    "local": local,
    "shared": shared,
    "http": http,
}
