"""What the store lacks -> the store, through a crew: small files together, large ones as they are read.

Uploads that broke are begun again. Knows no trees and no threads. The invariant: when a call returns, the store has
acknowledged what it was about, and can give it back as one blob.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Sequence
from typing import TypeVar

from isolate.cas.digest import Blob
from isolate.cas.store import BlobStore, Written
from isolate.cas.wire import CHUNKED_ABOVE_BYTES
from isolate.clock import Clock
from isolate.crew import JOB_BYTES, JOB_FILES, GrowingCrew
from isolate.errors import ChunksMissing, FileChanged, IsolateError, Unavailable
from isolate.hashing import Hashed
from isolate.large import Stored, size_of
from isolate.monitor import Monitor
from isolate.retry import BUSY_TOTAL_S, BusyNotice
from isolate.upload import Wanted

T = TypeVar("T")

LARGE_IN_FLIGHT = 2  # large files that are read and sent
RETRY_DELAYS_S = (1.0, 3.0)  # before an upload that was cut off goes on; the connection has its own retries


class Sender:
    """Sends to one store by means of one crew, and counts what it sent."""

    def __init__(self, store: BlobStore, crew: GrowingCrew, clock: Clock, monitor: Monitor) -> None:
        self._store, self._crew, self._clock, self._monitor = store, crew, clock, monitor
        self._busy = BusyNotice(monitor)
        self._large = asyncio.Semaphore(LARGE_IN_FLIGHT)

    async def send(self, files: Sequence[Wanted], hand: int | None = None) -> None:
        """Send a job of files, that `hand` of the crew has read; raises FileChanged and what the store raises."""
        if len(files) == 1 and files[0].blob.size > CHUNKED_ABOVE_BYTES:
            told = _Telling(self._monitor)
            found, written = await self._store_large(files[0].path, told)
            self._settle(written.stored, told.sent_bytes, files)
            if found.stamp is None or found.blob != files[0].blob:
                raise FileChanged(files[0].path)
        else:
            written = await self._upload(files, hand)
            self._settle(written.stored, written.size_bytes, files)
            self._monitor.count("uploaded_bytes", written.size_bytes)

    async def send_file(self, path: str) -> Blob:
        """Have a file in the store that nobody has read yet, and return what it is called; raises as `send` does."""
        size_bytes = size_of(path)
        self._monitor.expect("hashed_files", 1)
        self._monitor.expect("hashed_bytes", size_bytes)
        if size_bytes > CHUNKED_ABOVE_BYTES:
            file = await self.read_large(path, size_bytes)
        else:
            (found,), _ = await self._crew.hash([path])
            if isinstance(found, IsolateError):
                raise found
            file = found
            self._monitor.count("hashed_bytes", file.blob.size)
            self._monitor.count("archived_bytes", file.blob.size)
        self._monitor.count("hashed_files")
        is_sent = size_bytes > CHUNKED_ABOVE_BYTES and file.stamp is not None
        if not is_sent and file.blob.size and await self._store.missing([file.blob]):
            self.expect(1, file.blob.size)
            await self.send([Wanted(path, file.blob)])
        return file.blob

    async def read_large(self, path: str, size_bytes: int) -> Hashed:
        """Return what a large file is called by its content, which is in the store if it has a stamp.

        It is announced as one of `size_bytes` that has to be sent; what of it is there turns out on the way.
        """
        told = _FirstTelling(self._monitor, size_bytes)
        archived_bytes = stored = 0
        try:
            file, written = await self._store_large(path, told)
            archived_bytes, stored = file.blob.size, written.stored
        finally:
            told.settle(archived_bytes, stored)
        self._monitor.count("hashed_bytes", archived_bytes - told.read_bytes)
        return file

    async def send_content(self, blob: Blob, content: bytes) -> None:
        """Send a manifest, unless the store has it."""
        written = await self._resumed(lambda: self._crew.upload_content(blob, content))
        self._monitor.count("uploaded_manifests", written.stored)
        self._monitor.count("uploaded_manifest_bytes", written.size_bytes)

    def expect(self, blobs: int, size_bytes: int) -> None:
        """Note that so much more is to be sent."""
        self._monitor.expect("uploaded_blobs", blobs)
        self._monitor.expect("uploaded_bytes", size_bytes)

    def _settle(self, stored: int, sent_bytes: int, files: Sequence[Wanted]) -> None:
        """Expect no more than what was sent: of large files some chunks were there, and others send, too."""
        self.expect(stored - len(files), sent_bytes - sum([file.blob.size for file in files]))
        self._monitor.count("uploaded_blobs", stored)

    async def _store_large(self, path: str, told: _Telling) -> Stored:
        async def once() -> Stored:
            told.at_bytes = 0
            async with self._large:
                return await self._crew.store_large(path, told)

        return await self._resumed(once, lambda: told.at_bytes)

    async def _upload(self, files: Sequence[Wanted], hand: int | None = None) -> Written:
        left = files

        async def once() -> Written:
            return await self._crew.upload(left, hand)

        async def look_again() -> None:
            nonlocal left
            missing = set(await self._store.missing([file.blob for file in left]))
            left = [file for file in left if file.blob in missing]

        return await self._resumed(once, lambda: len(files) - len(left), look_again)

    async def _resumed(
        self,
        upload: Callable[[], Awaitable[T]],
        done: Callable[[], int] = lambda: 0,
        look_again: Callable[[], Awaitable[None]] | None = None,
    ) -> T:
        """Return what `upload` does, begun again where it breaks; `done` says how far it came.

        Before each but the first, `look_again` says what arrived and need not be sent again; its failure is the last.
        """
        resuming = _Resuming(self._clock, self._busy)
        while True:
            try:
                return await upload()
            except (ChunksMissing, Unavailable) as error:
                await resuming.pause(error, done())
            if look_again is not None:
                await look_again()


class _Resuming:
    """How long an upload that broke pauses before it goes on, and when it is given up.

    A store that asks to come again is there: that ends when nothing was done for BUSY_TOTAL_S, not by a number.
    """

    def __init__(self, clock: Clock, notice: BusyNotice) -> None:
        self._clock, self._notice = clock, notice
        self._delays_s = iter(RETRY_DELAYS_S)
        self._done = -1  # the most that any attempt came to, and since when
        self._since_s = 0.0

    async def pause(self, error: IsolateError, done: int) -> None:
        """Return when the upload may go on, of which so much was `done`; raises `error` when it may not."""
        if not isinstance(error, Unavailable) or error.retry_after_s is None:
            delay_s = next(self._delays_s, None)
            if delay_s is None:
                raise error
        else:
            now_s, delay_s = self._clock.monotonic(), error.retry_after_s
            if done > self._done:
                self._done, self._since_s = done, now_s - error.waited_s
            if now_s + delay_s - self._since_s > BUSY_TOTAL_S:
                raise error
            self._notice.waited(error, now_s + delay_s - self._since_s)
        await self._clock.sleep(delay_s)


class _Telling:
    """Counts what is sent of one large file: each part of it once, also where it is begun again and sent again."""

    def __init__(self, monitor: Monitor) -> None:
        self._monitor = monitor
        self.sent_bytes = 0
        self.at_bytes = 0  # what was read since it was begun, perhaps again
        self.read_bytes = 0  # the most that this came to

    def __call__(self, read_bytes: int, sent_bytes: int) -> None:
        self.at_bytes += read_bytes
        new_bytes = max(0, self.at_bytes - self.read_bytes)
        self.read_bytes += new_bytes
        new_sent_bytes = min(sent_bytes, new_bytes)
        self.sent_bytes += new_sent_bytes
        self._monitor.count("uploaded_bytes", new_sent_bytes)


class _FirstTelling(_Telling):
    """Of a file that was never read: all of it counts as to be sent until the store is asked what it has."""

    def __init__(self, monitor: Monitor, size_bytes: int) -> None:
        super().__init__(monitor)
        self._size_bytes = self._expected_bytes = size_bytes
        monitor.expect("uploaded_blobs", 1)
        monitor.expect("uploaded_bytes", size_bytes)
        monitor.count("archived_bytes", size_bytes)

    def __call__(self, read_bytes: int, sent_bytes: int) -> None:
        read_before_bytes, sent_before_bytes = self.read_bytes, self.sent_bytes
        super().__call__(read_bytes, sent_bytes)
        new_bytes = self.read_bytes - read_before_bytes
        known_bytes = new_bytes - (self.sent_bytes - sent_before_bytes)
        self._monitor.count("hashed_bytes", new_bytes)
        self._monitor.expect("uploaded_bytes", -known_bytes)
        self._expected_bytes -= known_bytes

    def settle(self, archived_bytes: int, stored: int) -> None:
        """Put what it came to in the place of what was announced."""
        self._monitor.expect("uploaded_blobs", stored - 1)
        self._monitor.expect("uploaded_bytes", self.sent_bytes - self._expected_bytes)
        self._monitor.count("uploaded_blobs", stored)
        self._monitor.count("archived_bytes", archived_bytes - self._size_bytes)


def jobs_of(files: Sequence[Wanted]) -> Iterator[list[Wanted]]:
    """Cut `files` into jobs of a size that several workers can share; a large file is a job of its own."""
    job: list[Wanted] = []
    job_bytes = 0
    for file in files:
        _, (_, size_bytes) = file
        if job and (len(job) == JOB_FILES or job_bytes + size_bytes > JOB_BYTES):
            yield job
            job, job_bytes = [], 0
        if size_bytes > CHUNKED_ABOVE_BYTES:
            yield [file]
            continue
        job.append(file)
        job_bytes += size_bytes
    if job:
        yield job
