"""Records: round trips, every limit from both sides, and bytes of people who mean harm."""

from __future__ import annotations

import itertools
import random
import struct
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from isolate.cas import codec, shrinking
from isolate.cas.block import (
    MAX_ENTRIES,
    MAX_HEADER_BYTES,
    MAX_PLAIN_BYTES,
    Absent,
    Block,
    ChunkList,
    End,
    Record,
    StreamError,
    decode_record,
    encode_record,
    record_length,
)
from isolate.cas.digest import ALGORITHMS, BLAKE3, SHA1, SHA256, Algorithm, Blob, Codec
from isolate.cas.stream import RecordReader
from isolate.errors import BlobCorrupt, InvalidRecord
from tests.records import blob_of, block_of, check, raw_block
from tests.unit.decoding import decoded, refuses

algorithms = st.sampled_from(list(ALGORITHMS.values()))
contents = st.lists(st.binary(min_size=1, max_size=300), min_size=1, max_size=8)
X = blob_of(b"x")


# The bytes themselves.


def test_a_block_has_the_bytes_of_the_format() -> None:
    block = block_of(b"hello", b"world!", level=None)
    body = BLAKE3.digest(b"hello") + b"\x05\0\0\0" + BLAKE3.digest(b"world!") + b"\x06\0\0\0" + b"helloworld!"
    head = b"IBK1" + b"\x00\x04\x00\x00" + b"\x02\0\0\0" + b"\x0b\0\0\0" + b"\x0b\0\0\0"
    assert block.encode() == head + check(head + bytes(8) + body) + body


def test_a_recipe_has_the_bytes_of_the_format() -> None:
    recipe = ChunkList(Blob(b"r" * 20, 0x1_0000_0001), tuple(Blob(bytes([i]) * 20, 0xFF_FFFF) for i in range(256)))
    recipe = ChunkList(Blob(b"r" * 20, 256 * 0xFF_FFFF), recipe.chunks)
    head = b"IBR1\x01" + b"r" * 20 + struct.pack("<QI", 256 * 0xFF_FFFF, 256)
    body = b"".join(bytes([i]) * 20 + b"\xff\xff\xff\x00" for i in range(256))
    assert encode_record(recipe, SHA1) == head + check(head + bytes(8) + body) + body
    assert decode_record(encode_record(recipe, SHA1), SHA1) == recipe


def test_the_ends_of_a_stream_have_their_bytes() -> None:
    assert encode_record(End(), BLAKE3) == b"IBZ1" + check(b"IBZ1" + bytes(8))
    head = b"IBA1\x02\x01\0\0\0"
    assert encode_record(Absent((b"a" * 32,)), SHA256) == head + check(head + bytes(8) + b"a" * 32) + b"a" * 32
    head, body = b"IBX1\x08\0\0\0", b'{"a": 1}'
    assert encode_record(StreamError({"a": 1}), BLAKE3) == head + check(head + bytes(8) + body) + body


@settings(deadline=None)
@given(contents, algorithms, st.sampled_from([None, -5, 1, 3, 9]))
def test_blocks_round_trip(plain: list[bytes], algorithm: Algorithm, level: int | None) -> None:
    block = block_of(*plain, algorithm=algorithm, level=level)
    record = block.encode()
    back = decode_record(record, algorithm)
    assert back == block
    assert isinstance(back, Block)
    assert back.encode() == record
    assert back.plain_size == sum(map(len, plain))
    assert [bytes(content) for _, content in back.contents()] == plain
    assert record_length(record[:MAX_HEADER_BYTES]) == len(record)


@settings(deadline=None)
@given(algorithms, st.lists(st.integers(1, MAX_PLAIN_BYTES), min_size=1, max_size=20), st.data())
def test_recipes_and_absent_lists_round_trip(algorithm: Algorithm, sizes: list[int], data: st.DataObject) -> None:
    digests = st.binary(min_size=algorithm.digest_bytes, max_size=algorithm.digest_bytes)
    chunks = tuple(Blob(data.draw(digests), size) for size in sizes)
    recipe = ChunkList(Blob(data.draw(digests), sum(sizes)), chunks)
    absent = Absent(tuple(chunk.digest for chunk in chunks))
    for record in (recipe, absent):
        encoded = encode_record(record, algorithm)
        assert decode_record(encoded, algorithm) == record
        assert record_length(encoded[:MAX_HEADER_BYTES]) == len(encoded)


