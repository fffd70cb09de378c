"""Grouping of contents into blocks."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from isolate.cas.block import MAX_ENTRIES, Block
from isolate.cas.digest import BLAKE3, Codec
from isolate.cas.packing import BlockBuilder
from tests.records import blob_of


def packed(contents: list[bytes], target_bytes: int, level: int | None = 1) -> list[Block]:
    builder = BlockBuilder(BLAKE3, level, target_bytes)
    blocks = [builder.add(blob_of(content), content) for content in contents]
    return [block for block in [*blocks, builder.flush()] if block is not None]


def sizes(blocks: list[Block]) -> list[list[int]]:
    return [[blob.size for blob in block.entries] for block in blocks]


@settings(deadline=None)
@given(st.lists(st.binary(max_size=60), max_size=30), st.integers(1, 100))
def test_everything_is_packed_once_and_in_order(contents: list[bytes], target_bytes: int) -> None:
    blocks = packed(contents, target_bytes)
    out = [bytes(content) for block in blocks for _, content in block.contents()]
    assert out == [content for content in contents if content]
    assert all(block.plain_size <= target_bytes or len(block.entries) == 1 for block in blocks)


@pytest.mark.parametrize(("last", "expected"), [(9, [[50, 40, 9]]), (10, [[50, 40, 10]]), (11, [[50, 40], [11]])])
def test_a_block_is_filled_up_to_its_target(last: int, expected: list[list[int]]) -> None:
    assert sizes(packed([b"a" * 50, b"b" * 40, b"c" * last], 100)) == expected


def test_a_large_content_travels_alone() -> None:
    assert sizes(packed([b"a" * 10, b"b" * 500, b"c" * 10], 100)) == [[10], [500], [10]]


@pytest.mark.parametrize(("count", "expected"), [
    (MAX_ENTRIES - 1, [MAX_ENTRIES - 1]), (MAX_ENTRIES, [MAX_ENTRIES]), (MAX_ENTRIES + 1, [MAX_ENTRIES, 1]),
])  # fmt: skip
def test_a_block_has_no_more_entries_than_the_format_allows(count: int, expected: list[int]) -> None:
    assert [len(block.entries) for block in packed([b"x"] * count, 1 << 20)] == expected


def test_nothing_makes_no_block() -> None:
    assert packed([], 100) == []
    assert packed([b"", b""], 100) == []


def test_the_level_may_change_between_blocks() -> None:
    builder = BlockBuilder(BLAKE3, None, 100)
    assert builder.add(blob_of(bytes(100)), bytes(100)) is None
    first = builder.add(blob_of(bytes(99)), bytes(99))
    builder.level = 3
    second = builder.flush()
    assert first is not None
    assert second is not None
    assert (first.codec, second.codec) == (Codec.IDENTITY, Codec.ZSTD)
