"""Codecs keep their limits and share nothing between threads."""

from __future__ import annotations

import random
import threading
import zlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from isolate.cas.codec import zlib_compress, zlib_decompress, zstd_bound, zstd_compress, zstd_decompress
from isolate.errors import InvalidRecord

PLAIN = b"some plain content " * 20


@settings(deadline=None)
@given(st.binary(min_size=1, max_size=5000), st.integers(-5, 9))
def test_frames_round_trip(plain: bytes, level: int) -> None:
    frame = zstd_compress(plain, level)
    assert len(frame) <= zstd_bound(len(plain))
    assert zstd_decompress(frame, len(plain)) == plain
    assert zstd_decompress(memoryview(frame), len(plain)) == plain


@pytest.mark.parametrize("size", [1, 1000, (128 << 10) - 1, 128 << 10, (128 << 10) + 1, 1 << 20])
def test_no_frame_of_noise_exceeds_the_bound(size: int) -> None:
    noise = random.Random(size).randbytes(size)
    assert size < len(zstd_compress(noise, 1)) <= zstd_bound(size)


@pytest.mark.parametrize("size", [len(PLAIN) - 1, len(PLAIN) + 1, 0, 1 << 40])
def test_a_frame_of_another_size_is_refused(size: int) -> None:
    with pytest.raises(InvalidRecord, match="does not declare"):
        zstd_decompress(zstd_compress(PLAIN, 1), size)


def test_threads_do_not_disturb_each_other() -> None:
    contents = [random.Random(number).randbytes(200) * 500 for number in range(8)]
    results: list[bytes] = [b""] * len(contents)

    def work(number: int) -> None:
        for _ in range(20):
            results[number] = zstd_decompress(zstd_compress(contents[number], 1), len(contents[number]))

    threads = [threading.Thread(target=work, args=(number,)) for number in range(len(contents))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == contents


@pytest.mark.parametrize(("limit", "good"), [
    (0, False), (len(PLAIN) - 1, False), (len(PLAIN), True), (len(PLAIN) + 1, True),
])  # fmt: skip
def test_zlib_limit(limit: int, good: bool) -> None:
    stream = zlib_compress(PLAIN)
    if good:
        assert zlib_decompress(stream, limit) == PLAIN
    else:
        with pytest.raises(InvalidRecord, match="more than"):
            zlib_decompress(stream, limit)


def test_zlib_of_nothing() -> None:
    assert zlib_decompress(zlib_compress(b""), 0) == b""


def test_a_zlib_bomb_is_not_blown_up() -> None:
    with pytest.raises(InvalidRecord, match="more than"):
        zlib_decompress(zlib.compress(bytes(50 << 20)), 1 << 20)


@pytest.mark.parametrize("stream", [
    b"", b"\0", PLAIN, zlib.compress(PLAIN)[:-1], zlib.compress(PLAIN) + b"\0", zlib.compress(PLAIN) * 2,
    zlib.compress(PLAIN)[:-4] + b"\0\0\0\0",
])  # fmt: skip
def test_only_one_whole_zlib_stream(stream: bytes) -> None:
    with pytest.raises(InvalidRecord):
        zlib_decompress(stream, 1000)
