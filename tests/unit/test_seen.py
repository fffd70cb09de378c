"""isolate.seen: what a pass met lately, in bounded memory."""

from __future__ import annotations

from isolate.seen import Seen


def test_each_digest_is_met_for_the_first_time_once() -> None:
    seen = Seen([b"empty"])
    assert seen.first([b"a", b"empty", b"b"]) == [b"a", b"b"]
    assert seen.first([b"b", b"c", b"a"]) == [b"c"]


def test_what_was_met_lately_is_known_and_little_is_held() -> None:
    seen = Seen([b"empty"], limit=10)
    for number in range(1_000):
        assert seen.first([b"%d" % number]) == [b"%d" % number]
        lately = [b"%d" % one for one in range(max(0, number - 9), number + 1)]
        assert seen.first(lately) == []
        assert seen.held <= 20
    assert seen.first([b"empty"]) == []
    assert seen.first([b"0"]) == [b"0"]
