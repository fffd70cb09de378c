"""swarming.reproduce: what of a request is run here."""

from __future__ import annotations

from typing import Any

import pytest

from isolate.errors import InvalidInput
from swarming.reproduce import parse


def request(**properties: Any) -> dict[str, Any]:
    return {"task_slices": [{"properties": properties}, {"properties": {"command": ["another"]}}]}


def test_the_first_slice_counts() -> None:
    asked = parse(
        request(
            command=["run", "it"],
            env=[{"key": "A", "value": "1"}, {"key": "EMPTY"}],
            env_prefixes=[{"key": "PATH", "value": ["bin", "tools"]}],
            outputs=["logs"],
            relative_cwd="src",
            secret_bytes="PFJFREFDVEVEPg==",
            caches=[{"name": "git", "path": "sub/git"}],
        )
    )
    assert (asked.words, asked.is_whole_command, asked.tree) == (("run", "it"), True, None)
    assert asked.caches == {"git": "sub/git"}
    assert asked.env == {"A": "1", "EMPTY": ""}
    assert asked.env_prefixes == {"PATH": ["bin", "tools"]}
    assert (asked.outputs, asked.relative_cwd, asked.has_secret) == (("logs",), "src", True)


def test_extra_arguments_follow_the_command_of_the_tree() -> None:
    ref = {"isolated": "ab", "isolatedserver": "http://s", "namespace": "blake3-zstd"}
    asked = parse(request(inputs_ref=ref, extra_args=["more"]))
    assert (asked.words, asked.is_whole_command) == (("more",), False)
    assert asked.tree == ("http://s", "blake3-zstd", "ab")


def test_a_task_without_a_command_is_none_to_reproduce() -> None:
    with pytest.raises(InvalidInput, match="no command"):
        parse(request(inputs_ref={"isolatedserver": "http://s", "namespace": "n"}))
