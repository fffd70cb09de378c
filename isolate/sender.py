"""What the store lacks -> the store, through a crew: small files together, large ones in pieces, broken uploads again.

Knows no trees and no threads. The invariant: when a call returns, the store has acknowledged what it was about, and can
give it back as one blob.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence

from isolate.cas.digest import Blob
from isolate.cas.store import BlobStore, Written
from isolate.cas.wire import CHUNKED_ABOVE_BYTES, MAX_BLOB_BYTES
from isolate.clock import Clock
from isolate.crew import GrowingCrew
from isolate.errors import FileChanged, TooLarge, Unavailable, UploadCorrupt, first_cause
from isolate.monitor import Monitor
from isolate.upload import Wanted

JOB_FILES, JOB_BYTES = 512, 6 << 20  # of one hash or upload job: some 20 ms of work
LARGE_IN_FLIGHT = 2  # large files that are cut or sent
PIECE_JOBS_IN_FLIGHT = 8  # of a large file; each is JOB_BYTES for some worker
RETRY_DELAYS_S = (1.0, 3.0)  # before an upload that was cut off goes on; the connection has its own retries


class Sender:
    """Sends to one store by means of one crew, and counts what it sent."""

    def __init__(self, store: BlobStore, crew: GrowingCrew, clock: Clock, monitor: Monitor) -> None:
        self._store, self._crew, self._clock, self._monitor = store, crew, clock, monitor
        self._large = asyncio.Semaphore(LARGE_IN_FLIGHT)
        self._pieces = asyncio.Semaphore(PIECE_JOBS_IN_FLIGHT)

    async def send(self, files: Sequence[Wanted], hand: int | None = None) -> None:
        """Send a job of files, that `hand` of the crew has read; raises FileChanged and what the store raises."""
        if len(files) == 1 and files[0].blob.size > CHUNKED_ABOVE_BYTES:
            async with self._large:
                await self._send_large(files[0])
        else:
            self._count(await self._upload(files, hand))

    async def send_content(self, blob: Blob, content: bytes) -> None:
        """Send a manifest, unless the store has it."""
        written = await self._crew.upload_content(blob, content)
        self._count(written)
        self._monitor.count("uploaded_manifest_bytes", written.size_bytes)

    async def _send_large(self, file: Wanted) -> None:
        path, blob, _ = file
        if blob.size > MAX_BLOB_BYTES:
            raise TooLarge(f"File {path!r} of {blob.size} bytes is larger than {MAX_BLOB_BYTES}")
        chunks = await self._crew.cut(path)
        if sum(size for _, size in chunks) != blob.size:
            raise FileChanged(path)
        missing = set(await self._store.missing(list(dict.fromkeys(chunks))))
        wanted: dict[Blob, Wanted] = {}
        offset = 0
        for chunk in chunks:
            if chunk in missing:
                wanted.setdefault(chunk, Wanted(path, chunk, offset))
            offset += chunk.size
        try:
            async with asyncio.TaskGroup() as tasks:
                for job in jobs_of(list(wanted.values())):
                    await self._pieces.acquire()
                    tasks.create_task(self._send_pieces(job))
        except BaseExceptionGroup as group:
            raise first_cause(group) from group
        try:
            await self._store.compose(blob, chunks)
        except UploadCorrupt as error:
            raise FileChanged(path) from error  # each piece was verified when it was read
        self._count(Written(1, 0, 0))

    async def _send_pieces(self, pieces: Sequence[Wanted]) -> None:
        try:
            self._count(await self._upload(pieces))
        finally:
            self._pieces.release()

    async def _upload(self, files: Sequence[Wanted], hand: int | None = None) -> Written:
        for delay_s in RETRY_DELAYS_S:
            try:
                return await self._crew.upload(files, hand)
            except Unavailable:
                # The connection broke in the middle: what arrived before is not sent again.
                await self._clock.sleep(delay_s)
                missing = set(await self._store.missing([file.blob for file in files]))
                files = [file for file in files if file.blob in missing]
        return await self._crew.upload(files, hand)

    def _count(self, written: Written) -> None:
        self._monitor.count("uploaded_blobs", written.stored)
        self._monitor.count("uploaded_bytes", written.size_bytes)


def jobs_of(files: Sequence[Wanted]) -> Iterator[list[Wanted]]:
    """Cut `files` into jobs of a size that several workers can share; a large file is a job of its own."""
    job: list[Wanted] = []
    job_bytes = 0
    for file in files:
        if job and (len(job) == JOB_FILES or job_bytes + file.blob.size > JOB_BYTES):
            yield job
            job, job_bytes = [], 0
        if file.blob.size > CHUNKED_ABOVE_BYTES:
            yield [file]
            continue
        job.append(file)
        job_bytes += file.blob.size
    if job:
        yield job
