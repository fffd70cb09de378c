"""A worker process: hashes and uploads files near the data, for a parent that decides; `python -m isolate.workers`.

Knows no trees. Blob bytes never pass between processes: the parent sends paths, gets digests back, and each worker
sends contents over its own connection. The invariant: a worker does not outlive its parent. It leaves at the end of the
socket pair it was given, at any moment, and on Linux the kernel kills it together with its parent.
"""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys
from collections.abc import Sequence
from contextlib import AsyncExitStack, suppress
from functools import partial

from isolate import errors
from isolate.cas.digest import Namespace
from isolate.clock import SystemClock
from isolate.cycles import collect_seldom
from isolate.errors import InternalFailure, IsolateError
from isolate.hands import Hands, Remote, Room
from isolate.messages import (
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
    decode_request,
    framed,
    hash_done,
    pack_error,
    unframed,
    unpack_paths,
)
from isolate.monitor import NullMonitor
from isolate.upload import Wanted

_PR_SET_PDEATHSIG = 1
_READ_BYTES = 1 << 20


class _Worker:
    def __init__(self, hands: Hands, writer: asyncio.StreamWriter) -> None:
        self._hands = hands
        self._writer = writer

    async def answer(self, job: Job) -> None:
        """Do a job and say how it went."""
        reply: Reply
        try:
            reply = await self._do(job)
        except Exception as error:  # noqa: BLE001 - whatever it is, the parent must not wait for ever
            cause = errors.first_cause(error)
            if not isinstance(cause, IsolateError):
                cause = InternalFailure(f"A worker process met {type(cause).__name__}: {cause}")
            reply = JobFailed(job.number, pack_error(cause))
        with suppress(ConnectionError):  # the parent is gone: `_serve` is about to notice
            self._writer.write(framed(reply))
            await self._writer.drain()

    async def _do(self, job: Job) -> Reply:
        match job:
            case HashJob(number, paths, stamps):
                return hash_done(number, (await self._hands.hash(unpack_paths(paths), stamps)).files, stamps)
            case LargeJob(number, path):
                return LargeDone(number, await self._hands.store_large(os.fsdecode(path), partial(self._tell, number)))
            case UploadJob(number, paths, blobs):
                return UploadDone(number, await self._hands.upload(list(map(Wanted, unpack_paths(paths), blobs))))

    def _tell(self, number: int, read_bytes: int, sent_bytes: int) -> None:
        self._writer.write(framed(LargeGoesOn(number, read_bytes, sent_bytes)))  # some bytes for megabytes read


async def _serve(connection: socket.socket) -> None:
    reader, writer = await asyncio.open_connection(sock=connection)
    received = bytearray()
    worker: _Worker | None = None
    async with AsyncExitStack() as stack, asyncio.TaskGroup() as jobs:
        while data := await _next(reader):
            received += data
            for message in unframed(received):
                request = decode_request(message)
                if isinstance(request, Setup):
                    worker = _Worker(await stack.enter_async_context(_hands(request)), writer)
                else:
                    assert worker is not None, "the first message is the setup"
                    jobs.create_task(worker.answer(request))
        # Nobody is left to answer, and nothing here needs tidying: leave at once, also from the middle of a job.
        os._exit(0)


async def _next(reader: asyncio.StreamReader) -> bytes:
    """Return more of what the parent says, nothing when it is gone."""
    try:
        return await reader.read(_READ_BYTES)
    except ConnectionError:
        return b""


def _hands(setup: Setup) -> Hands:
    target = Remote(setup.url, Namespace.parse(setup.namespace), setup.user_agent)
    return Hands(target, 1, SystemClock(), NullMonitor(), Room(setup.kept_bytes, setup.uploading))


def _die_with(parent: int) -> None:
    """Ask the kernel to kill this process when its parent dies, and make sure it has not died before that."""
    if sys.platform == "linux":
        import ctypes

        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(0)


def main(arguments: Sequence[str]) -> None:
    """Work for process `arguments[1]` over the inherited socket `arguments[0]`."""
    # Ctrl-C reaches the whole group; what happens then is the parent's decision. It started us with SIGINT blocked, so
    # that none could arrive before this line.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    _die_with(int(arguments[1]))
    collect_seldom()
    asyncio.run(_serve(socket.socket(fileno=int(arguments[0]))))


if __name__ == "__main__":
    main(sys.argv[1:])
