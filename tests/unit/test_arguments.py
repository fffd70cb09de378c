"""Arguments become a request, or one clear sentence."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from isolate.errors import InvalidInput
from run_isolated.arguments import Asked, environment_changes, environment_prefixes, limit_s, parse_spec
from run_isolated.spec import RunSpec

HASH = "a" * 64


def parse(**given: Any) -> RunSpec:
    flags: dict[str, Any] = {
        "isolated": None,
        "server": None,
        "namespace": None,
        "words": ("true",),
        "raw_command": False,
        "relative_cwd": None,
        "env": (),
        "env_prefix": (),
        "bot_file": None,
        "outputs": (),
        "hard_timeout": None,
        "grace_period": None,
        "cache_dir": None,
        "max_cache_size": 1,
        "min_free_space": 2,
        "max_items": 3,
        "root_dir": None,
        "leak_temp_dir": False,
        "mapping": "auto",
        "verify_inputs": False,
        "named_caches": (),
        "named_cache_root": None,
        "lower_priority": False,
        "no_network": False,
        "switch_to_account": None,
        "containment": "NONE",
    }
    places = {"cache_dir": Path("/home/cache/blobs"), "named_root": Path("/home/cache/named_caches")}
    return parse_spec(Asked(**(flags | given)), base_env={}, **places)


def test_work_directories_are_beside_the_cache_by_default() -> None:
    assert parse().root_dir == Path("/home/cache")
    assert parse(cache_dir=Path("/a/b")).root_dir == Path("/a")
    assert parse(cache_dir=Path("/a/b"), root_dir=Path("/c")).root_dir == Path("/c")
    assert parse(cache_dir=Path("b")).root_dir == Path.cwd()


@pytest.mark.parametrize(
    ("isolated", "namespace", "name"),
    [
        (None, None, "blake3-zstd"),
        ("a" * 40, None, "default-gzip"),
        ("A" * 64, None, "blake3-zstd"),
        ("a" * 128, None, "sha512-deflate"),
        ("a" * 64, "sha256-flat", "sha256-flat"),
        (None, "default", "default"),
    ],
)
def test_namespace_is_named_or_known_by_the_length(isolated: str | None, namespace: str | None, name: str) -> None:
    assert parse(isolated=isolated, namespace=namespace, server="localhost:1").namespace.name == name


def test_command_without_a_tree_is_raw() -> None:
    assert parse().raw_command
    assert not parse(isolated=HASH, server="localhost:1").raw_command


def test_server_gets_its_scheme() -> None:
    assert parse(server="localhost:1/").server == "http://localhost:1"


def test_limits_reach_the_cache() -> None:
    spec = parse()
    assert (spec.max_cache_size_bytes, spec.min_free_space_bytes, spec.max_cache_items) == (1, 2, 3)


def test_last_value_of_a_variable_counts_and_all_its_prefixes() -> None:
    assert environment_changes(["A=1", "B==", "A="]) == {"A": "", "B": "="}
    assert environment_prefixes(["A=./x/", "B=y", "A=z"]) == {"A": ["x", "z"], "B": ["y"]}


@pytest.mark.parametrize(("given", "kept"), [(None, None), (0.0, None), (1.5, 1.5)])
def test_no_limit_is_none(given: float | None, kept: float | None) -> None:
    assert limit_s("--x", given) == kept


@pytest.mark.parametrize("value", [-0.1, float("nan"), float("inf")])
def test_limit_is_a_duration(value: float) -> None:
    with pytest.raises(InvalidInput, match="--x must be a number of seconds"):
        limit_s("--x", value)


@pytest.mark.parametrize(
    "given", [{"server": ""}, {"bot_file": ""}, {"outputs": ("a", "")}, {"words": ("",)}, {"words": ("", "a")}]
)
def test_what_is_empty_is_refused(given: dict[str, Any]) -> None:
    with pytest.raises(InvalidInput, match="is empty"):
        parse(**given)
