"""From flags to the bodies of tasks/new."""

from __future__ import annotations

import itertools
from typing import Any

import pytest

from isolate.errors import InvalidInput
from swarming.trigger import OptionalDimension, ShardRequest, TaskSpec, requests, unsharded

HASH = "ab" * 32


def bodies(**fields: Any) -> list[ShardRequest]:
    counter = itertools.count()
    return requests(TaskSpec(**{"isolated": HASH, **fields}), lambda: f"uuid-{next(counter)}")


def properties(request: ShardRequest, piece: int = -1) -> dict[str, Any]:
    found: dict[str, Any] = request.body["task_slices"][piece]["properties"]
    return found


def pairs(listed: list[dict[str, str]]) -> list[tuple[str, str]]:
    return [(pair["key"], pair["value"]) for pair in listed]


def test_a_plain_task() -> None:
    (request,) = bodies(name="unit", dimensions=(("os", "Linux"), ("cpu", "x86")), command=("--fast",))
    assert (request.index, request.name) == (0, "unit")
    assert request.body["request_uuid"] == "uuid-0"
    assert request.body["priority"] == 200
    (piece,) = request.body["task_slices"]
    assert piece["expiration_secs"] == 21600
    assert piece["properties"]["extra_args"] == ["--fast"]
    assert "command" not in piece["properties"]
    assert pairs(piece["properties"]["dimensions"]) == [("cpu", "x86"), ("os", "Linux"), ("pool", "default")]
    assert piece["properties"]["inputs_ref"]["isolated"] == HASH


def test_a_pool_that_is_named_is_kept() -> None:
    (request,) = bodies(dimensions=(("pool", "lab"),))
    assert pairs(properties(request)["dimensions"]) == [("pool", "lab")]


def test_shards_differ_only_in_name_variables_and_uuid() -> None:
    shards = bodies(name="unit", shards=3, env=(("A", "1"),))
    assert [shard.name for shard in shards] == ["unit:0:3", "unit:1:3", "unit:2:3"]
    assert [shard.body["request_uuid"] for shard in shards] == ["uuid-0", "uuid-1", "uuid-2"]
    for index, shard in enumerate(shards):
        expected = [("A", "1"), ("GTEST_SHARD_INDEX", str(index)), ("GTEST_TOTAL_SHARDS", "3")]
        assert pairs(properties(shard)["env"]) == expected
        for body in (shard.body, properties(shard)):
            for varying in ("name", "request_uuid", "env"):
                body.pop(varying, None)
    assert shards[0].body == shards[1].body == shards[2].body


def test_the_kept_request_is_that_of_no_shard() -> None:
    first = bodies(name="unit", shards=3, env=(("A", "1"),))[0]
    kept = unsharded(first, "unit")
    assert kept["name"] == "unit"
    assert pairs(kept["task_slices"][0]["properties"]["env"]) == [("A", "1")]
    assert "env" not in unsharded(bodies(name="unit", shards=3)[0], "unit")["task_slices"][0]["properties"]
    assert first.body["name"] == "unit:0:3"


@pytest.mark.parametrize("index", ["0", "2"])
def test_a_shard_by_hand_has_the_name_and_tags_of_one(index: str) -> None:
    (request,) = bodies(name="unit", env=(("GTEST_SHARD_INDEX", index), ("GTEST_TOTAL_SHARDS", "3")))
    assert request.name == f"unit:{index}:3"
    assert request.body["tags"] == [f"shard_index:{index}", "total_shards:3"]


@pytest.mark.parametrize("total", ["1", "", "x"])
def test_what_is_no_shard_has_not(total: str) -> None:
    (request,) = bodies(name="unit", env=(("GTEST_SHARD_INDEX", "0"), ("GTEST_TOTAL_SHARDS", total)))
    assert request.name == "unit"


def test_one_shard_gets_no_shard_variables() -> None:
    (request,) = bodies(name="unit", shards=1)
    assert "env" not in properties(request)


def test_the_default_name_says_who_what_and_where() -> None:
    (request,) = bodies(user="joe", dimensions=(("os", "Linux"),))
    assert request.name == f"joe/os=Linux_pool=default/{HASH}"


