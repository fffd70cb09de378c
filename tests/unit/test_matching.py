"""Dimensions and queues."""

from __future__ import annotations

import pytest

from swarming import matching

BOT = matching.traits((("gpu", ("none",)), ("id", ("b1",)), ("os", ("Linux", "Ubuntu")), ("pool", ("default", "ci"))))


@pytest.mark.parametrize(
    ("dimensions", "serves"),
    [
        ((), True),
        ((("os", "Linux"),), True),
        ((("os", "Linux"), ("os", "Ubuntu")), True),
        ((("os", "Linux"), ("os", "Windows")), False),
        ((("os", "Windows|Ubuntu"),), True),
        ((("os", "Mac|Windows"),), False),
        ((("os", "Linux|Ubuntu"), ("pool", "ci")), True),
        ((("os", "linux"),), False),
        ((("cpu", "x86"),), False),
        ((("id", "b1"),), True),
        ((("id", "b10"),), False),
    ],
)
def test_a_bot_serves_what_it_has(dimensions: tuple[tuple[str, str], ...], serves: bool) -> None:
    assert matching.serves(BOT, matching.demand(matching.queue_key(dimensions))) is serves


def test_a_queue_key_keeps_alternatives_and_cannot_be_forged() -> None:
    assert matching.queue_key((("os", "a|b"),)) == '[["os","a|b"]]'
    forged = (("os", 'a"],["pool","x'),)
    assert matching.queue_key(forged) != matching.queue_key((("os", "a"), ("pool", "x")))
    assert matching.demand(matching.queue_key(forged)).wishes == (("os", frozenset({'a"],["pool","x'})),)


@pytest.mark.parametrize(
    ("dimensions", "buckets"),
    [
        ((("id", "b1"), ("pool", "ci")), {("id", "b1")}),
        ((("id", "b1|b2"),), {("id", "b1"), ("id", "b2")}),
        ((("os", "x"), ("pool", "ci")), {("pool", "ci")}),
        ((("os", "x"),), {("", "")}),
    ],
)
def test_a_queue_is_looked_for_where_its_bots_are(
    dimensions: tuple[tuple[str, str], ...], buckets: set[matching.Bucket]
) -> None:
    assert set(matching.demand(matching.queue_key(dimensions)).buckets) == buckets


def test_a_bot_is_in_every_bucket_it_may_serve() -> None:
    assert set(matching.buckets(BOT)) == {("", ""), ("id", "b1"), ("pool", "default"), ("pool", "ci")}
