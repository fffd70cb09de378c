"""A store that is connected to when it is first asked for something.

Knows no run. Why: a run whose tree is in the cache and that leaves no outputs asks for nothing, and the client with its
libraries costs more time than all the rest of such a run. The invariant: what was opened is closed on leaving.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack
from types import TracebackType
from typing import TYPE_CHECKING, Self

from isolate.cas.block import Absent, Block, ChunkList
from isolate.cas.digest import Blob, Namespace
from isolate.cas.store import Written
from isolate.clock import Clock
from isolate.monitor import Monitor

if TYPE_CHECKING:
    from isolate.cas.remote import HttpStore
    from isolate.cas.wire import StoreInfo

_USER_AGENT = "run_isolated"


class DistantStore:
    """The blobs of `namespace` at `server`; an async context manager."""

    def __init__(self, server: str, namespace: Namespace, clock: Clock, monitor: Monitor) -> None:
        self.namespace = namespace
        self._server, self._clock, self._monitor = server, clock, monitor
        self._opened = AsyncExitStack()
        self._connecting = asyncio.Lock()
        self._store: HttpStore | None = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._opened.aclose()

    async def missing(self, blobs: Sequence[Blob]) -> list[Blob]:
        return await (await self._connected()).missing(blobs)

    async def write(self, blocks: AsyncIterator[Block]) -> Written:
        return await (await self._connected()).write(blocks)

    async def compose(self, blob: Blob, chunks: Sequence[Blob]) -> None:
        await (await self._connected()).compose(blob, chunks)

    async def read(self, blobs: Sequence[Blob]) -> AsyncIterator[Block | ChunkList | Absent]:
        records = (await self._connected()).read(blobs)
        try:
            async for record in records:
                yield record
        finally:
            close = getattr(records, "aclose", None)
            if close is not None:
                await close()

    async def info(self) -> StoreInfo:
        return await (await self._connected()).info()

    async def _connected(self) -> HttpStore:
        async with self._connecting:
            if self._store is None:
                from isolate.cas.remote import HttpStore
                from isolate.http import HttpClient

                client = HttpClient(self._server, user_agent=_USER_AGENT, clock=self._clock, monitor=self._monitor)
                self._store = HttpStore(await self._opened.enter_async_context(client), self.namespace)
        return self._store
