"""Records out of a stream of bytes, whatever the pieces they arrive in.

Pure: knows no connection. The invariant: at most one record is held, and none is given out behind a bad one.
"""

from __future__ import annotations

from collections.abc import Iterator

from isolate.cas.block import MAX_HEADER_BYTES, End, Record, decode_record, record_length
from isolate.cas.digest import Algorithm
from isolate.errors import InvalidRecord


class RecordReader:
    """Turns the bytes of a stream into records, whatever the pieces they arrive in; holds one record at most.

    The pieces are kept as they came until a record is whole, so that each byte is copied once.
    """

    def __init__(self, algorithm: Algorithm) -> None:
        self._algorithm = algorithm
        self._pieces: list[bytes | memoryview] = []
        self._held = 0  # bytes in the pieces
        self._wanted = 0  # length of the record at the start of the pieces, 0 while unknown
        self.ended = False  # whether the end mark was seen

    def feed(self, data: bytes | bytearray | memoryview) -> Iterator[Record]:
        """Yield the records that `data` completes; exhaust it before the next call.

        Raises InvalidRecord at the first bad one, after those before it; then the stream is lost. Bytes behind the end
        mark are an error.
        """
        if data:
            self._pieces.append(bytes(data))  # no copy of bytes; anything else is the caller's to use again
            self._held += len(data)
        while self._held:
            if self.ended:
                raise InvalidRecord("Stream goes on behind its end mark")
            self._wanted = self._wanted or record_length(self._head()) or 0
            if not self._wanted or self._held < self._wanted:
                return
            record = decode_record(self._cut(), self._algorithm)
            self.ended = isinstance(record, End)
            yield record

    def finish(self) -> None:
        """Accept that no more bytes come; raises InvalidRecord when the end mark was not seen."""
        if not self.ended:
            raise InvalidRecord("Stream was cut off: it has no end mark")

    def _head(self) -> bytes | memoryview:
        """Return what may be the header of the next record; many pieces that are shorter become one."""
        if len(self._pieces) > 1 and len(self._pieces[0]) < MAX_HEADER_BYTES:
            self._pieces = [b"".join(self._pieces)]
        return self._pieces[0][:MAX_HEADER_BYTES]

    def _cut(self) -> bytes:
        """Take the record at the start, which is whole, out of the pieces."""
        whole, self._wanted = self._wanted, 0
        last = memoryview(self._pieces[-1])
        self._held -= whole
        kept = len(last) - self._held  # of the last piece, that belongs to the record
        self._pieces[-1] = last[:kept]
        data = b"".join(self._pieces)
        self._pieces = [last[kept:]] if self._held else []
        return data
