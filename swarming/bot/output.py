"""What a task prints, on its way from a pipe to the server: kept in a file first, sent from there.

Knows no protocol but its unit, the chunk. A thread writes the file, so nothing is lost while the server is away and a
slow disk never delays a heartbeat; the reading end of the pipe is the bot's, so nothing is lost with a runner that is
killed. The invariant: bytes go in order, each with its offset, and sending the same bytes again changes nothing; what
is kept has no gap, and where it ends before the output did, it says so.
"""

from __future__ import annotations

import base64
import os
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

CHUNK_BYTES = 100 << 10  # the packet of 2020
MAX_OUTPUT_BYTES = 1024 * CHUNK_BYTES  # what a server keeps of one task; the rest is read, counted and dropped
_READ_BYTES = 64 << 10  # what a pipe holds
# After a short read more is waited for: a task that prints byte by byte must not wake the bot for each.
_SHORT_BYTES = 4 << 10
_GATHER_S = 0.005


class Spool:
    """The output of one task: how much there is, and how much of it the server has."""

    def __init__(
        self, path: Path, limit_bytes: int = MAX_OUTPUT_BYTES, write: Callable[[int, bytes], int] = os.write
    ) -> None:
        self.written_bytes = 0
        self.sent_bytes = 0
        self.dropped_bytes = 0  # more than a server would keep
        self.lost_bytes = 0  # the disk did not take them
        self._path, self._limit_bytes, self._write = path, limit_bytes, write
        self._last_words = b""  # about what was lost; never in the file, for which there was no space
        self._ending = threading.Event()
        self._thread: threading.Thread | None = None

    @property
    def pending_bytes(self) -> int:
        """How much was written and not yet acknowledged."""
        return self.written_bytes + len(self._last_words) - self.sent_bytes

    def fill_from(self, pipe: int, grown: Callable[[], None]) -> None:
        """Own the descriptor `pipe`, and copy all that comes from it until its last writer is gone.

        `grown` is called now and then, from another thread. Raises OSError when there is a file already.
        """
        try:
            file = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        except OSError:
            os.close(pipe)
            raise
        self._thread = threading.Thread(target=self._copy, args=(pipe, file, grown), name="spool", daemon=True)
        self._thread.start()

    def finish(self, timeout_s: float) -> None:
        """Wait until all is in the file, for at most `timeout_s`.

        A process that hid from the end of its task could hold the pipe open for ever; what it says is not waited for.
        """
        self._ending.set()
        if self._thread is not None:
            self._thread.join(timeout_s)
        if self.lost_bytes:
            self._last_words = f"\n[{self.complaint}]\n".encode()

    @property
    def complaint(self) -> str:
        """What to say of lost output, "" when there is none."""
        lost = self.lost_bytes
        return f"the bot's disk was full: {lost} bytes of output after this were not kept" if lost else ""

    def chunk(self) -> bytes:
        """Return the next bytes to send, at most CHUNK_BYTES, from offset `sent_bytes` on."""
        length = min(CHUNK_BYTES, self.written_bytes - self.sent_bytes)
        if length <= 0:
            return self._last_words[-length:]
        with self._path.open("rb") as file:
            file.seek(self.sent_bytes)
            return file.read(length)

    def sent(self, chunk: bytes) -> None:
        """Remember that the server acknowledged `chunk`."""
        self.sent_bytes += len(chunk)

    def _copy(self, source: int, target: int, grown: Callable[[], None]) -> None:
        with os.fdopen(source, "rb", buffering=0) as pipe, os.fdopen(target, "wb", buffering=0) as file:
            while data := pipe.read(_READ_BYTES):
                self._take(file.fileno(), data)
                grown()
                if len(data) < _SHORT_BYTES:
                    self._ending.wait(_GATHER_S)

    def _take(self, file: int, data: bytes) -> None:
        """Write what fits; a full disk loses output, it must not block the task.

        Nothing is kept after the first loss: bytes behind a gap would read as if there were none.
        """
        wanted = data[: self._limit_bytes - self.written_bytes]
        self.dropped_bytes += len(data) - len(wanted)
        with suppress(OSError):  # counted below, and said in the last words
            while wanted and not self.lost_bytes:
                written = self._write(file, wanted)
                wanted, self.written_bytes = wanted[written:], self.written_bytes + written
        self.lost_bytes += len(wanted)


def encode_chunk(offset_bytes: int, chunk: bytes) -> dict[str, object]:
    """Return the fields of an update that carry `chunk`; none for none."""
    return {"output": base64.b64encode(chunk).decode(), "output_chunk_start": offset_bytes} if chunk else {}
