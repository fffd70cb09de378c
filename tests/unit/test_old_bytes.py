"""Records of old bytes, and content that is verified piece by piece."""

from __future__ import annotations

import hashlib
import random
import zlib
from collections.abc import Iterator

import pytest
from blake3 import blake3
from hypothesis import given
from hypothesis import strategies as st

from isolate.cas.block import decode_record
from isolate.cas.codec import Deflater, Inflater
from isolate.cas.digest import SHA1, SHA256, SHA512, Algorithm, Blob, Codec, Namespace
from isolate.cas.layout import MAX_HEADER_BYTES, record_length
from isolate.cas.old_bytes import (
    MAX_SEGMENT_BYTES,
    Encoding,
    Segment,
    Unwrapping,
    head_bytes,
    most_encoded_bytes,
    segment_count,
)
from isolate.errors import BlobCorrupt, InvalidRecord
from tests.examples import examples

GZIP = Namespace.parse("default-gzip")
CONTENT = random.Random(5).randbytes(1000)
BLOB = GZIP.blob(CONTENT)


def segment(algorithm: Algorithm = SHA1, data: bytes = b"data", encoded_bytes: int = 4, number: int = 0) -> Segment:
    blob = Blob(algorithm.digest(b"content"), 7)
    return Segment(algorithm, Codec.ZLIB, True, blob, encoded_bytes, number, data)


@pytest.mark.parametrize("algorithm", [SHA1, SHA256, SHA512])
def test_a_record_comes_back_as_it_was(algorithm: Algorithm) -> None:
    one = segment(algorithm)
    data = one.encode()
    assert Segment.decode(data, algorithm) == one
    assert len(data) == head_bytes(algorithm.digest_bytes) + 4
    assert record_length(data[:MAX_HEADER_BYTES]) == len(data)


def test_the_bytes_on_disk_never_change() -> None:
    data = Segment(SHA1, Codec.ZLIB, True, Blob(SHA1.digest(b"x"), 1), 9, 0, b"as it was").encode()
    assert data[:4] == b"IBO1"
    assert data[4:6] == b"\x01\x03"
    assert data[6:26] == hashlib.sha1(b"x").digest()
    assert data[26:50] == bytes([1, *[0] * 7, 9, *[0] * 7, 0, 0, 0, 0, 1, 0, 0, 0])
    assert data[50:58] == blake3(data[:50] + bytes(8) + b"as it was").digest()[:8]
    assert data[50:].hex() == "aecb259ab3427ddc" + b"as it was".hex()


@pytest.mark.parametrize(
    ("encoded_bytes", "count"),
    [(0, 1), (1, 1), (MAX_SEGMENT_BYTES, 1), (MAX_SEGMENT_BYTES + 1, 2), (3 * MAX_SEGMENT_BYTES, 3)],
)
def test_how_many_segments(encoded_bytes: int, count: int) -> None:
    assert segment_count(encoded_bytes) == count
    last = encoded_bytes - (count - 1) * MAX_SEGMENT_BYTES
    data = segment(data=bytes(last), encoded_bytes=encoded_bytes, number=count - 1).encode()
    assert Segment.decode(data, SHA1).count == count
    with pytest.raises(InvalidRecord, match="call themselves segment"):
        Segment.decode(segment(encoded_bytes=encoded_bytes, number=count).encode(), SHA1)


def test_every_flipped_bit_is_noticed() -> None:
    data = segment().encode()
    for at in range(len(data)):
        bad = data[:at] + bytes([data[at] ^ 4]) + data[at + 1 :]
        with pytest.raises(InvalidRecord):
            Segment.decode(bad, SHA1)


def test_other_kinds_algorithms_and_lengths_are_refused() -> None:
    data = segment().encode()
    for bad in (b"", b"IBO1", data[:-1], data + b"x", b"IBZ1" + bytes(8)):
        with pytest.raises(InvalidRecord):
            Segment.decode(bad, SHA1)
    with pytest.raises(InvalidRecord, match="another algorithm"):
        Segment.decode(segment(SHA256).encode(), SHA1)
    with pytest.raises(InvalidRecord, match="only kept, never sent"):
        decode_record(data, SHA1)


@examples(2_000)
@given(st.binary(max_size=300))
def test_noise_is_no_record(noise: bytes) -> None:
    for data in (noise, b"IBO1" + noise):
        with pytest.raises(InvalidRecord):
            Segment.decode(data, SHA1)