@settings(deadline=None)
@given(st.dictionaries(st.text(), st.integers() | st.text(), max_size=4))
def test_errors_round_trip(payload: dict[str, Any]) -> None:
    assert decoded(encode_record(StreamError(payload), BLAKE3)) == StreamError(payload)


# Packing.


def test_contents_that_do_not_shrink_travel_as_they_are() -> None:
    noise = random.Random(1).randbytes(200_000)
    assert block_of(noise).codec is Codec.IDENTITY
    assert block_of(noise[:1000]).codec is Codec.IDENTITY
    assert block_of(noise[:1000] * 3).codec is Codec.ZSTD


def test_64_kib_from_all_over_decide(monkeypatch: pytest.MonkeyPatch) -> None:
    compressed: list[int] = []
    real = codec.zstd_compress

    def recording(plain: bytes | memoryview, level: int) -> bytes:
        compressed.append(len(plain))
        return real(plain, level)

    monkeypatch.setattr(shrinking, "zstd_compress", recording)
    noise = random.Random(1).randbytes(64 << 10)
    assert block_of(random.Random(2).randbytes(300_000)).codec is Codec.IDENTITY
    assert compressed == [64 << 10]
    compressed.clear()
    assert block_of(noise * 2 + bytes(192 << 10)).codec is Codec.ZSTD
    assert compressed == [64 << 10, 320 << 10]
    compressed.clear()
    assert block_of(noise).codec is Codec.IDENTITY
    assert compressed == [64 << 10]  # not tried twice


def test_without_a_level_nothing_is_compressed() -> None:
    block = block_of(bytes(5000), level=None)
    assert (block.codec, block.payload) == (Codec.IDENTITY, bytes(5000))


def test_packing_keeps_the_limits() -> None:
    one = [(X, b"x")]
    assert len(Block.pack(BLAKE3, one * MAX_ENTRIES, None).entries) == MAX_ENTRIES
    with pytest.raises(InvalidRecord, match="entries"):
        Block.pack(BLAKE3, one * (MAX_ENTRIES + 1), None)
    with pytest.raises(InvalidRecord, match="entries"):
        Block.pack(BLAKE3, [], None)
    with pytest.raises(InvalidRecord, match="limit"):
        block_of(bytes(MAX_PLAIN_BYTES), b"x")
    with pytest.raises(InvalidRecord, match="empty blob"):
        block_of(b"x", b"")
    with pytest.raises(InvalidRecord, match="its entries say"):
        Block.pack(BLAKE3, [(Blob(X.digest, 2), b"x")], None)


@pytest.mark.parametrize("level", [-6, 10])
def test_a_level_out_of_range_is_a_mistake_of_the_program(level: int) -> None:
    with pytest.raises(ValueError, match="level"):
        block_of(b"x" * 100, level=level)


# Verification.


def test_a_wrong_digest_is_named_with_what_was_found() -> None:
    wrong = Blob(b"w" * 32, 4)
    block = decoded(raw_block([blob_of(b"good"), wrong], b"goodevil"))
    assert isinstance(block, Block)
    seen = block.contents()
    assert bytes(next(seen)[1]) == b"good"
    with pytest.raises(BlobCorrupt) as caught:
        next(seen)
    assert (caught.value.blob, caught.value.found) == (wrong, BLAKE3.digest(b"evil"))


def test_a_block_built_wrong_in_memory_is_refused() -> None:
    block = Block(BLAKE3, Codec.IDENTITY, (Blob(X.digest, 2),), b"x")
    with pytest.raises(InvalidRecord, match="its entries say"):
        list(block.contents())


