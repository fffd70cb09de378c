"""What a task prints, on its way from a pipe to the server: kept in a file first, sent from there.

Knows no protocol. The runner writes the file, the bot reads it, so nothing is lost while the server is away, and a slow
disk never delays a heartbeat. The invariant: bytes are sent in order, each with its offset, and sending the same bytes
again changes nothing.
"""

from __future__ import annotations

import base64
import os
import threading
from collections.abc import Callable
from pathlib import Path

CHUNK_BYTES = 100 << 10  # the packet of 2020
MAX_OUTPUT_BYTES = 1024 * CHUNK_BYTES  # what a server keeps of one task; the rest is read, counted and dropped
_READ_BYTES = 64 << 10  # what a pipe holds


class Spool:
    """The file seen by the bot: what has been written, and how much of it the server has."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.written_bytes = 0
        self.sent_bytes = 0

    @property
    def pending_bytes(self) -> int:
        """How much was written and not yet acknowledged."""
        return self.written_bytes - self.sent_bytes

    def grown_to(self, written_bytes: int) -> None:
        """Learn from the runner how long the file is."""
        self.written_bytes = max(self.written_bytes, written_bytes)

    def measure(self) -> None:
        """Look how long the file is: when the runner can no longer say."""
        try:
            self.grown_to(self._path.stat().st_size)
        except FileNotFoundError:
            return

    def chunk(self) -> bytes:
        """Return the next bytes to send, at most CHUNK_BYTES, from offset `sent_bytes` on."""
        length = min(CHUNK_BYTES, self.pending_bytes)
        if not length:
            return b""
        with self._path.open("rb") as file:
            file.seek(self.sent_bytes)
            return file.read(length)

    def sent(self, chunk: bytes) -> None:
        """Remember that the server acknowledged `chunk`."""
        self.sent_bytes += len(chunk)


class SpoolWriter:
    """Copies a pipe to the file from a thread of its own, until the last writer of the pipe is gone.

    `grown` is called from that thread after every read; `dropped_bytes` counts what did not fit any more.
    """

    def __init__(self, path: Path, grown: Callable[[], None], limit_bytes: int = MAX_OUTPUT_BYTES) -> None:
        self.written_bytes = 0
        self.dropped_bytes = 0
        self._grown, self._limit_bytes = grown, limit_bytes
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        self._read_end, self.write_end = os.pipe()
        self._thread = threading.Thread(target=self._copy, name="spool", daemon=True)
        self._thread.start()

    def finish(self, timeout_s: float) -> None:
        """Close our end of the pipe and wait until all of it is in the file.

        A process that hid from its own end could hold the pipe open for ever; what it says is not waited for.
        """
        os.close(self.write_end)
        self.finish_reading(timeout_s)

    def finish_reading(self, timeout_s: float) -> None:
        """Wait until all is in the file, for at most `timeout_s`."""
        self._thread.join(timeout_s)

    def _copy(self) -> None:
        with os.fdopen(self._read_end, "rb", buffering=0) as pipe, os.fdopen(self._file, "wb", buffering=0) as file:
            while data := pipe.read(_READ_BYTES):
                kept = data[: self._limit_bytes - self.written_bytes]
                written = self._keep(file.fileno(), kept)
                self.written_bytes += written
                self.dropped_bytes += len(data) - written
                self._grown()

    @staticmethod
    def _keep(file: int, data: bytes) -> int:
        """Write `data`; a full disk loses output, it must not block the task nor lose its result."""
        written = 0
        try:
            while written < len(data):
                written += os.write(file, data[written:])
        except OSError:
            return written
        return written


def encode_chunk(offset_bytes: int, chunk: bytes) -> dict[str, object]:
    """Return the fields of an update that carry `chunk`; none for none."""
    return {"output": base64.b64encode(chunk).decode(), "output_chunk_start": offset_bytes} if chunk else {}
