"""Bytes of people who mean harm: whatever they are, the answer is records or InvalidRecord."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from isolate.cas.block import (
    Absent,
    Block,
    ChunkList,
    End,
    Record,
    StreamError,
    encode_record,
)
from isolate.cas.codec import zstd_bound
from isolate.cas.digest import BLAKE3, Blob
from isolate.cas.stream import RecordReader
from isolate.errors import BlobCorrupt, InvalidRecord
from tests.examples import examples
from tests.records import blob_of, block_of, raw_block, raw_frame, seal

X = blob_of(b"x")
STREAM: list[Record] = [
    block_of(b"first", b"second" * 50), ChunkList(X, (X,)), Absent((b"a" * 32,)), StreamError({"error": {}}), End(),
]  # fmt: skip


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


@examples(2_000)
@given(st.sampled_from([b"", b"IBK1", b"IBR1", b"IBA1", b"IBX1", b"IBZ1"]), st.binary(max_size=200))
def test_noise_never_crashes(magic: bytes, noise: bytes) -> None:
    digest_all(magic + noise)


GOOD = [encode_record(record, BLAKE3) for record in STREAM]
CHECK_AT = {b"IBK1": 20, b"IBR1": 4 + 1 + 32 + 8 + 4, b"IBA1": 9, b"IBX1": 8, b"IBZ1": 4}


@examples(2_500)
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


@examples(1_500)
@given(st.binary(max_size=80), st.sampled_from([b"", raw_frame(b"")[:6], raw_frame(b"")[:9]]), st.integers(1, 4096))
def test_hostile_frames_never_crash(noise: bytes, start: bytes, plain: int) -> None:
    payload = (start + noise)[: zstd_bound(plain)] or b"\0"
    digest_all(raw_block([Blob(X.digest, plain)], payload, codec=1) + encode_record(End(), BLAKE3))
