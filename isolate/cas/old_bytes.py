"""Blobs of the namespaces of 2020, kept byte for byte as they were received: their records and their verification.

Pure: knows no file and no transport. Such a blob may be zlib made by any compressor at any level, and is given back as
it came, so it rests in segments of its own bytes instead of blocks. The invariant: content that went through
`Unwrapping` to its end has the digest and the size that were announced, and never more than one piece of it was held.

Layout, little-endian; `check` as in `block.py`::

    IBO1  algo 1, flags 1, digest, plain size 8, encoded size 8, number 4, count 4, check 8; bytes

Flags: 1 the bytes are zlib (else as they are), 2 they came in bulk (else within a JSON body). Every segment but the
last has 4 MiB. A segment names the blob it was uploaded as; whether it is that blob is known when the last one was
verified, so whoever rebuilds an index from packs has to verify again.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass

from isolate.cas.codec import Deflater, Inflater
from isolate.cas.digest import Algorithm, Blob, Codec, Namespace
from isolate.cas.layout import CHECK_BYTES, MAX_SEGMENT_BYTES, NO_CHECK, OLD, layout_of, sealed
from isolate.errors import BlobCorrupt, InvalidRecord

__all__ = [
    "MAX_SEGMENT_BYTES",
    "Encoding",
    "Segment",
    "Unwrapping",
    "head_bytes",
    "most_encoded_bytes",
    "segment_count",
]

ZLIB_LEVEL = 6  # of blobs that are encoded while an old client waits; 2020's own default
_ZLIB, _BULK = 1, 2


def most_encoded_bytes(size: int) -> int:
    """Return a size that no reasonable encoding of `size` bytes exceeds; more is refused before it is read.

    Stored zlib blocks of a few hundred bytes each, worse than any compressor makes them, still fit.
    """
    return size + (size >> 5) + (64 << 10)


def head_bytes(digest_bytes: int) -> int:
    """Return how much longer than its bytes a segment is."""
    return 6 + digest_bytes + 24 + CHECK_BYTES


def segment_count(encoded_bytes: int) -> int:
    """Return how many segments a blob of `encoded_bytes` has."""
    return max(1, -(-encoded_bytes // MAX_SEGMENT_BYTES))


@dataclass(frozen=True, slots=True)
class Segment:
    """One piece of a blob as it was received."""

    algorithm: Algorithm
    codec: Codec
    bulk: bool
    blob: Blob
    encoded_bytes: int  # of the whole blob
    number: int
    data: bytes | memoryview

    @property
    def count(self) -> int:
        """Number of segments of the whole blob."""
        return segment_count(self.encoded_bytes)

    def encode(self) -> bytes:
        """Return the record."""
        flags = _ZLIB * (self.codec is Codec.ZLIB) + _BULK * self.bulk
        sizes = (self.blob.size, self.encoded_bytes, self.number, self.count, NO_CHECK)
        head = struct.pack("<4sBB", OLD, self.algorithm.code, flags) + self.blob.digest + struct.pack("<QQII8s", *sizes)
        return sealed(head, self.data)

    @classmethod
    def decode(cls, data: bytes, algorithm: Algorithm) -> Segment:
        """Return the segment that is exactly `data`; raises InvalidRecord."""
        layout = layout_of(data) if data[:4] == OLD else None
        if layout is None or layout.length != len(data):
            raise InvalidRecord("Record is not one whole segment of old bytes")
        if layout.check_of(data) != data[layout.check_at : layout.check_at + CHECK_BYTES]:
            raise InvalidRecord("Record is damaged: its check differs")
        flags = data[5]
        if layout.algorithm is not algorithm or flags & ~(_ZLIB | _BULK):
            raise InvalidRecord("Old bytes are of another algorithm or have unknown flags")
        digest, size, encoded, number, _ = struct.unpack_from(f"<{algorithm.digest_bytes}sQQII", data, 6)
        codec = Codec.ZLIB if flags & _ZLIB else Codec.IDENTITY
        body = memoryview(data)[layout.body_at :]
        return cls(algorithm, codec, bool(flags & _BULK), Blob(digest, size), encoded, number, body)


class Unwrapping:
    """Encoded bytes in, plain bytes out, and at the end the certainty that they are `blob`."""

    def __init__(self, algorithm: Algorithm, codec: Codec, blob: Blob) -> None:
        self._blob = blob
        self._inflater = Inflater() if codec is Codec.ZLIB else None
        self._hasher = algorithm.hasher()
        self._size_bytes = self._fed_bytes = 0

    def feed(self, encoded: bytes | memoryview) -> Iterator[bytes | memoryview]:
        """Yield the content of the next piece; raises InvalidRecord, and BlobCorrupt past the announced size."""
        self._fed_bytes += len(encoded)
        if self._inflater is None:
            yield from self._counted(iter([encoded] if encoded else ()))
        else:
            yield from self._counted(self._inflater.feed(encoded))

    def finish(self) -> Iterator[bytes | memoryview]:
        """Yield the rest; raises InvalidRecord, BlobCorrupt."""
        # 2020 takes no bytes at all for the empty blob, also where the namespace says zlib.
        if self._inflater is not None and (self._fed_bytes or self._blob.size):
            yield from self._counted(self._inflater.finish())
        found = self._hasher.digest()
        if found != self._blob.digest or self._size_bytes != self._blob.size:
            raise BlobCorrupt(self._blob, found if found != self._blob.digest else b"")

    def _counted(self, pieces: Iterator[bytes | memoryview]) -> Iterator[bytes | memoryview]:
        for piece in pieces:
            self._size_bytes += len(piece)
            if self._size_bytes > self._blob.size:
                raise BlobCorrupt(self._blob, b"")
            self._hasher.update(piece)
            yield piece

    def check(self, encoded: bytes | memoryview, *, last: bool) -> None:
        """Take a piece whose content nobody needs, and finish with the last one."""
        for _ in self.feed(encoded):
            pass
        if last:
            for _ in self.finish():
                pass


class Encoding:
    """Plain bytes in, bytes as a namespace of 2020 has them out."""

    def __init__(self, namespace: Namespace) -> None:
        self._deflater = Deflater(ZLIB_LEVEL) if namespace.codec is Codec.ZLIB else None

    def feed(self, plain: bytes | memoryview) -> bytes:
        """Return what can be sent already."""
        return bytes(plain) if self._deflater is None else self._deflater.feed(plain)

    def finish(self) -> bytes:
        """Return the rest."""
        return b"" if self._deflater is None else self._deflater.finish()
