"""The two jobs of an archive, hash files and upload files, done in this process.

Knows no trees and no other processes: the calling process uses it for small trees, each worker process for its share
of large ones. The invariant: leaving the context stops what its threads are doing.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import NamedTuple, Protocol, Self

from isolate.cas.digest import Blob, Namespace
from isolate.cas.store import BlobStore, Written
from isolate.clock import Clock
from isolate.effort import Threads
from isolate.errors import IsolateError
from isolate.hashing import KEPT_BYTES, FileReader, Hashed
from isolate.large import Stored, Told
from isolate.monitor import Monitor
from isolate.scan import Stamp
from isolate.upload import Uploader, Wanted


class Room(NamedTuple):
    """How much one process may hold."""

    kept_bytes: int = KEPT_BYTES  # of contents that wait for their upload
    uploading: int = 4  # jobs: some wait for the server to acknowledge while the next is compressed


ROOM = Room()


@dataclass(frozen=True, slots=True)
class Remote:
    """A namespace of a server; whoever works for an archive opens its own connections to it."""

    url: str
    namespace: Namespace
    user_agent: str


Target = Remote | BlobStore


@asynccontextmanager
async def open_target(target: Target, clock: Clock, monitor: Monitor) -> AsyncIterator[BlobStore]:
    """Give the store that `target` stands for; connections opened here are closed at the end."""
    if not isinstance(target, Remote):
        yield target
        return
    from isolate.cas.remote import HttpStore  # 0.1 s of imports that hashing does without
    from isolate.http import HttpClient

    async with HttpClient(target.url, user_agent=target.user_agent, clock=clock, monitor=monitor) as client:
        yield HttpStore(client, target.namespace)


class Batch(NamedTuple):
    """Files that were hashed together, and the number of who did it and still has some of their contents."""

    files: list[Hashed | IsolateError]
    hand: int | None = None


class Crew(Protocol):
    """Who hashes and uploads."""

    async def hash(self, paths: Sequence[str], stamps: Sequence[Stamp] = ()) -> Batch:
        """Return for each file the name of its content, or why it has none; see `FileReader.hash`."""
        ...

    async def store_large(self, path: str, told: Told) -> Stored:
        """Read a large file and send what the store lacks of it, in one go; `told` hears how it goes on."""
        ...

    async def upload(self, files: Sequence[Wanted], hand: int | None = None) -> Written:
        """Send what the store lacks, best by who hashed it; returns when the store has acknowledged it."""
        ...


class Hands:
    """A `Crew` of threads in this process; opens `target` when the first upload comes."""

    def __init__(self, target: Target, threads: int, clock: Clock, monitor: Monitor, room: Room = ROOM) -> None:
        self._target, self._clock, self._monitor = target, clock, monitor
        self._reader = FileReader(target.namespace.algorithm, room.kept_bytes)
        self._threads = Threads(threads, clock)
        self._stack = AsyncExitStack()
        self._opening = asyncio.Lock()
        self._uploading = asyncio.Semaphore(room.uploading)
        self._storing = asyncio.Semaphore(1)  # one large file fills a thread, and holds as much memory as all else
        self._uploader: Uploader | None = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        self._reader.stop()
        self._threads.close()
        await self._stack.aclose()

    async def hash(self, paths: Sequence[str], stamps: Sequence[Stamp] = ()) -> Batch:
        return Batch(await self._threads.run(self._reader.hash, paths, stamps))

    async def store_large(self, path: str, told: Told) -> Stored:
        uploader = await self._open()
        async with self._storing:
            return await uploader.store_large(path, told)

    async def upload(self, files: Sequence[Wanted], hand: int | None = None) -> Written:  # noqa: ARG002 - the only one
        uploader = await self._open()
        async with self._uploading:
            return await uploader.upload(files)

    async def upload_content(self, blob: Blob, content: bytes) -> Written:
        """Send a content that is in memory, unless the store has it."""
        return await (await self._open()).upload_content(blob, content)

    async def _open(self) -> Uploader:
        async with self._opening:
            if self._uploader is None:
                store = await self._stack.enter_async_context(open_target(self._target, self._clock, self._monitor))
                self._uploader = Uploader(store, self._reader, self._threads)
        return self._uploader
