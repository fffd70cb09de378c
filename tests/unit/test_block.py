"""Records: round trips, every limit from both sides, and bytes of people who mean harm."""

from __future__ import annotations

import itertools
import json
import random
import struct
import tracemalloc
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from isolate.cas import block as block_module
from isolate.cas import codec
from isolate.cas.block import (
    MAX_ENTRIES,
    MAX_HEADER_BYTES,
    MAX_PLAIN_BYTES,
    Absent,
    Block,
    ChunkList,
    End,
    Record,
    RecordReader,
    StreamError,
    decode_record,
    encode_record,
    record_length,
)
from isolate.cas.codec import zstd_bound
from isolate.cas.digest import ALGORITHMS, BLAKE3, SHA1, SHA256, Algorithm, Blob, Codec
from isolate.cas.layout import MAX_ABSENT, MAX_ERROR_BYTES
from isolate.errors import BlobCorrupt, InvalidRecord
from tests.records import blob_of, block_of, check, raw_block, raw_frame, raw_recipe, seal

algorithms = st.sampled_from(list(ALGORITHMS.values()))
contents = st.lists(st.binary(min_size=1, max_size=300), min_size=1, max_size=8)
X = blob_of(b"x")


def decoded(data: bytes, algorithm: Algorithm = BLAKE3) -> Record:
    return decode_record(data, algorithm)


def opened(data: bytes) -> list[bytes]:
    record = decoded(data)
    assert isinstance(record, Block)
    return [bytes(content) for _, content in record.contents()]


def refuses(data: bytes, because: str, algorithm: Algorithm = BLAKE3) -> None:
    with pytest.raises(InvalidRecord, match=because):
        decode_record(data, algorithm)


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


def test_the_first_64_kib_decide(monkeypatch: pytest.MonkeyPatch) -> None:
    compressed: list[int] = []
    real = codec.zstd_compress

    def recording(plain: bytes | memoryview, level: int) -> bytes:
        compressed.append(len(plain))
        return real(plain, level)

    monkeypatch.setattr(block_module, "zstd_compress", recording)
    noise = random.Random(1).randbytes(64 << 10)
    assert block_of(noise + bytes(1 << 20)).codec is Codec.IDENTITY
    assert compressed == [64 << 10]
    compressed.clear()
    assert block_of(bytes(64 << 10) + noise).codec is Codec.ZSTD
    assert compressed == [64 << 10, 128 << 10]
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


# Limits of a block, from both sides.


@pytest.mark.parametrize(("count", "good"), [(0, False), (1, True), (65_535, True), (65_536, True), (65_537, False)])
def test_count_limit(count: int, good: bool) -> None:
    data = raw_block([X] * count, b"x" * count, plain=max(count, 1), payload_bytes=max(count, 1))
    if good:
        assert len(opened(data)) == count
    else:
        refuses(data, "entries")


@pytest.mark.parametrize(
    ("plain", "good"), [(MAX_PLAIN_BYTES - 1, True), (MAX_PLAIN_BYTES, True), (MAX_PLAIN_BYTES + 1, False)]
)
def test_plain_limit(plain: int, good: bool) -> None:
    content = bytes(plain)
    data = raw_block([blob_of(content)], content)
    if good:
        assert len(opened(data)[0]) == plain
    else:
        refuses(data, "limit")


@pytest.mark.parametrize(("difference", "good"), [(-1, False), (0, True), (1, False)])
def test_the_sizes_must_add_up(difference: int, good: bool) -> None:
    blobs = [X, Blob(b"y" * 32, 5 + difference)]
    data = raw_block(blobs, b"xyyyyy", plain=6)
    if good:
        assert isinstance(decoded(data), Block)
    else:
        refuses(data, "its entries say")


@pytest.mark.parametrize(("size", "good"), [(0, False), (1, True), (2, True)])
def test_no_entry_is_empty(size: int, good: bool) -> None:
    blobs = [blob_of(b"x" * size), blob_of(b"yy")]
    data = raw_block(blobs, b"x" * size + b"yy")
    if good:
        assert opened(data) == [b"x" * size, b"yy"]
    else:
        refuses(data, "empty blob")


@pytest.mark.parametrize(("payload", "good"), [(0, False), (9, False), (10, True), (11, False)])
def test_payload_of_an_identity_block(payload: int, good: bool) -> None:
    blob = blob_of(b"0123456789")
    data = raw_block([blob], b"0123456789!"[:payload])
    if good:
        assert opened(data) == [b"0123456789"]
    else:
        refuses(data, "payload")


@pytest.mark.parametrize("plain", [1, 1000, 128 << 10, MAX_PLAIN_BYTES])
def test_payload_of_a_compressed_block_is_bounded_by_its_content(plain: int) -> None:
    def head(payload: int) -> bytes:
        return raw_block([X], b"", codec=1, plain=plain, payload_bytes=payload)[:MAX_HEADER_BYTES]

    for payload in (1, zstd_bound(plain) - 1, zstd_bound(plain)):
        assert record_length(head(payload)) == 28 + 36 + payload
    for payload in (0, zstd_bound(plain) + 1, 0xFFFF_FFFF):
        with pytest.raises(InvalidRecord, match="payload"):
            record_length(head(payload))