def test_a_raw_command_is_the_whole_command() -> None:
    (request,) = bodies(isolated=None, raw_command=True, command=("echo", "hi"), relative_cwd="out", name="raw")
    found = properties(request)
    assert (found["command"], found["relative_cwd"]) == (["echo", "hi"], "out")
    assert "inputs_ref" not in found
    assert "extra_args" not in found


def test_optional_dimensions_make_earlier_slices() -> None:
    optional = (OptionalDimension("gpu", "titan", 120), OptionalDimension("os", "Debian", 60))
    (request,) = bodies(dimensions=(("os", "Linux"),), optional_dimensions=optional, wait_for_capacity=True)
    first, second, last = request.body["task_slices"]
    assert [piece["expiration_secs"] for piece in (first, second, last)] == [60, 60, 21480]
    assert [piece["wait_for_capacity"] for piece in (first, second, last)] == [False, False, True]
    assert pairs(first["properties"]["dimensions"]) == [("gpu", "titan"), ("os", "Debian"), ("pool", "default")]
    assert pairs(second["properties"]["dimensions"]) == [("gpu", "titan"), ("os", "Linux"), ("pool", "default")]
    assert pairs(last["properties"]["dimensions"]) == [("os", "Linux"), ("pool", "default")]


@pytest.mark.parametrize("order", [1, -1])
def test_one_dimension_may_be_relaxed_step_by_step(order: int) -> None:
    optional = (OptionalDimension("gpu", "titan", 60), OptionalDimension("gpu", "any", 120))[::order]
    (request,) = bodies(optional_dimensions=optional)
    found = [dict(pairs(piece["properties"]["dimensions"])).get("gpu") for piece in request.body["task_slices"]]
    assert found == ["titan", "any", None]


def test_the_last_slice_has_at_least_a_minute() -> None:
    optional = (OptionalDimension("gpu", "titan", 120),)
    (request,) = bodies(optional_dimensions=optional, expiration_s=121)
    assert request.body["task_slices"][-1]["expiration_secs"] == 60


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"isolated": None}, "at least one of --raw-cmd or --isolated"),
        ({"raw_command": True}, "after -- as command delimiter"),
        ({"relative_cwd": "x"}, "--relative-cwd requires --raw-cmd"),
        ({"relative_cwd": "a/../../b", "raw_command": True, "command": ("x",)}, "must not try to escape"),
        ({"relative_cwd": "/b", "raw_command": True, "command": ("x",)}, "must not try to escape"),
        ({"cipd_packages": ("path:package",)}, "CIPD packages must take the form: path:package:version"),
        ({"cipd_packages": ("path::1",)}, "CIPD packages must take the form"),
        ({"resultdb": True}, "--resultdb requires --realm"),
        ({"tags": ("nocolon",)}, "--tags must be in the format key:value"),
        ({"shards": 0}, "--shards must be at least 1 and at most 20,000, not 0"),
        ({"shards": 20_001}, "--shards must be at least 1 and at most 20,000, not 20,001"),
        ({"optional_dimensions": (OptionalDimension("a:b", "c", 60),)}, 'cannot contain ":"'),
        ({"optional_dimensions": (OptionalDimension("a", "c", 61),)}, "not divisible by 60"),
        ({"optional_dimensions": (OptionalDimension("a", "c", 0),)}, "expiration must be at least 60, not 0"),
        ({"optional_dimensions": (OptionalDimension("a", "c", -60),)}, "expiration must be at least 60, not -60"),
        ({"dimensions": (("a:b", "c"),)}, 'dimension key cannot contain ":"'),
        ({"name": "two\nlines"}, r"must be one line, and without control characters: 'two\\nlines'"),
        ({"name": "a\udcff"}, "name: 'a.udcff' is not UTF-8"),
        ({"dimensions": (("a", "\udcff"),)}, "dimensions: '.udcff' is not UTF-8"),
        (
            {"optional_dimensions": (OptionalDimension("a", "\udcff", 60),)},
            "optional dimensions: '.udcff' is not UTF-8",
        ),
    ],
)
def test_what_no_server_would_take_is_refused_here(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidInput, match=message):
        bodies(**fields)


def test_secrets_stay_out_of_logs() -> None:
    assert "hunter2" not in repr(TaskSpec(secret="hunter2"))
