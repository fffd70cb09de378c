"""Records that wait to be read again, in any order: in memory while they are small, else in a file.

Knows nothing of what they hold. The invariants: at most BUFFER_BYTES and eight bytes per record are in memory, however
much is appended; the file has no name, so that nothing of it is left when the process dies.
"""

from __future__ import annotations

import errno
import os
import weakref
from array import array
from collections.abc import Callable, Sequence
from typing import overload

from isolate.errors import IsolateError, NoSpace

BUFFER_BYTES = 2 << 20


class Spool(Sequence[bytes]):
    """Records in the order they were appended; for one thread at a time."""

    def __init__(self, temporary: Callable[[], str]) -> None:
        """`temporary` returns a path for a new file; it is asked once there is more than a little."""
        self._temporary = temporary
        self._ends = array("Q", [0])
        self._tail = bytearray()  # what is not in the file yet
        self._file: int | None = None

    def append(self, record: bytes) -> None:
        """Keep a record; raises NoSpace."""
        self._tail += record
        self._ends.append(self._ends[-1] + len(record))
        if len(self._tail) > BUFFER_BYTES:
            self._flush()

    def __len__(self) -> int:
        return len(self._ends) - 1

    @overload
    def __getitem__(self, index: int) -> bytes: ...
    @overload
    def __getitem__(self, index: slice) -> list[bytes]: ...
    def __getitem__(self, index: int | slice) -> bytes | list[bytes]:
        if isinstance(index, slice):
            return [self[one] for one in range(*index.indices(len(self)))]
        if not 0 <= index < len(self):
            raise IndexError(index)
        start, end = self._ends[index], self._ends[index + 1]
        written = self._ends[-1] - len(self._tail)
        if start >= written or self._file is None:
            return bytes(self._tail[start - written : end - written])
        return _exactly(self._file, start, end - start)

    def _flush(self) -> None:
        try:
            if self._file is None:
                self._file = _unnamed(self._temporary())
                weakref.finalize(self, os.close, self._file)
            left = memoryview(self._tail)
            while left:
                left = left[os.write(self._file, left) :]
        except OSError as error:
            kind = NoSpace if error.errno in {errno.ENOSPC, errno.EDQUOT} else IsolateError
            raise kind(f"Cannot keep temporary data: {error.strerror}") from error
        self._tail = bytearray()


def temporary_path() -> str:
    """Return a path for a new file where this system keeps such."""
    import tempfile  # who has a cache does without

    return os.path.join(tempfile.gettempdir(), f"isolate-{os.urandom(8).hex()}")


def _unnamed(path: str) -> int:
    file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    os.unlink(path)
    return file


def _exactly(file: int, offset: int, length: int) -> bytes:
    data = os.pread(file, length, offset)
    while len(data) < length:
        more = os.pread(file, length - len(data), offset + len(data))
        if not more:
            raise IsolateError("Temporary data was cut off")
        data += more
    return data