def test_stored_frames_of_any_valid_encoder_fit_the_bound() -> None:
    noise = random.Random(2).randbytes(300_000)
    frame = raw_frame(noise)
    assert len(frame) > len(noise)
    assert opened(raw_block([blob_of(noise)], frame, codec=1)) == [noise]


@pytest.mark.parametrize(("field", "value", "because"), [
    ("reserved", 1, "reserved"), ("reserved", 0x8000, "reserved"),
    ("codec", 2, "codec"), ("codec", 255, "codec"),
    ("algo", 0, "algorithm"), ("algo", 5, "algorithm"), ("algo", 255, "algorithm"),
])  # fmt: skip
def test_unknown_values_are_refused(field: str, value: int, because: str) -> None:
    fields: dict[str, Any] = {field: value}
    refuses(raw_block([X], b"x", **fields), because)


# Limits of the frame inside.

CONTENT = b"content of the frame" * 10


def frame_in_block(frame: bytes, content: bytes = CONTENT) -> list[bytes]:
    return opened(raw_block([blob_of(content)], frame, codec=1))


@pytest.mark.parametrize(
    ("window", "good"), [(13 << 3 | 7, True), (14 << 3, True), (14 << 3 | 1, False), (31 << 3, False)]
)
def test_window_limit(window: int, good: bool) -> None:
    frame = raw_frame(CONTENT, window=window)
    if good:
        assert frame_in_block(frame) == [CONTENT]
    else:
        with pytest.raises(InvalidRecord):
            frame_in_block(frame)


@pytest.mark.parametrize(("declared", "good"), [
    (len(CONTENT) - 1, False), (len(CONTENT), True), (len(CONTENT) + 1, False), (None, False), (0xFFFF_FFFF, False),
])  # fmt: skip
def test_the_frame_declares_its_content_size(declared: int | None, good: bool) -> None:
    frame = raw_frame(CONTENT, declared=declared)
    if good:
        assert frame_in_block(frame) == [CONTENT]
    else:
        with pytest.raises(InvalidRecord, match="does not declare"):
            frame_in_block(frame)


@pytest.mark.parametrize(("frame", "because"), [
    (raw_frame(CONTENT, filler=b"\0"), "one whole zstd frame"),
    (raw_frame(CONTENT) + raw_frame(CONTENT)[:1], "one whole zstd frame"),
    (raw_frame(CONTENT)[:-1], "one whole zstd frame"),
    (raw_frame(CONTENT[:-1], declared=len(CONTENT)), "one whole zstd frame"),
    (raw_frame(CONTENT + b"!", declared=len(CONTENT)), "one whole zstd frame"),
    (raw_frame(CONTENT, dictionary=1), "dictionary"),
    (b"\x50\x2a\x4d\x18" + struct.pack("<I", 4) + b"skip" + raw_frame(CONTENT), "not a zstd frame"),
    (b"\x28\xb5\x2f\xfd", "one whole zstd frame"),
    (CONTENT, "not a zstd frame"),
])  # fmt: skip
def test_only_one_whole_frame_without_dictionary(frame: bytes, because: str) -> None:
    with pytest.raises(InvalidRecord, match=because):
        frame_in_block(frame)


def test_two_small_frames_are_refused_inside_the_payload_bound() -> None:
    content = bytes(10_000)
    frame = block_of(content).payload
    with pytest.raises(InvalidRecord, match="one whole zstd frame"):
        frame_in_block(bytes(frame) * 2, content)


def test_nothing_is_allocated_on_the_word_of_a_frame() -> None:
    data = raw_block([blob_of(CONTENT)], raw_frame(CONTENT, declared=0xFFFF_FF00), codec=1)
    tracemalloc.start()
    try:
        with pytest.raises(InvalidRecord):
            opened(data)
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()


# Limits of the other records.


@pytest.mark.parametrize(("count", "good"), [(0, False), (1, True), (65_535, True), (65_536, True), (65_537, False)])
def test_recipe_count_limit(count: int, good: bool) -> None:
    blob = Blob(b"b" * 32, count)
    if good:
        assert decoded(raw_recipe(blob, [X] * count)) == ChunkList(blob, (X,) * count)
    else:
        refuses(raw_recipe(blob, [X] * count), "chunks")
        with pytest.raises(InvalidRecord, match="chunks"):
            encode_record(ChunkList(blob, (X,) * count), BLAKE3)


