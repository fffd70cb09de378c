"""What a pack says about itself: its records one behind the other, without any index.

Blocking, and only reads. The invariants: a record is called sound only when its `check` is right; bytes that are no
sound record are reported as one range up to the next sound one, so that one rotten header hides nothing behind it.
"""

from __future__ import annotations

import errno
import os
import stat
import struct
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import NamedTuple, Self

from isolate.cas.digest import Algorithm, Blob
from isolate.cas.layout import BLOCK, CHECK_BYTES, MAX_HEADER_BYTES, OLD, RECIPE, Layout, layout_of
from isolate.errors import InvalidRecord

KEPT = (BLOCK, RECIPE, OLD)  # kinds of records that packs hold
WINDOW_BYTES = 64 << 10  # header and entries of a block of small files
_SEARCH_BYTES = 1 << 20


class Head(NamedTuple):
    """A record by its header: where it lies, of which kind it is, and the blobs it holds."""

    offset: int
    length: int
    magic: bytes
    algorithm: Algorithm
    blobs: tuple[Blob, ...]


class Found(NamedTuple):
    """A range of a pack: a sound record, or bytes that are none and why."""

    offset: int
    length: int
    record: bytes | None
    why: str = ""


def fault_of(record: bytes) -> str | None:
    """Return what is wrong with the bytes of one record, None when its check is right."""
    try:
        layout = _layout(record)
    except InvalidRecord as error:
        return str(error)
    if layout is None or layout.length != len(record):
        return "Record is cut off or has bytes behind its end"
    if layout.check_of(record) != record[layout.check_at : layout.check_at + CHECK_BYTES]:
        return "Record is damaged: its check differs"
    return None


class PackReader:
    """One pack file, open for reading; every method may raise OSError.

    What is no regular file is none: FileNotFoundError.
    """

    def __init__(self, path: Path) -> None:
        self._descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)  # a pipe is not waited for
        found = os.fstat(self._descriptor)
        self.length = found.st_size
        if not stat.S_ISREG(found.st_mode):
            os.close(self._descriptor)
            raise FileNotFoundError(errno.ENOENT, "it is no regular file", str(path))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        os.close(self._descriptor)

    def read(self, offset: int, length: int) -> bytes:
        """Return the bytes at a place, fewer at the end of the file."""
        pieces = []
        while length and (piece := os.pread(self._descriptor, length, offset)):
            pieces.append(piece)
            offset, length = offset + len(piece), length - len(piece)
        return b"".join(pieces)

    def head(self, offset: int) -> Head | None:
        """Return the record that begins at `offset` by its header, which is not verified; None when there is none."""
        window = self.read(offset, WINDOW_BYTES)
        try:
            layout = _layout(window)
        except InvalidRecord:
            return None
        if layout is None or layout.algorithm is None or offset + layout.length > self.length:
            return None
        if (needed := layout.body_at + layout.entries_bytes) > len(window):
            window = self.read(offset, needed)
        return Head(offset, layout.length, window[:4], layout.algorithm, _blobs(window, layout, layout.algorithm))

    def heads(self) -> Iterator[Head]:
        """Yield the records by their headers, up to the first place where there is none."""
        offset = 0
        while (head := self.head(offset)) is not None:
            yield head
            offset += head.length

    def records(self) -> Iterator[Found]:
        """Yield everything in the pack, in order and without gaps; holds one record at a time."""
        offset = bad_from = 0
        why = ""
        while offset < self.length:
            found = self._sound(offset)
            if isinstance(found, bytes):
                if bad_from < offset:
                    yield Found(bad_from, offset - bad_from, None, why)
                yield Found(offset, len(found), found)
                offset += len(found)
                bad_from, why = offset, ""
            else:
                why = why or found
                offset = self._next_magic(offset + 1)
        if bad_from < self.length:
            yield Found(bad_from, self.length - bad_from, None, why)

    def _sound(self, offset: int) -> bytes | str:
        """Return the sound record at `offset`, or why there is none."""
        try:
            layout = _layout(self.read(offset, MAX_HEADER_BYTES))
        except InvalidRecord as error:
            return str(error)
        if layout is None or offset + layout.length > self.length:
            return "Record is cut off"
        record = self.read(offset, layout.length)
        return fault_of(record) or record

    def _next_magic(self, offset: int) -> int:
        """Return where the next record may begin."""
        while offset < self.length:
            window = self.read(offset, _SEARCH_BYTES)
            places = [at for magic in KEPT if (at := window.find(magic)) >= 0]
            if places:
                return offset + min(places)
            offset += max(1, len(window) - len(BLOCK) + 1)
        return self.length


def _layout(head: bytes) -> Layout | None:
    if head[:4] not in KEPT:
        raise InvalidRecord(f"{head[:4]!r} does not begin a record of a pack")
    return layout_of(head)


def _blobs(window: bytes, layout: Layout, algorithm: Algorithm) -> tuple[Blob, ...]:
    size = algorithm.digest_bytes
    if window[:4] == BLOCK:
        entries = window[layout.body_at : layout.body_at + layout.entries_bytes]
        return tuple(map(Blob._make, struct.iter_unpack(f"<{size}sI", entries)))
    return (Blob._make(struct.unpack_from(f"<{size}sQ", window, 5 if window[:4] == RECIPE else 6)),)
