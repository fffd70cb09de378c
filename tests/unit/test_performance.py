"""Performance stats."""

from __future__ import annotations

import base64
import zlib
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from server.performance import performance_stats, unpack


def packed(sizes: list[int]) -> str:
    """Pack as bots do, written independently of both sides."""
    data, last = bytearray(), 0
    for size in sorted(sizes):
        delta, last = size - last, size
        while delta >= 0x80:
            data.append(delta & 0x7F | 0x80)
            delta >>= 7
        data.append(delta)
    return base64.b64encode(zlib.compress(bytes(data))).decode() if sizes else ""


@given(st.lists(st.integers(0, 2**50), max_size=50))
def test_what_was_packed_is_unpacked_sorted(sizes: list[int]) -> None:
    assert unpack(packed(sizes)) == sorted(sizes)


def test_counts_are_derived_and_only_for_lists_that_are_not_empty() -> None:
    stats: dict[str, Any] = {
        "bot_overhead": 0.5,
        "isolated_stats": {
            "download": {"duration": 1.0, "initial_number_items": 3, "items_cold": packed([5, 3]), "items_hot": ""}
        },
    }
    assert performance_stats(stats) == {
        "bot_overhead": 0.5,
        "isolated_download": {
            "duration": 1.0,
            "initial_number_items": "3",
            "items_cold": packed([5, 3]),
            "num_items_cold": "2",
            "total_bytes_items_cold": "8",
        },
        "isolated_upload": {},
    }


def test_nonsense_is_repeated_without_counts() -> None:
    for text in ("§", "AAAA", base64.b64encode(b"x" * 100).decode()):
        found = performance_stats({"isolated_stats": {"upload": {"items_hot": text}}})
        assert found["isolated_upload"] == {"items_hot": text}
    assert performance_stats({"isolated_stats": [1]}) == {"isolated_download": {}, "isolated_upload": {}}
