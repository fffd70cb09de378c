"""Failures on demand: stores that fail as a script says, functions that fail at their N-th call, and call counts."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any

import pytest

from isolate.cas.block import Absent, Block, ChunkList
from isolate.cas.digest import Blob, Namespace
from isolate.cas.store import BlobStore, Written


class ScriptedStore:
    """A store that counts its calls and fails as it is told, else does what the inner one does.

    `script(method, error, None, error)` lets the next calls of `method` fail, succeed, fail; later ones succeed. A
    failing `write` or `read` fails after its first block was passed on: the half-done request is the hard case.
    """

    def __init__(self, inner: BlobStore) -> None:
        self.inner = inner
        self.calls: Counter[str] = Counter()
        self._scripts: defaultdict[str, list[Exception | None]] = defaultdict(list)

    def script(self, method: str, *outcomes: Exception | None) -> None:
        self._scripts[method].extend(outcomes)

    @property
    def namespace(self) -> Namespace:
        return self.inner.namespace

    async def missing(self, blobs: Sequence[Blob]) -> list[Blob]:
        self._raise(self._next("missing"))
        return await self.inner.missing(blobs)

    async def write(self, blocks: AsyncIterator[Block]) -> Written:
        error = self._next("write")

        async def passed() -> AsyncIterator[Block]:
            async for block in blocks:
                yield block
                self._raise(error)

        return await self.inner.write(passed())

    async def compose(self, blob: Blob, chunks: Sequence[Blob]) -> None:
        self._raise(self._next("compose"))
        await self.inner.compose(blob, chunks)

    async def read(self, blobs: Sequence[Blob]) -> AsyncIterator[Block | ChunkList | Absent]:
        error = self._next("read")
        async for record in self.inner.read(blobs):
            yield record
            self._raise(error)

    def _next(self, method: str) -> Exception | None:
        self.calls[method] += 1
        return self._scripts[method].pop(0) if self._scripts[method] else None

    @staticmethod
    def _raise(error: Exception | None) -> None:
        if error is not None:
            raise error


class FailNth:
    """Stands for a function and raises `error` at its call number `number` (from 1); counts all."""

    def __init__(self, real: Callable[..., Any], number: int, error: Exception) -> None:
        self.calls = 0
        self._real = real
        self._number = number
        self._error = error

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        self.calls += 1
        if self.calls == self._number:
            raise self._error
        return self._real(*args, **kwargs)


def fail_nth(monkeypatch: pytest.MonkeyPatch, owner: object, name: str, number: int, error: Exception) -> FailNth:
    """Let call `number` of `owner.name` (say `os`, `fsync`) raise `error` for the rest of the test; 0 only counts."""
    failing = FailNth(getattr(owner, name), number, error)
    monkeypatch.setattr(owner, name, failing)
    return failing