def test_every_flipped_bit_is_noticed() -> None:
    records: list[Record] = [block_of(b"abc" * 30, b"de"), ChunkList(Blob(b"b" * 32, 1), (X,)), Absent((b"a" * 32,))]
    records += [StreamError({"a": 1}), End()]
    for record in records:
        good = encode_record(record, BLAKE3)
        for bit in range(8 * len(good)):
            bad = bytearray(good)
            bad[bit // 8] ^= 1 << bit % 8
            with pytest.raises(InvalidRecord):
                decoded(bytes(bad))


@pytest.mark.parametrize("record", [block_of(b"abc"), End(), Absent(()), ChunkList(X, (X,)), StreamError({})])
def test_a_record_must_be_exactly_its_bytes(record: Record) -> None:
    good = encode_record(record, BLAKE3)
    assert decoded(good) == record
    for end in range(len(good)):
        with pytest.raises(InvalidRecord):
            decoded(good[:end])
    refuses(good + b"\0", "behind its end")


def test_digests_of_another_algorithm_are_refused() -> None:
    for record in (block_of(b"x"), ChunkList(X, (X,)), Absent((b"a" * 32,))):
        refuses(encode_record(record, BLAKE3), "sha-256 is expected", SHA256)


# Streams.

STREAM: list[Record] = [
    block_of(b"first", b"second" * 50), ChunkList(X, (X,)), Absent((b"a" * 32,)), StreamError({"error": {}}), End(),
]  # fmt: skip
STREAM_BYTES = b"".join(encode_record(record, BLAKE3) for record in STREAM)


@settings(deadline=None)
@given(st.lists(st.integers(0, len(STREAM_BYTES)), max_size=20))
def test_a_stream_may_arrive_in_any_pieces(cuts: list[int]) -> None:
    reader = RecordReader(BLAKE3)
    records: list[Record] = []
    edges = [0, *sorted(cuts), len(STREAM_BYTES)]
    for start, end in itertools.pairwise(edges):
        records += reader.feed(STREAM_BYTES[start:end])
    reader.finish()
    assert records == STREAM


def test_a_stream_may_arrive_byte_by_byte() -> None:
    reader = RecordReader(BLAKE3)
    records = [record for byte in STREAM_BYTES for record in reader.feed(bytes([byte]))]
    assert (records, reader.ended) == (STREAM, True)


def test_a_stream_may_arrive_in_a_buffer_that_is_used_again() -> None:
    reader, buffer = RecordReader(BLAKE3), bytearray(7)
    records: list[Record] = []
    for start in range(0, len(STREAM_BYTES), len(buffer)):
        piece = STREAM_BYTES[start : start + len(buffer)]
        buffer[: len(piece)] = piece
        records += reader.feed(memoryview(buffer)[: len(piece)])
    reader.finish()
    assert records == STREAM


def test_a_stream_without_its_end_counts_as_cut_off() -> None:
    reader = RecordReader(BLAKE3)
    assert list(reader.feed(STREAM_BYTES[:-1])) == STREAM[:-1]
    assert not reader.ended
    with pytest.raises(InvalidRecord, match="cut off"):
        reader.finish()


@pytest.mark.parametrize("apart", [False, True])
def test_a_stream_must_stop_at_its_end(apart: bool) -> None:
    reader = RecordReader(BLAKE3)
    if apart:
        assert list(reader.feed(STREAM_BYTES)) == STREAM
    with pytest.raises(InvalidRecord, match="behind its end"):
        list(reader.feed(b"I" if apart else STREAM_BYTES + b"I"))


def test_records_before_a_bad_one_are_delivered() -> None:
    records = RecordReader(BLAKE3).feed(STREAM_BYTES[:-12] + b"garbage" * 20)
    assert list(itertools.islice(records, len(STREAM) - 1)) == STREAM[:-1]
    with pytest.raises(InvalidRecord):
        next(records)


def test_a_bad_header_is_refused_before_its_body_is_awaited() -> None:
    reader = RecordReader(BLAKE3)
    head = raw_block([X], b"", plain=MAX_PLAIN_BYTES + 1, payload_bytes=MAX_PLAIN_BYTES + 1)[:28]
    assert list(reader.feed(head[:-1])) == []
    with pytest.raises(InvalidRecord, match="limit"):
        list(reader.feed(head[-1:]))
