"""Worker processes as seen by the process that gives them work.

Knows no trees and no stores. The invariants: when the context is left every worker is gone, within GRACE_S whatever it
was doing; a worker that dies early fails the jobs it had instead of leaving somebody waiting for them.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Self

from isolate.cas.store import Written
from isolate.errors import InternalFailure
from isolate.hands import ROOM, Batch, Remote, Room
from isolate.large import Stored, Told
from isolate.messages import (
    HashDone,
    HashJob,
    Job,
    JobFailed,
    LargeDone,
    LargeGoesOn,
    LargeJob,
    Reply,
    Setup,
    UploadDone,
    UploadJob,
    decode_reply,
    framed,
    hashed,
    pack_paths,
    unframed,
    unpack_error,
)
from isolate.scan import Stamp
from isolate.upload import Wanted

MAX_WORKERS = 3
# All processes of an archive may use 300 MB: the parent takes up to 105. Measured with two workers, each took up to 75;
# three took as much each and 290 together, and with this room up to 65 each and 267 together, in the same time.
TIGHT = Room(kept_bytes=6 << 20, uploading=2)
GRACE_S = 2.0
STATUS_S = 0.5
HASHING_EACH = 2  # one batch is read while the next is on its way


def default_workers() -> int:
    """Return how many workers keep this machine busy."""
    return max(1, min(MAX_WORKERS, len(os.sched_getaffinity(0))))


class Pool:
    """A `Crew` of worker processes; all of them leave with the context."""

    def __init__(self, target: Remote, workers: int) -> None:
        room = ROOM if workers < MAX_WORKERS else TIGHT
        self._setup = Setup(target.url, target.namespace.name, target.user_agent, *room)
        self._workers: list[_Worker] = [_Worker() for _ in range(workers)]
        self._hashing = asyncio.Semaphore(workers * HASHING_EACH)
        self._uploading = asyncio.Semaphore(workers * room.uploading)

    async def __aenter__(self) -> Self:
        try:
            for worker in self._workers:
                await worker.start(self._setup)
        except BaseException:
            await self.__aexit__()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        for worker in self._workers:
            worker.dismiss()
        for worker in self._workers:
            await worker.left()

    async def hash(self, paths: Sequence[str], stamps: Sequence[Stamp] = ()) -> Batch:
        reply, hand = await self._read(lambda number: HashJob(number, pack_paths(paths), list(stamps)))
        assert isinstance(reply, HashDone), "a worker answers what it was asked"
        return Batch(hashed(reply, stamps), hand)

    async def store_large(self, path: str, told: Told) -> Stored:
        reply, _ = await self._read(lambda number: LargeJob(number, os.fsencode(path)), told)
        assert isinstance(reply, LargeDone), "a worker answers what it was asked"
        return reply.stored

    async def upload(self, files: Sequence[Wanted], hand: int | None = None) -> Written:
        paths = pack_paths([file.path for file in files])
        blobs = [blob for _, blob in files]
        async with self._uploading:
            if hand is None:
                worker = min(self._workers, key=lambda candidate: candidate.uploading)
            else:
                worker = self._workers[hand]
            worker.uploading += 1
            try:
                reply = await worker.ask(lambda number: UploadJob(number, paths, blobs))
            finally:
                worker.uploading -= 1
        assert isinstance(reply, UploadDone), "a worker answers what it was asked"
        return reply.written

    async def _read(self, job: Callable[[int], Job], told: Told | None = None) -> tuple[Reply, int]:
        """Give a job of reading to the worker that has the fewest; return its answer and which it was."""
        async with self._hashing:
            worker = min(self._workers, key=lambda candidate: candidate.hashing)
            worker.hashing += 1
            try:
                return await worker.ask(job, told), self._workers.index(worker)
            finally:
                worker.hashing -= 1


class _Worker(asyncio.Protocol):
    """One process and the jobs it was given."""

    def __init__(self) -> None:
        self.hashing = 0
        self.uploading = 0
        self._numbers = itertools.count()
        self._jobs: dict[int, asyncio.Future[Reply]] = {}
        self._told: dict[int, Told] = {}
        self._received = bytearray()
        self._process: subprocess.Popen[bytes] | None = None
        self._transport: asyncio.WriteTransport | None = None
        self._gone = asyncio.Event()

    async def start(self, setup: Setup) -> None:
        transport, _ = await asyncio.get_running_loop().create_unix_connection(lambda: self, sock=self._spawn())
        self._transport = transport
        transport.write(framed(setup))

    def _spawn(self) -> socket.socket:
        """Start the process and return our end of the line to it."""
        ours, theirs = socket.socketpair()
        with theirs:
            # `-P`: the directory we were started in may hold something called `isolate`.
            command = [sys.executable, "-P", "-m", "isolate.workers", str(theirs.fileno()), str(os.getpid())]
            # Born with SIGINT blocked, a worker cannot be interrupted before it knows what to do about it.
            blocked = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
            try:
                self._process = subprocess.Popen(command, stdin=subprocess.DEVNULL, pass_fds=[theirs.fileno()])
            except OSError as error:
                ours.close()
                raise InternalFailure(f"Cannot start a worker process: {error}") from error
            finally:
                signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
        return ours

    async def ask(self, job: Callable[[int], Job], told: Told | None = None) -> Reply:
        """Return the answer to the job made by `job` from its number; raises what the worker raised.

        `told` hears what comes before the answer.
        """
        if self._transport is None or self._gone.is_set():
            raise self._death()
        number = next(self._numbers)
        answer: asyncio.Future[Reply] = asyncio.get_running_loop().create_future()
        self._jobs[number] = answer
        if told is not None:
            self._told[number] = told
        try:
            self._transport.write(framed(job(number)))
            return await answer
        finally:
            del self._jobs[number]
            self._told.pop(number, None)

    def data_received(self, data: bytes) -> None:
        self._received += data
        for message in unframed(self._received):
            reply = decode_reply(message)
            answer = self._jobs.get(reply.number)
            if answer is None or answer.done():
                continue  # nobody waits any more
            if isinstance(reply, LargeGoesOn):
                self._told[reply.number](reply.read_bytes, reply.sent_bytes)
            elif isinstance(reply, JobFailed):
                answer.set_exception(unpack_error(reply.failure))
            else:
                answer.set_result(reply)

    def connection_lost(self, _error: Exception | None) -> None:
        self._gone.set()
        for answer in self._jobs.values():
            if not answer.done():
                answer.set_exception(self._death())

    def dismiss(self) -> None:
        """Tell the process to leave; it does so at the end of its input, whatever it is doing."""
        if self._transport is not None and not self._gone.is_set():
            self._transport.write_eof()

    async def left(self) -> None:
        """Return when the process is gone; kills it after GRACE_S."""
        process = self._process
        if process is None:
            return
        try:
            async with asyncio.timeout(GRACE_S):
                await self._gone.wait()
        except TimeoutError:
            process.kill()
        finally:
            if self._transport is not None:
                self._transport.close()
            # Its end of the socket is closed or it was killed: this takes a moment at most.
            process.wait()

    def _death(self) -> InternalFailure:
        ending = ""
        if self._process is not None:
            with suppress(subprocess.TimeoutExpired):
                # It closed its end of the line by dying, so its status is there in a moment.
                ending = f" with status {self._process.wait(STATUS_S)}"
        return InternalFailure(f"A worker process ended unexpectedly{ending}")