@pytest.mark.parametrize(("size", "good"), [(9, False), (10, True), (11, False)])
def test_recipe_sizes_must_add_up(size: int, good: bool) -> None:
    data = raw_recipe(Blob(b"b" * 32, size), [Blob(b"c" * 32, 4), Blob(b"d" * 32, 6)])
    if good:
        assert isinstance(decoded(data), ChunkList)
    else:
        refuses(data, "for a blob of")


@pytest.mark.parametrize(("size", "good"), [
    (0, False), (1, True), (MAX_PLAIN_BYTES - 1, True), (MAX_PLAIN_BYTES, True), (MAX_PLAIN_BYTES + 1, False),
])  # fmt: skip
def test_recipe_chunk_limit(size: int, good: bool) -> None:
    data = raw_recipe(Blob(b"b" * 32, size + 1), [X, Blob(b"c" * 32, size)])
    if good:
        assert isinstance(decoded(data), ChunkList)
    else:
        refuses(data, "chunk of")


def test_recipe_of_an_unknown_algorithm() -> None:
    refuses(raw_recipe(X, [X], algo=9), "algorithm")


@pytest.mark.parametrize(
    ("count", "good"), [(0, True), (MAX_ABSENT - 1, True), (MAX_ABSENT, True), (MAX_ABSENT + 1, False)]
)
def test_absent_limit(count: int, good: bool) -> None:
    head = b"IBA1\x01" + struct.pack("<I", count)
    data = seal(head + bytes(8) + b"a" * 20 * count, len(head))
    if good:
        assert decode_record(data, SHA1) == Absent((b"a" * 20,) * count)
    else:
        refuses(data, "limit", SHA1)


@pytest.mark.parametrize(
    ("length", "good"), [(MAX_ERROR_BYTES - 1, True), (MAX_ERROR_BYTES, True), (MAX_ERROR_BYTES + 1, False)]
)
def test_error_limit(length: int, good: bool) -> None:
    head, body = b"IBX1" + struct.pack("<I", length), b'{"a":"' + b"x" * (length - 8) + b'"}'
    data = seal(head + bytes(8) + body, len(head))
    if good:
        assert decoded(data) == StreamError(json.loads(body))
    else:
        refuses(data, "limit")


@pytest.mark.parametrize("body", [b"", b"[]", b"1", b"{", b"\xff", b"[" * 60_000])
def test_an_error_must_be_a_json_object(body: bytes) -> None:
    head = b"IBX1" + struct.pack("<I", len(body))
    refuses(seal(head + bytes(8) + body, len(head)), "JSON")


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


# Bytes of people who mean harm: whatever they are, the answer is records or InvalidRecord.


def digest_all(data: bytes) -> None:
    """Feed, and open what comes out; BlobCorrupt and InvalidRecord are the only ways to fail."""
    reader = RecordReader(BLAKE3)
    try:
        for record in reader.feed(data):
            if isinstance(record, Block):
                for blob, content in record.contents():
                    assert BLAKE3.digest(content) == blob.digest
        reader.finish()
    except (InvalidRecord, BlobCorrupt):
        return
    assert data.endswith(encode_record(End(), BLAKE3))


@settings(max_examples=2000, deadline=None)
@given(st.sampled_from([b"", b"IBK1", b"IBR1", b"IBA1", b"IBX1", b"IBZ1"]), st.binary(max_size=200))
def test_noise_never_crashes(magic: bytes, noise: bytes) -> None:
    digest_all(magic + noise)


GOOD = [encode_record(record, BLAKE3) for record in STREAM]
CHECK_AT = {b"IBK1": 20, b"IBR1": 4 + 1 + 32 + 8 + 4, b"IBA1": 9, b"IBX1": 8, b"IBZ1": 4}


@settings(max_examples=2500, deadline=None)
@given(
    st.sampled_from(GOOD),
    st.lists(st.tuples(st.integers(4, 500), st.integers(0, 255)), min_size=1, max_size=4),
    st.integers(0, 500),
    st.binary(max_size=8),
)
def test_records_with_lies_and_a_right_check_never_crash(
    record: bytes, edits: list[tuple[int, int]], keep: int, tail: bytes
) -> None:
    forged = bytearray(record)
    for at, value in edits:
        forged[at % len(forged)] = value
    data = bytes(forged[: max(keep, 60)]) + tail
    magic = data[:4]
    if magic in CHECK_AT and len(data) >= CHECK_AT[magic] + 8:
        data = seal(data, CHECK_AT[magic])
    digest_all(data + encode_record(End(), BLAKE3))


@settings(max_examples=1500, deadline=None)
@given(st.binary(max_size=80), st.sampled_from([b"", raw_frame(b"")[:6], raw_frame(b"")[:9]]), st.integers(1, 4096))
def test_hostile_frames_never_crash(noise: bytes, start: bytes, plain: int) -> None:
    payload = (start + noise)[: zstd_bound(plain)] or b"\0"
    digest_all(raw_block([Blob(X.digest, plain)], payload, codec=1) + encode_record(End(), BLAKE3))
