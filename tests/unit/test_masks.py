"""Masks of replies."""

from __future__ import annotations

from typing import Any

import pytest

from server import masks

REPLY = {"a": 1, "b": {"c": 2, "d": {"e": 3}}, "items": [{"bot_id": "x", "version": "v"}, {"bot_id": "y"}], "now": "n"}


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("a", {"a": 1}),
        ("a,b(c,d)", {"a": 1, "b": {"c": 2, "d": {"e": 3}}}),
        ("b(d(e))", {"b": {"d": {"e": 3}}}),
        ("b/d/e,b/c", {"b": {"c": 2, "d": {"e": 3}}}),
        ("items/bot_id", {"items": [{"bot_id": "x"}, {"bot_id": "y"}]}),
        ("items(bot_id),now", {"items": [{"bot_id": "x"}, {"bot_id": "y"}], "now": "n"}),
        ("*", REPLY),
        ("items/*", {"items": REPLY["items"]}),
        ("*/c", {"a": 1, "b": {"c": 2}, "items": [{}, {}], "now": "n"}),
        ("nothing", {}),
        (" a , b ( c ) ", {"a": 1, "b": {"c": 2}}),
    ],
)
def test_a_mask_selects(text: str, wanted: Any) -> None:
    mask = masks.parse(text)
    assert mask is not None
    assert masks.apply(mask, REPLY) == wanted


@pytest.mark.parametrize(
    "text", ["", " ", "a,", ",a", "a(b", "a)b", "a(", "a()", "a//b", "/a", "a b", "a(b)c", "ä", "a-b", "(" * 50]
)
def test_what_is_no_mask_is_ignored(text: str) -> None:
    assert masks.parse(text) is None


def test_masks_have_a_limit() -> None:
    assert masks.parse("a" * masks.MAX_MASK_CHARS) is not None
    assert masks.parse("a" * (masks.MAX_MASK_CHARS + 1)) is None
    assert masks.parse("a(" * masks.MAX_DEPTH + "b" + ")" * masks.MAX_DEPTH) is not None
    assert masks.parse("a(" * (masks.MAX_DEPTH + 1) + "b" + ")" * (masks.MAX_DEPTH + 1)) is None
    assert masks.parse("/".join("a" * 1000)) is None
