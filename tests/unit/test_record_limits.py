"""Every limit of the record format, from both sides."""

from __future__ import annotations

import json
import random
import struct
import tracemalloc
from typing import Any

import pytest

from isolate.cas.block import (
    MAX_HEADER_BYTES,
    MAX_PLAIN_BYTES,
    Absent,
    Block,
    ChunkList,
    StreamError,
    decode_record,
    encode_record,
    record_length,
)
from isolate.cas.codec import zstd_bound
from isolate.cas.digest import BLAKE3, SHA1, Blob
from isolate.cas.layout import MAX_ABSENT, MAX_ERROR_BYTES
from isolate.errors import InvalidRecord
from tests.records import blob_of, block_of, raw_block, raw_frame, raw_recipe, seal
from tests.unit.decoding import decoded, opened, refuses

X = blob_of(b"x")


# Blocks.


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
