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
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import NamedTuple, cast

from isolate.cas.digest import Algorithm, Blob, fast_blob
from isolate.errors import FileChanged, InvalidInput, IsolateError
from isolate.scan import Stamp, stamp_of, unreadable, what_is

READ_BYTES = 8 << 20  # BLAKE3 needs pieces of this size to keep every core busy
SMALL_BYTES = 4 << 20  # read whole; larger ones as a stream, and uploaded as chunks
# Contents that were hashed wait this long for their upload. Measured: opening, reading and hashing 110,000 files again
# is a seventh of all an archive costs.
KEPT_BYTES = 12 << 20
KEPT_EACH_BYTES = 700  # of a content, beside the content: its path, stamp and digest

_FLAGS = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK


class Hashed(NamedTuple):
    """What was read of one file; `stamp` is None if it changed meanwhile."""

    blob: Blob
    stamp: Stamp | None


# What `Hashed(...)` does, without a call in Python for each of a hundred thousand.
fast_hashed = cast("Callable[[tuple[object, ...]], Hashed]", partial(tuple.__new__, Hashed))


class Stopped(Exception):
    """Reading was given up because nobody wants the result any more."""


class FileReader:
    """Reads files; its methods block, and `stop` makes those that are running in other threads fail soon.

    Small contents that were hashed are kept for a while, the youngest `kept_bytes` of them, until they are read for
    their upload; then their file is only looked at, and must still have the stamp it was hashed with.
    """

    def __init__(self, algorithm: Algorithm, kept_bytes: int = KEPT_BYTES) -> None:
        self.algorithm = algorithm
        self._most_kept_bytes = kept_bytes
        self._stopped = threading.Event()
        self._keeping = threading.Lock()
        # Ordered: a plain dict looks for its oldest item among all that were removed before.
        self._kept: OrderedDict[bytes, tuple[str, Stamp, bytes]] = OrderedDict()
        self._kept_bytes = 0

    def hash(self, paths: Sequence[str], stamps: Sequence[Stamp] = ()) -> list[Hashed | IsolateError]:
        """Return for each file what it is called by its content, or why it has no such name.

        `stamps` are those that the files had a moment ago: one that still has its own after it was read need not be
        looked at before, and the very same stamp is returned.
        """
        carefully = self._hash_or_error
        if not stamps:
            return [carefully(path) for path in paths]
        found = self._hash_as_expected(paths, stamps)
        return [one or carefully(path) for path, one in zip(paths, found, strict=True)]

    def read(self, path: str, blob: Blob) -> bytes:
        """Return the content of a small file whose digest is known; raises FileChanged when it is another by now."""
        self.check_stopped()
        kept = self._take(path, blob)
        if kept is not None:
            return kept
        descriptor, _ = open_regular(path)
        try:
            content = _read_whole(descriptor, blob.size)
        finally:
            os.close(descriptor)
        if len(content) != blob.size or self.algorithm.digest(content) != blob.digest:
            raise FileChanged(path)
        return content

    def stop(self) -> None:
        self._stopped.set()

    def _hash_as_expected(self, paths: Sequence[str], stamps: Sequence[Stamp]) -> Iterator[Hashed | None]:
        """Read small files that have not changed since they had their stamps; yield None for all else, whatever it is.

        One loop, with everything it calls at hand: of a hundred thousand files every step costs a tenth of a second.
        """
        open_, read, fstat, close = os.open, os.read, os.fstat, os.close
        hasher, keep, is_stopped = self.algorithm.hasher, self._keep, self._stopped.is_set
        for path, expected in zip(paths, stamps, strict=True):
            size_bytes = expected[0]
            if size_bytes > SMALL_BYTES or is_stopped():
                yield None
                continue
            try:
                descriptor = open_(path, _FLAGS)
                try:
                    content = read(descriptor, size_bytes + 1)
                    after = fstat(descriptor)
                finally:
                    close(descriptor)
            except OSError:
                yield None
                continue
            now = after.st_size, after.st_mtime_ns, after.st_ctime_ns, after.st_ino, after.st_dev
            if now != expected or len(content) != size_bytes:
                yield None
                continue
            blob = fast_blob((hasher(content).digest(), size_bytes))
            if content:
                keep(path, blob, expected, content)
            yield fast_hashed((blob, expected))

    def _hash_or_error(self, path: str) -> Hashed | IsolateError:
        self.check_stopped()
        try:
            descriptor, status = open_regular(path)
        except IsolateError as error:
            return error
        try:
            before = stamp_of(status)
            blob, content = self._hash(descriptor, before[0])
            after = stamp_of(os.fstat(descriptor))
        except OSError as error:
            return unreadable(error, path)
        finally:
            os.close(descriptor)
        if after != before or after[0] != blob.size:
            return Hashed(blob, None)
        if content:
            self._keep(path, blob, after, content)
        return Hashed(blob, after)

    def _hash(self, descriptor: int, size_bytes: int) -> tuple[Blob, bytes]:
        """Return the name of the content, and the content itself when it was read whole."""
        if size_bytes <= SMALL_BYTES:
            content = _read_whole(descriptor, size_bytes)
            if len(content) <= SMALL_BYTES:
                return Blob(self.algorithm.digest(content), len(content)), content
            os.lseek(descriptor, 0, os.SEEK_SET)  # it has grown past what is read whole
        hasher = self.algorithm.parallel_hasher()
        buffer = memoryview(bytearray(READ_BYTES))
        stream = Stream(descriptor, self.check_stopped)
        length = 0
        while got := stream.readinto(buffer):
            hasher.update(buffer[:got])
            length += got
        return Blob(hasher.digest(), length), b""

    @property
    def kept(self) -> int:
        """How many contents wait for their upload."""
        return len(self._kept)

    def _keep(self, path: str, blob: Blob, stamp: Stamp, content: bytes) -> None:
        digest, size_bytes = blob
        with self._keeping:
            if digest in self._kept:
                return  # the first file of a content is the one that will be asked for
            self._kept[digest] = path, stamp, content
            self._kept_bytes += size_bytes + KEPT_EACH_BYTES
            while self._kept_bytes > self._most_kept_bytes:
                _, (_, _, oldest) = self._kept.popitem(last=False)
                self._kept_bytes -= len(oldest) + KEPT_EACH_BYTES

    def _take(self, path: str, blob: Blob) -> bytes | None:
        """Return the content that was kept, None when it has to be read; raises FileChanged."""
        digest, size_bytes = blob
        with self._keeping:
            kept = self._kept.get(digest)
            if kept is None or kept[0] != path:
                return None
            del self._kept[digest]
            self._kept_bytes -= size_bytes + KEPT_EACH_BYTES
        _, stamp, content = kept
        try:
            now = stamp_of(os.lstat(path))
        except OSError as error:
            raise unreadable(error, path) from error
        if now != stamp:
            raise FileChanged(path)
        return content

    def check_stopped(self) -> None:
        """Raise Stopped once `stop` was called."""
        if self._stopped.is_set():
            raise Stopped


class Stream:
    """An open file as the chunker wants it."""

    def __init__(self, descriptor: int, check: Callable[[], None]) -> None:
        self._descriptor = descriptor
        self._check = check

    def readinto(self, buffer: memoryview, /) -> int:
        self._check()
        return os.readv(self._descriptor, [buffer[:READ_BYTES]])


def open_regular(path: str) -> tuple[int, os.stat_result]:
    """Open a regular file, for the caller to close; raises FileChanged, Unreadable, InvalidInput."""
    try:
        descriptor = os.open(path, _FLAGS)
    except OSError as error:
        if error.errno in {errno.ELOOP, errno.ENXIO}:  # became a link or a pipe since it was scanned
            raise FileChanged(path) from error
        raise unreadable(error, path) from error
    try:
        status = os.fstat(descriptor)
    except OSError as error:
        os.close(descriptor)
        raise unreadable(error, path) from error
    if not stat.S_ISREG(status.st_mode):
        os.close(descriptor)
        raise InvalidInput(f"{path!r} is {what_is(status.st_mode)}, which cannot be archived")
    return descriptor, status


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
