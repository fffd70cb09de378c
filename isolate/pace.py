"""How long a request may keep us waiting, also in the middle of an upload.

Knows no transport: it ends whatever runs inside it. The invariant: the time that a body takes to be produced does not
count, and what its source raises comes out as it was.
"""

from __future__ import annotations

import asyncio
import io
from collections.abc import AsyncIterable, AsyncIterator, Callable
from types import TracebackType
from typing import Any, Self

INLINE_BYTES = 64 << 10  # above, aiohttp wants a body as a file, so that writing it does not hold up the loop

Body = bytes | Callable[[], AsyncIterable[bytes]] | None


class SourceFailed(Exception):
    """Carries, as its argument, what the source of a body raised past the translation of what the transport raises."""


class Watch:
    """Ends a request when the other side keeps it waiting, also in the middle of an upload."""

    def __init__(self, timeout_s: float) -> None:
        self._timeout_s = timeout_s
        self._timeout = asyncio.timeout(timeout_s)
        self._over = False
        self._failure: Exception | None = None

    async def __aenter__(self) -> Self:
        await self._timeout.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._over = True
        await self._timeout.__aexit__(kind, error, traceback)
        if self._failure is not None and isinstance(error, Exception):
            raise SourceFailed(self._failure)  # aiohttp calls it a broken connection

    def body(self, data: Body) -> Any:
        if callable(data):
            return self._paced(data())
        return data if data is None or len(data) <= INLINE_BYTES else io.BytesIO(data)

    async def _paced(self, pieces: AsyncIterable[bytes]) -> AsyncIterator[bytes]:
        self._they_may_take(None)
        try:
            async for piece in pieces:
                self._they_may_take(self._timeout_s)
                yield piece
                self._they_may_take(None)
        except Exception as error:
            self._failure = error
            raise
        self._they_may_take(self._timeout_s)

    def _they_may_take(self, limit_s: float | None) -> None:
        if not self._over:
            self._timeout.reschedule(None if limit_s is None else asyncio.get_running_loop().time() + limit_s)
