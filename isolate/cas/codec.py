"""Codecs with output limits: zstd frames and zlib streams are made and opened here and nowhere else.

Knows no records and no digests. The invariant: nothing is allocated that a frame asks for before what it asks for has
been compared with what the caller expects.
"""

from __future__ import annotations

import threading
import zlib
from collections.abc import Iterator
from functools import cached_property
from typing import TYPE_CHECKING

from isolate.errors import InvalidRecord

if TYPE_CHECKING:  # imported when there is a frame: a run that has all its files does not pay for it
    import zstandard

MIN_LEVEL, MAX_LEVEL = -5, 9  # slower than 9 is never the right choice for an upload somebody waits for
MAX_WINDOW_BYTES = 16 << 20  # as large as the largest block, so that no valid block needs more

_FRAME_MAGIC = b"\x28\xb5\x2f\xfd"


class _PerThread(threading.local):
    """Contexts cost more than a small block and must not be shared between threads."""

    def __init__(self) -> None:
        self.compressors: dict[int, zstandard.ZstdCompressor] = {}

    @cached_property
    def decompressor(self) -> zstandard.ZstdDecompressor:
        import zstandard

        return zstandard.ZstdDecompressor(max_window_size=MAX_WINDOW_BYTES)


_contexts = _PerThread()


def zstd_bound(plain_bytes: int) -> int:
    """Return the size no frame of `plain_bytes` needs to exceed (`ZSTD_compressBound`)."""
    margin = ((128 << 10) - plain_bytes) >> 11 if plain_bytes < 128 << 10 else 0
    return plain_bytes + (plain_bytes >> 8) + margin


def zstd_compress(plain: bytes | memoryview, level: int) -> bytes:
    """Return `plain` as one zstd frame that declares its content size."""
    compressor = _contexts.compressors.get(level)
    if compressor is None:
        if not MIN_LEVEL <= level <= MAX_LEVEL:
            msg = f"Compression level {level} is not in {MIN_LEVEL}…{MAX_LEVEL}"
            raise ValueError(msg)
        import zstandard

        compressor = _contexts.compressors[level] = zstandard.ZstdCompressor(level=level)
    return compressor.compress(plain)


def zstd_decompress(frame: bytes | memoryview, plain_bytes: int) -> bytes:
    """Return the content of `frame`, which must be exactly one frame of `plain_bytes`; raises InvalidRecord.

    The header is read first: python-zstandard lets a declared content size override any limit on the output.
    """
    if frame[:4] != _FRAME_MAGIC:
        raise InvalidRecord("Payload is not a zstd frame")
    import zstandard

    try:
        parameters = zstandard.get_frame_parameters(frame)
        if parameters.content_size != plain_bytes:
            raise InvalidRecord(f"Payload does not declare the block's {plain_bytes} bytes of content")
        if parameters.window_size > MAX_WINDOW_BYTES:
            raise InvalidRecord(f"Payload needs a window of {parameters.window_size} bytes, limit {MAX_WINDOW_BYTES}")
        if parameters.dict_id:
            raise InvalidRecord("Payload needs a dictionary")
        return _contexts.decompressor.decompress(frame, max_output_size=plain_bytes, allow_extra_data=False)
    except zstandard.ZstdError as error:
        raise InvalidRecord(f"Payload is not one whole zstd frame: {error}") from error


def zlib_compress(plain: bytes) -> bytes:
    """Return `plain` as one zlib stream, as the formats of 2020 have it."""
    return zlib.compress(plain)


def zlib_decompress(stream: bytes, most_bytes: int) -> bytes:
    """Return the content of `stream`, exactly one zlib stream of at most `most_bytes`; raises InvalidRecord."""
    decompressor = zlib.decompressobj()
    try:
        plain = decompressor.decompress(stream, most_bytes + 1)
    except zlib.error as error:
        raise InvalidRecord(f"Not a zlib stream: {error}") from error
    if len(plain) > most_bytes:
        raise InvalidRecord(f"zlib stream has more than {most_bytes} bytes of content")
    if not decompressor.eof or decompressor.unused_data:
        raise InvalidRecord("Not one whole zlib stream")
    return plain


class Inflater:
    """Opens one zlib stream that arrives in pieces; holds little content, whatever a piece expands to."""

    PIECE_BYTES = 256 << 10
    _BITE_BYTES = 16 << 10  # zlib copies what it has not consumed each time it stops

    def __init__(self) -> None:
        self._decompressor = zlib.decompressobj()

    def feed(self, data: bytes | memoryview) -> Iterator[bytes]:
        """Yield the content of `data`; raises InvalidRecord."""
        view = memoryview(data)
        for start in range(0, len(view), self._BITE_BYTES):
            bite: bytes | memoryview = view[start : start + self._BITE_BYTES]
            while bite:
                if self._decompressor.eof:
                    raise InvalidRecord("zlib stream has bytes behind its end")
                try:
                    plain = self._decompressor.decompress(bite, self.PIECE_BYTES)
                except zlib.error as error:
                    raise InvalidRecord(f"Not a zlib stream: {error}") from error
                if plain:
                    yield plain
                bite = self._decompressor.unconsumed_tail or self._decompressor.unused_data

    def finish(self) -> Iterator[bytes]:
        """Yield what is left when everything was fed; raises InvalidRecord unless the stream is whole."""
        try:
            while not self._decompressor.eof and (plain := self._decompressor.decompress(b"", self.PIECE_BYTES)):
                yield plain
        except zlib.error as error:
            raise InvalidRecord(f"Not a zlib stream: {error}") from error
        if not self._decompressor.eof:
            raise InvalidRecord("zlib stream is cut off")


class Deflater:
    """Makes one zlib stream, piece by piece; the same content in whatever pieces gives the same stream."""

    def __init__(self, level: int) -> None:
        self._compressor = zlib.compressobj(level)

    def feed(self, data: bytes | memoryview) -> bytes:
        """Return what can be sent already."""
        return self._compressor.compress(data)

    def finish(self) -> bytes:
        """Return the rest."""
        return self._compressor.flush()
