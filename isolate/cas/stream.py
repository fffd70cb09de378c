"""Records out of a stream of bytes, whatever the pieces they arrive in.

Pure: knows no connection. The invariant: at most one record is held, and none is given out behind a bad one.
"""

from __future__ import annotations

from collections.abc import Iterator

from isolate.cas.block import MAX_HEADER_BYTES, End, Record, decode_record, record_length
from isolate.cas.digest import Algorithm
from isolate.errors import InvalidRecord


class RecordReader:
    """Turns the bytes of a stream into records, whatever the pieces they arrive in; holds one record at most."""

    def __init__(self, algorithm: Algorithm) -> None:
        self._algorithm = algorithm
        self._buffer = bytearray()
        self._wanted = 0  # length of the record at the start of the buffer, 0 while unknown
        self.ended = False  # whether the end mark was seen

    def feed(self, data: bytes | bytearray | memoryview) -> Iterator[Record]:
        """Yield the records that `data` completes; exhaust it before the next call.

        Raises InvalidRecord at the first bad one, after those before it; then the stream is lost. Bytes behind the end
        mark are an error.
        """
        self._buffer += data
        while self._buffer:
            if self.ended:
                raise InvalidRecord("Stream goes on behind its end mark")
            if not self._wanted:
                with memoryview(self._buffer) as view, view[:MAX_HEADER_BYTES] as head:
                    self._wanted = record_length(head) or 0
            if not self._wanted or len(self._buffer) < self._wanted:
                return
            with memoryview(self._buffer) as view, view[: self._wanted] as whole:
                data = bytes(whole)
            del self._buffer[: self._wanted]
            self._wanted = 0
            record = decode_record(data, self._algorithm)
            self.ended = isinstance(record, End)
            yield record

    def finish(self) -> None:
        """Accept that no more bytes come; raises InvalidRecord when the end mark was not seen."""
        if not self.ended:
            raise InvalidRecord("Stream was cut off: it has no end mark")