def unwrapped(codec: Codec, blob: Blob, data: bytes, piece_bytes: int = 100) -> bytes:
    def plain() -> Iterator[bytes]:
        for start in range(0, len(data), piece_bytes):
            yield from map(bytes, unwrapping.feed(data[start : start + piece_bytes]))
        yield from map(bytes, unwrapping.finish())

    unwrapping = Unwrapping(SHA1, codec, blob)
    return b"".join(plain())


@pytest.mark.parametrize("piece_bytes", [1, 7, 1000, 100_000])
@pytest.mark.parametrize("content", [b"", b"x", CONTENT, bytes(700_000)])
def test_content_in_pieces_of_any_size(content: bytes, piece_bytes: int) -> None:
    blob = GZIP.blob(content)
    for level in (0, 1, 9):
        assert (
            unwrapped(Codec.ZLIB, blob, zlib.compress(content, level), max(piece_bytes, len(content) // 50)) == content
        )
    assert unwrapped(Codec.IDENTITY, blob, content, max(piece_bytes, len(content) // 50)) == content


def test_nothing_at_all_is_the_empty_blob_also_in_zlib() -> None:
    assert unwrapped(Codec.ZLIB, GZIP.empty, b"") == b""
    with pytest.raises(InvalidRecord, match="cut off"):
        unwrapped(Codec.ZLIB, BLOB, b"")


@pytest.mark.parametrize(
    "data",
    [
        zlib.compress(CONTENT)[:-1],
        zlib.compress(CONTENT)[:-5],
        zlib.compress(CONTENT) + b"\0",
        zlib.compress(CONTENT) * 2,
        CONTENT,
        b"\x1f\x8b" + zlib.compress(CONTENT),
    ],
)
def test_what_is_no_single_zlib_stream(data: bytes) -> None:
    for piece_bytes in (1, 10_000):
        with pytest.raises(InvalidRecord):
            unwrapped(Codec.ZLIB, BLOB, data, piece_bytes)


@pytest.mark.parametrize("codec", [Codec.ZLIB, Codec.IDENTITY])
@pytest.mark.parametrize("content", [CONTENT[:-1], CONTENT + b"x", CONTENT[::-1], bytes(1000)])
def test_other_content(codec: Codec, content: bytes) -> None:
    with pytest.raises(BlobCorrupt):
        unwrapped(codec, BLOB, zlib.compress(content) if codec is Codec.ZLIB else content)


def test_the_right_digest_with_the_wrong_size() -> None:
    with pytest.raises(BlobCorrupt, match="of another size"):
        unwrapped(Codec.IDENTITY, Blob(BLOB.digest, 1001), CONTENT)


def test_a_bomb_is_put_out_after_its_first_piece() -> None:
    bomb = zlib.compress(bytes(50_000_000), 9)
    unwrapping = Unwrapping(SHA1, Codec.ZLIB, Blob(bytes(20), 1_000_000))
    sizes: list[int] = []
    with pytest.raises(BlobCorrupt):
        sizes.extend(map(len, unwrapping.feed(bomb)))
    assert sum(sizes) <= 1_000_000
    assert max(sizes) <= Inflater.PIECE_BYTES


def test_no_compressor_exceeds_what_is_accepted() -> None:
    for size in (0, 1, 500, 100_000, 3_000_000):
        content = random.Random(size).randbytes(size)
        for level in range(10):
            assert len(zlib.compress(content, level)) <= most_encoded_bytes(size)
    compressor = zlib.compressobj(0)
    flushed = b"".join(compressor.compress(b"x" * 300) + compressor.flush(zlib.Z_FULL_FLUSH) for _ in range(1000))
    assert len(flushed + compressor.flush()) <= most_encoded_bytes(300_000)


def test_the_same_stream_from_whatever_pieces() -> None:
    whole = Deflater(6)
    parts = Deflater(6)
    content = CONTENT * 300
    data = whole.feed(content) + whole.finish()
    pieces = [parts.feed(content[start : start + 777]) for start in range(0, len(content), 777)]
    assert b"".join(pieces) + parts.finish() == data == zlib.compress(content, 6)
    flat = Encoding(Namespace.parse("default"))
    assert flat.feed(memoryview(b"as it is")) + flat.finish() == b"as it is"
