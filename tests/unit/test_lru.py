"""Which files a cache gives up."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import pytest

from isolate.cas.lru import AHEAD_ITEMS, Ahead, CachePolicy, Item, Usage, victims

NOW_S = 1_000


def items(count: int, size: int = 10) -> list[Item]:
    """Items called a, b, c, ... that were used 100, 99, 98, ... seconds ago."""
    return [Item(bytes([97 + index]), size, NOW_S - 100 + index) for index in range(count)]


def evicted(found: list[Item], policy: CachePolicy, *, shortage_bytes: int = 0, pinned: bytes = b"") -> bytes:
    usage = Usage(len(found), sum(item.size for item in found))
    chosen = victims(
        found,
        usage,
        policy,
        now_s=NOW_S,
        shortage_bytes=shortage_bytes,
        is_pinned=lambda key: key in pinned,
    )
    return b"".join(item.key for item in chosen)


@pytest.mark.parametrize(
    ("policy", "expected"),
    [
        (CachePolicy(), b""),
        (CachePolicy(max_bytes=30), b""),
        (CachePolicy(max_bytes=29), b"a"),
        (CachePolicy(max_bytes=20), b"a"),
        (CachePolicy(max_bytes=1), b"abc"),
        (CachePolicy(max_items=3), b""),
        (CachePolicy(max_items=2), b"a"),
        (CachePolicy(max_age_s=100), b""),  # exactly as old as allowed
        (CachePolicy(max_age_s=99), b"a"),
        (CachePolicy(max_age_s=98, max_items=2), b"ab"),
    ],
)
def test_each_limit(policy: CachePolicy, expected: bytes) -> None:
    assert evicted(items(3), policy) == expected


@pytest.mark.parametrize(("shortage_bytes", "expected"), [(-5, b""), (0, b""), (1, b"a"), (10, b"a"), (11, b"ab")])
def test_missing_space(shortage_bytes: int, expected: bytes) -> None:
    assert evicted(items(3), CachePolicy(), shortage_bytes=shortage_bytes) == expected


def test_pinned_items_stay_and_others_go_instead() -> None:
    assert evicted(items(4), CachePolicy(max_items=2), pinned=b"a") == b"bc"
    assert evicted(items(4), CachePolicy(max_items=1), pinned=b"abcd") == b""


def test_reads_no_further_than_needed() -> None:
    def endless() -> Iterator[Item]:
        yield from items(2)
        raise AssertionError("read on")

    usage = Usage(3, 30)
    chosen = victims(
        endless(), usage, CachePolicy(max_items=2), now_s=NOW_S, shortage_bytes=0, is_pinned=lambda _: False
    )
    assert [item.key for item in chosen] == [b"a"]


@pytest.mark.parametrize(
    ("pinned", "max_items", "asked"),
    [
        (0, 50_000, []),  # nothing must go: nobody's pins are read
        (0, 49_999, [64]),
        (0, 50_000 - 4000, [64, 512, 4096]),
        (40_000, 49_999, [64, 512, 4096, 32768, 12560]),
    ],
)
def test_pins_are_asked_for_many_items_at_once_but_never_for_all(pinned: int, max_items: int, asked: list[int]) -> None:
    numbers: list[int] = []

    def pinned_among(keys: Sequence[bytes]) -> set[bytes]:
        numbers.append(len(keys))
        return {key for key in keys if int(key) < pinned}

    ahead = Ahead((Item(b"%d" % number, 1, 0) for number in range(50_000)), pinned_among)
    chosen = victims(
        ahead,
        Usage(50_000, 50_000),
        CachePolicy(max_items=max_items),
        now_s=NOW_S,
        shortage_bytes=0,
        is_pinned=ahead.is_pinned,
    )
    assert [int(item.key) for item in chosen] == list(range(pinned, pinned + 50_000 - max_items))
    assert numbers == asked
    assert max(asked, default=0) <= AHEAD_ITEMS


def test_shortage() -> None:
    policy = CachePolicy(min_free_bytes=100)
    assert policy.shortage_bytes(100) == 0
    assert policy.shortage_bytes(99) == 1
    assert policy.shortage_bytes(150, needed_bytes=60) == 10
