"""Files on disk -> digests and contents; the calling thread and the worker processes run the same code.

Knows no trees, no store and no processes. The invariants: only regular files are opened, never through a link in the
last place, never waiting for a pipe; a stamp is returned only if the file had it before and after it was read; what is
given out as the content of a blob has its digest.
"""

from __future__ import annotations

import errno
import os
import stat
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

from isolate.cas.digest import Algorithm, Blob
from isolate.errors import FileChanged, InvalidInput, IsolateError
from isolate.scan import Stamp, stamp_of, unreadable, what_is

READ_BYTES = 8 << 20  # BLAKE3 needs pieces of this size to keep every core busy
SMALL_BYTES = 4 << 20  # read whole; larger ones as a stream, and uploaded as chunks


class Hashed(NamedTuple):
    """What was read of one file; `stamp` is None if it changed meanwhile."""

    blob: Blob
    stamp: Stamp | None


class Stopped(Exception):
    """Reading was given up because nobody wants the result any more."""


class FileReader:
    """Reads files; its methods block, and `stop` makes those that are running in other threads fail soon.

    Nothing that was hashed is kept for its upload: measured, reading it again from the page cache costs less than the
    memory that would hold it until the store was asked.
    """

    def __init__(self, algorithm: Algorithm) -> None:
        self.algorithm = algorithm
        self._stopped = threading.Event()

    def hash(self, paths: Sequence[str]) -> list[Hashed | IsolateError]:
        """Return for each file what it is called by its content, or why it has no such name."""
        return [self._hash_or_error(path) for path in paths]

    def cut(self, path: str) -> list[Blob]:
        """Return the chunks of a large file, in order; raises FileChanged, Unreadable."""
        from isolate.cas.chunker import chunks  # only large files pay for its import

        digest = self.algorithm.digest
        with _opened(path) as descriptor:
            return [Blob(digest(chunk), len(chunk)) for chunk in chunks(_Stream(descriptor, self._check_stopped))]

    def read(self, path: str, blob: Blob, offset: int | None) -> bytes:
        """Return the content of a small file, or of the piece at `offset` of a large one, whose digest is known.

        Raises FileChanged when it is another one by now.
        """
        self._check_stopped()
        with _opened(path) as descriptor:
            if offset is None:
                content = _read_whole(descriptor, blob.size)
            else:
                content = os.pread(descriptor, blob.size, offset)
        if len(content) != blob.size or self.algorithm.digest(content) != blob.digest:
            raise FileChanged(path)
        return content

    def stop(self) -> None:
        self._stopped.set()

    def _hash_or_error(self, path: str) -> Hashed | IsolateError:
        self._check_stopped()
        try:
            with _opened(path) as descriptor:
                before = stamp_of(os.fstat(descriptor))
                blob = self._hash(descriptor, before[0])
                after = stamp_of(os.fstat(descriptor))
        except OSError as error:
            return unreadable(error, path)
        except IsolateError as error:
            return error
        return Hashed(blob, after if after == before and after[0] == blob.size else None)

    def _hash(self, descriptor: int, size_bytes: int) -> Blob:
        if size_bytes <= SMALL_BYTES:
            content = _read_whole(descriptor, size_bytes)
            if len(content) <= SMALL_BYTES:
                return Blob(self.algorithm.digest(content), len(content))
            os.lseek(descriptor, 0, os.SEEK_SET)  # it has grown past what is read whole
        hasher = self.algorithm.parallel_hasher()
        buffer = memoryview(bytearray(READ_BYTES))
        stream = _Stream(descriptor, self._check_stopped)
        length = 0
        while got := stream.readinto(buffer):
            hasher.update(buffer[:got])
            length += got
        return Blob(hasher.digest(), length)

    def _check_stopped(self) -> None:
        if self._stopped.is_set():
            raise Stopped


class _Stream:
    """An open file as the chunker wants it."""

    def __init__(self, descriptor: int, check: Callable[[], None]) -> None:
        self._descriptor = descriptor
        self._check = check

    def readinto(self, buffer: memoryview, /) -> int:
        self._check()
        return os.readv(self._descriptor, [buffer[:READ_BYTES]])


@contextmanager
def _opened(path: str) -> Iterator[int]:
    """Open a regular file; raises FileChanged, Unreadable, InvalidInput."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError as error:
        if error.errno in {errno.ELOOP, errno.ENXIO}:  # became a link or a pipe since it was scanned
            raise FileChanged(path) from error
        raise unreadable(error, path) from error
    try:
        mode = os.fstat(descriptor).st_mode
        if not stat.S_ISREG(mode):
            raise InvalidInput(f"{path!r} is {what_is(mode)}, which cannot be archived")
        yield descriptor
    finally:
        os.close(descriptor)


def _read_whole(descriptor: int, expected_bytes: int) -> bytes:
    """Return what is in a file that should have `expected_bytes`; if it has grown, some of the rest."""
    # One byte more than expected: the usual file needs a single call, which the short read proves to be complete.
    content = os.read(descriptor, expected_bytes + 1)
    if len(content) == expected_bytes:
        return content
    pieces = [content]
    while content and sum(map(len, pieces)) <= SMALL_BYTES:
        content = os.read(descriptor, READ_BYTES)
        pieces.append(content)
    return b"".join(pieces)
