"""Content-defined chunks: complete, in bounds, and independent of how the file is read."""

from __future__ import annotations

import io
import random
from collections.abc import Iterator

import pytest

from isolate.cas import chunker
from isolate.cas.chunker import AVERAGE_BYTES, BUFFER_BYTES, MAX_BYTES, MIN_BYTES, chunks, windows

NOISE = random.Random(7).randbytes(40 << 20)


class Dribble(io.RawIOBase):
    """A file that gives as little at a time as it is told to."""

    def __init__(self, content: bytes, sizes: Iterator[int]) -> None:
        self._content = memoryview(content)
        self._sizes = sizes
        self.largest = 0

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]  # the stub says WriteableBuffer
        self.largest = max(self.largest, len(buffer))
        piece = self._content[: min(len(buffer), next(self._sizes))]
        buffer[: len(piece)] = piece
        self._content = self._content[len(piece) :]
        return len(piece)


def cut(content: bytes) -> list[bytes]:
    return [bytes(chunk) for chunk in chunks(io.BytesIO(content))]


def test_chunks_are_the_content_and_keep_their_bounds() -> None:
    cuts = cut(NOISE)
    assert b"".join(cuts) == NOISE
    assert all(MIN_BYTES <= len(chunk) <= MAX_BYTES for chunk in cuts[:-1])
    assert len(cuts[-1]) <= MAX_BYTES
    assert AVERAGE_BYTES / 2 < len(NOISE) / len(cuts) < AVERAGE_BYTES * 2


@pytest.mark.parametrize("size", [
    0, 1, MIN_BYTES - 1, MIN_BYTES, MIN_BYTES + 1, MAX_BYTES - 1, MAX_BYTES, MAX_BYTES + 1,
    BUFFER_BYTES - 1, BUFFER_BYTES, BUFFER_BYTES + 1,
])  # fmt: skip
@pytest.mark.parametrize("content", [bytes(BUFFER_BYTES + 1), NOISE[: BUFFER_BYTES + 1]], ids=["zeros", "noise"])
def test_sizes_around_every_limit(size: int, content: bytes) -> None:
    cuts = cut(content[:size])
    assert b"".join(cuts) == content[:size]
    assert all(MIN_BYTES <= len(chunk) <= MAX_BYTES for chunk in cuts[:-1])
    assert bool(cuts) is (size > 0)


def test_content_without_landmarks_is_cut_at_the_maximum() -> None:
    assert [len(chunk) for chunk in cut(bytes(3 * MAX_BYTES + 5))] == [MAX_BYTES] * 3 + [5]


def test_where_it_is_cut_does_not_depend_on_the_reading() -> None:
    draw = random.Random(1)
    file = Dribble(NOISE, iter(lambda: draw.randint(1, 300_000), 0))
    assert [len(chunk) for chunk in chunks(file)] == [len(chunk) for chunk in cut(NOISE)]
    assert file.largest <= BUFFER_BYTES


def test_a_window_stays_while_the_next_is_read() -> None:
    before: list[memoryview] = []
    seen: list[bytes] = []
    for window in windows(io.BytesIO(NOISE)):
        assert window
        seen += map(bytes, before)
        before = window
    assert seen + [bytes(chunk) for chunk in before] == cut(NOISE)


def test_an_insertion_changes_few_chunks() -> None:
    before = set(cut(NOISE))
    after = cut(NOISE[: 10 << 20] + b"inserted" + NOISE[10 << 20 :])
    assert sum(chunk not in before for chunk in after) <= 3


def test_cuts_are_part_of_the_format() -> None:
    """Other cuts would be valid, but would share nothing with what is stored already."""
    cuts = [len(chunk) for chunk in cut(random.Random(2020).randbytes(6 << 20))]
    assert cuts == [1098710, 915943, 1242852, 1421312, 979757, 527397, 105485]


def test_a_failing_read_is_passed_on() -> None:
    class Broken(io.RawIOBase):
        def readinto(self, _: memoryview) -> int:  # type: ignore[override]  # the stub says WriteableBuffer
            raise OSError(5, "Input/output error")

    with pytest.raises(OSError, match="Input/output"):
        list(chunks(Broken()))


def test_memory_is_two_buffers(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[int] = []
    real = bytearray

    def counting(size: int) -> bytearray:
        made.append(size)
        return real(size)

    monkeypatch.setattr(chunker, "bytearray", counting, raising=False)
    assert sum(len(chunk) for chunk in chunks(io.BytesIO(NOISE))) == len(NOISE)
    assert made == [BUFFER_BYTES] * 2
