"""Scalars of the REST API."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from isolate.errors import InvalidInput
from swarming import wire, wire_in, wire_query
from swarming.paging import Sort
from swarming.states import State


@pytest.mark.parametrize(
    ("epoch_s", "text"),
    [(1_577_934_245.0, "2020-01-02T03:04:05"), (1_577_934_245.123456, "2020-01-02T03:04:05.123456"), (None, None)],
)
def test_times_are_utc_without_zone_and_with_a_fraction_only_where_there_is_one(epoch_s: float, text: str) -> None:
    assert wire.ts(epoch_s) == text


def test_unset_fields_and_empty_lists_are_left_out_and_false_stays() -> None:
    fields: dict[str, object] = {"a": None, "b": [], "c": False, "d": 0, "e": "", "f": {}}
    assert wire.compact(fields) == {"c": False, "d": 0, "e": "", "f": {}}


def test_integers_are_strings_and_dictionaries_are_pairs_sorted_by_key() -> None:
    assert wire.str64(2**62) == "4611686018427387904"
    assert wire.str64(0) == "0"
    assert wire.pairs({"b": ("2", "3"), "a": "1"}) == [{"key": "a", "value": "1"}, {"key": "b", "value": ["2", "3"]}]


def test_null_is_unset_unknown_keys_are_ignored_and_numbers_may_be_strings() -> None:
    body = b'{"name": null, "priority": "12", "novel": {"a": [1]}, "expiration_secs": 30}'
    found = wire.decode(body, wire_in.NewTaskRequest)
    assert (found.name, found.priority, found.expiration_secs) == (None, 12, 30)


def test_no_body_is_an_empty_object() -> None:
    assert wire.decode(b"", wire_in.CancelRequest).kill_running is None


@pytest.mark.parametrize("body", [b"[]", b"{", b'{"name": 3}', b"\xff", b"[" * 100_000, b'{"priority": 1e400}', b'"x"'])
def test_a_malformed_body_is_refused_with_a_reason(body: bytes) -> None:
    with pytest.raises(InvalidInput, match="Invalid JSON body"):
        wire.decode(body, wire_in.NewTaskRequest)


def test_half_of_a_character_is_no_body_that_ended_too_soon() -> None:
    with pytest.raises(InvalidInput, match="half of a surrogate pair"):
        wire.decode(b'{"name": "\\ud800"}', wire_in.NewTaskRequest)
    with pytest.raises(InvalidInput, match="truncated"):
        wire.decode(b'{"name": "\\ud8', wire_in.NewTaskRequest)


@given(st.binary(max_size=200))
def test_no_bytes_crash_the_decoder(body: bytes) -> None:
    try:
        found = wire.decode(body, wire_in.NewTaskRequest)
    except InvalidInput:
        return
    assert isinstance(found, msgspec.Struct)


@pytest.mark.parametrize(("text", "flag"), [("true", True), ("False", False), ("TRUE", True), ("", False)])
def test_booleans_of_a_query_in_any_case(text: str, flag: bool) -> None:
    assert wire.boolean([("x", text)], "x") is flag


def test_a_boolean_that_is_none_is_refused() -> None:
    with pytest.raises(InvalidInput, match="expected true or false"):
        wire.boolean([("x", "1")], "x")


@pytest.mark.parametrize("limit", [1, 1000])
def test_limits_at_their_edges(limit: int) -> None:
    assert wire.limit([("limit", str(limit))]) == limit


@pytest.mark.parametrize("text", ["0", "1001", "-1", "abc", "1.5", "9" * 30, "٣"])
def test_limits_beyond_their_edges(text: str) -> None:
    with pytest.raises(InvalidInput, match="limit"):
        wire.limit([("limit", text)])


def test_without_a_limit_it_is_200() -> None:
    assert wire.limit([]) == 200


@pytest.mark.parametrize("text", ["nan", "inf", "-inf", "x"])
def test_a_time_must_be_a_finite_number(text: str) -> None:
    with pytest.raises(InvalidInput, match="start"):
        wire.epoch_s([("start", text)], "start")


def test_enums_by_name_and_by_number() -> None:
    assert wire.choice("KILLED", wire.STATE_QUERIES, "state", "ALL") == "KILLED"
    assert wire.choice(12, wire.STATE_QUERIES, "state", "ALL") == "KILLED"
    assert wire.choice("12", wire.STATE_QUERIES, "state", "ALL") == "KILLED"
    assert wire.choice(None, wire.STATE_QUERIES, "state", "ALL") == "ALL"
    for wrong in ("killed", "14", -1, "²"):
        with pytest.raises(InvalidInput, match="state"):
            wire.choice(wrong, wire.STATE_QUERIES, "state", "ALL")


def test_three_states() -> None:
    assert wire.three_state([("is_dead", "TRUE")], "is_dead") is True
    assert wire.three_state([("is_dead", "1")], "is_dead") is False
    assert wire.three_state([("is_dead", "NONE")], "is_dead") is None
    assert wire.three_state([], "is_dead") is None
    with pytest.raises(InvalidInput, match="is_dead"):
        wire.three_state([("is_dead", "maybe")], "is_dead")


def test_dimension_filters() -> None:
    query = [("dimensions", "os:Linux"), ("dimensions", "gpu:a:b"), ("is_mp", "TRUE")]
    assert wire_query.bot_query(query).dimensions == (("os", "Linux"), ("gpu", "a:b"))
    with pytest.raises(InvalidInput, match="Invalid dimensions"):
        wire_query.bot_query([("dimensions", "os")])


@pytest.mark.parametrize("name", wire.STATE_QUERIES)
def test_every_state_query_means_something(name: str) -> None:
    found = wire_query.task_query([("state", name)])
    assert bool(found.states) is (name != "ALL")


def test_states_of_a_query() -> None:
    assert wire_query.task_query([("state", "COMPLETED_FAILURE")]).failure is True
    assert wire_query.task_query([("state", "DEDUPED")]).deduped is True
    assert wire_query.task_query([("state", "PENDING_RUNNING")]).states == {State.PENDING, State.RUNNING}


def test_other_sorts_exclude_times_and_tags() -> None:
    assert wire_query.task_query([("sort", "MODIFIED_TS")]).sort is Sort.MODIFIED
    for other in (("start", "1"), ("end", "2"), ("tags", "a:b")):
        with pytest.raises(InvalidInput, match="sort"):
            wire_query.task_query([("sort", "MODIFIED_TS"), other])


def test_a_count_needs_a_start() -> None:
    with pytest.raises(InvalidInput, match=r"start \(as epoch\) is required"):
        wire_query.count_query([("end", "2")])
    assert wire_query.count_query([("start", "1.5")]).created_from == 1.5


def test_ranges_of_output() -> None:
    assert wire_query.stdout_range([]) == (0, wire_query.MAX_STDOUT_BYTES)
    assert wire_query.stdout_range([("offset", "7"), ("length", "5")]) == (7, 5)
    with pytest.raises(InvalidInput, match="offset"):
        wire_query.stdout_range([("offset", "-1")])
