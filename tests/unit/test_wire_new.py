"""`tasks/new`: every rule of a request, on both sides of its limit, and what becomes of a valid one."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from typing import Any

import pytest

from isolate.errors import InvalidTask
from swarming import model, wire_rules
from swarming.wire_new import new_task

UUID = "12345678-1234-4234-8234-123456789abc"
Change = Callable[[dict[str, Any]], object]


def properties(**changes: Any) -> dict[str, Any]:
    base: dict[str, Any] = {
        "command": ["python3", "-c", "pass"],
        "dimensions": [{"key": "pool", "value": "default"}],
        "execution_timeout_secs": 60,
    }
    return {key: value for key, value in (base | changes).items() if value is not None}


def request(*slices: dict[str, Any], **changes: Any) -> dict[str, Any]:
    parts = slices or (properties(),)
    base: dict[str, Any] = {
        "name": "n",
        "priority": 100,
        "task_slices": [{"expiration_secs": 60, "properties": part} for part in parts],
    }
    return {key: value for key, value in (base | changes).items() if value is not None}


def parse(body: dict[str, Any], own: tuple[str, ...] = ()) -> model.TaskRequest:
    return new_task(json.dumps(body).encode(), "user:a@b", own).request


def dimensions(*pairs: tuple[str, str]) -> list[dict[str, str]]:
    return [{"key": key, "value": value} for key, value in pairs]


def test_a_valid_request_is_normalised() -> None:
    body = request(
        properties(
            dimensions=dimensions(("pool", "default"), ("os", "Windows|Linux"), ("cpu", "x86")),
            env=[{"key": "B", "value": "2"}, {"key": "A", "value": "1"}],
            env_prefixes=[{"key": "PATH", "value": ["bin", "local/bin"]}],
            caches=[{"name": "git", "path": "c/git"}, {"name": "builder", "path": "c/b"}],
            idempotent=True,
            io_timeout_secs="30",
            outputs=["out/a.txt"],
            relative_cwd="src",
            secret_bytes=base64.b64encode(b"key").decode(),
            containment={"containment_type": "AUTO", "lower_priority": True},
        ),
        tags=["a:b"],
        user="joe",
        request_uuid=UUID.upper(),
        bot_ping_tolerance_secs=120,
        pool_task_template=3,
    )
    found = parse(body)
    asked = found.slices[0].properties
    assert asked.dimensions == (("cpu", "x86"), ("os", "Linux|Windows"), ("pool", "default"))
    assert asked.env == (("A", "1"), ("B", "2"))
    assert asked.env_prefixes == (("PATH", ("bin", "local/bin")),)
    assert asked.caches == (model.NamedCache("builder", "c/b"), model.NamedCache("git", "c/git"))
    assert (asked.io_timeout_s, asked.grace_period_s, asked.secret) == (30, 30, model.secret_digest(b"key"))
    assert asked.containment == model.Containment(lower_priority=True, containment_type=2)
    assert (found.user, found.authenticated, found.tags) == ("joe", "user:a@b", ("a:b",))
    assert found.request_uuid == UUID.replace("-", "")
    assert found.bot_ping_tolerance_s == 120


def test_the_older_form_is_one_slice() -> None:
    body = request(task_slices=None, properties=properties(), expiration_secs=90)
    assert [(part.expiration_s, part.wait_for_capacity) for part in parse(body).slices] == [(90, False)]


def test_evaluate_only_is_told_apart() -> None:
    assert new_task(json.dumps(request(evaluate_only=True)).encode(), "user:a@b").evaluate_only
    assert not new_task(json.dumps(request()).encode(), "user:a@b").evaluate_only


def test_a_tree_on_this_server_is_kept_without_the_address() -> None:
    digest = "ab" * 32
    ref = {"isolated": digest, "isolatedserver": "http://localhost:8080/", "namespace": "blake3-zstd"}
    body = request(properties(inputs_ref=ref))
    assert parse(body, ("http://localhost:8080",)).slices[0].properties.inputs == model.FilesRef(
        digest, "", "blake3-zstd"
    )
    elsewhere = parse(body, ("http://localhost:9090",)).slices[0].properties.inputs
    assert elsewhere is not None
    assert elsewhere.server == "http://localhost:8080"


@pytest.mark.parametrize(("digits", "namespace"), [(40, "default-gzip"), (64, "blake3-zstd"), (128, "sha512-deflate")])
def test_a_hash_without_a_namespace_is_read_by_its_length(digits: int, namespace: str) -> None:
    found = parse(request(properties(inputs_ref={"isolated": "a" * digits}))).slices[0].properties.inputs
    assert found == model.FilesRef("a" * digits, "", namespace)


@pytest.mark.parametrize("asked", [[], [("os", "Linux")], [("id", "bot1")]])
def test_a_task_that_names_no_pool_is_in_default(asked: list[tuple[str, str]]) -> None:
    found = parse(request(properties(dimensions=dimensions(*asked)))).slices[0].properties
    assert found.dimensions == (*asked, ("pool", "default"))
    named = properties(dimensions=dimensions(("pool", "default")), command=["other"])
    assert len(parse(request(properties(dimensions=dimensions(*asked)), named)).slices) == 2


def test_a_termination_needs_no_timeout_and_no_pool() -> None:
    found = parse(request({"dimensions": dimensions(("id", "bot1"))}, priority=0))
    assert found.slices[0].properties.is_terminate
    assert found.slices[0].properties.dimensions == (("id", "bot1"),)


WRONG: list[tuple[dict[str, Any], str]] = [
    (request(name="n" * 1025), "name is longer than 1024 characters"),
    (request(user="u" * 257), "user is longer than 256 characters"),
    (request(realm="r" * 513), "realm is longer than 512 characters"),
    (request(name=None), "name is required"),
    (request(name=""), "name is required"),
    (request(priority=None), "priority is required"),
    (request(priority=256), "priority"),
    (request(priority=-1), "priority"),
    (request(priority=0), "priority 0 can only be used for terminate request"),
    (request({"dimensions": dimensions(("id", "b"))}), "terminate request must be priority 0"),
    (request(properties=properties(), expiration_secs=30), "Specify one of properties or task_slices, not both"),
    (request(task_slices=None, properties=properties()), "missing expiration_secs"),
    (request(expiration_secs=30), "When using task_slices, do not specify a global expiration_secs"),
    (request(task_slices=[]), "task_slices or properties is required"),
    (request(*(properties(command=[str(i)]) for i in range(9))), "maximum of 8"),
    (request(properties(), properties()), "duplicate task slice"),
    (request(request_uuid="x"), "invalid uuid is given as request_uuid"),
    (request(bot_ping_tolerance_secs=29), "bot_ping_tolerance_secs"),
    (request(bot_ping_tolerance_secs=1201), "bot_ping_tolerance_secs"),
    (request(tags=["ab"]), "key:value"),
    (request(tags=["a:" + "b" * 320]), "321"),
    (request(tags=[f"a:{i}" for i in range(257)]), "256"),
    (request(tags=["swarming.pool.template:none"]), "reserved"),
    (request(tags=["swarming.pool.version:1"]), "swarming.pool.version is a reserved tag"),
    (request(service_account="robot"), "service_account"),
    (request(service_account="a@b.c"), "token server"),
    (request(resultdb={"enable": True}), "realm is not set"),
    (request(pubsub_topic="x"), "pubsub_topic"),
    (request(task_slices=[{"expiration_secs": 0, "properties": properties()}]), "expiration_secs"),
    (request(task_slices=[{"expiration_secs": 604811, "properties": properties()}]), "expiration_secs"),
    (request(task_slices=[{"properties": properties()}]), "expiration_secs is required"),
]
WRONG_PROPERTIES: list[tuple[dict[str, Any], str]] = [
    ({"command": ["a" * 8192] * 127 + ["a" * 8193]}, "command is longer than 1048576 characters"),
    ({"env_prefixes": [{"key": "P", "value": ["a"] * 65}]}, "can have up to 64 paths"),
    ({"containment": {"limit_processes": -1}}, "containment.limit_processes must not be negative"),
    ({"containment": {"limit_total_committed_memory": "-1"}}, "limit_total_committed_memory must not be negative"),
    ({"caches": [{"name": f"c{n}", "path": f"p{n}"} for n in range(33)]}, "caches can have up to 32 entries"),
    ({"execution_timeout_secs": None}, "execution_timeout_secs is required"),
    ({"execution_timeout_secs": 0}, "execution_timeout_secs"),
    ({"execution_timeout_secs": 259_211}, "execution_timeout_secs"),
    ({"io_timeout_secs": 259_211}, "io_timeout_secs"),
    ({"grace_period_secs": 3601}, "grace_period_secs"),
    ({"dimensions": dimensions(("pool", "a|b"))}, "'pool' cannot use"),
    ({"dimensions": dimensions(("pool", "a"), ("pool", "b"))}, "cannot be specified more than once"),
    ({"dimensions": dimensions(("pool", "a"), ("id", "b"), ("id", "c"))}, "cannot be specified more than once"),
    ({"dimensions": dimensions(("pool", "a"), ("o s", "b"))}, "'o s' is invalid"),
    ({"dimensions": dimensions(("pool", "a"), ("k" * 65, "b"))}, "is invalid"),
    ({"dimensions": dimensions(("pool", "a"), ("k", " b"))}, "invalid value"),
    ({"dimensions": dimensions(("pool", "a"), ("k", "b" * 257))}, "invalid value"),
    ({"dimensions": dimensions(("pool", "a"), ("k", "b"), ("k", "b"))}, "repeated"),
    ({"dimensions": dimensions(("pool", "a"), ("k", "1|2|3"), ("l", "1|2|3"))}, "combinations"),
    ({"dimensions": dimensions(("pool", "a"), *(("k", str(i)) for i in range(17)))}, "too many values"),
    ({"dimensions": dimensions(("pool", "a"), *((f"k{i}", "1") for i in range(32)))}, "32 keys"),
    ({"command": None}, "use at least one of command or inputs_ref.isolated"),
    ({"command": ["a"] * 129}, "128"),
    ({"command": ["a\0b"]}, "NUL"),
    ({"extra_args": ["x"]}, "can't use both command and extra_args"),
    ({"command": None, "extra_args": ["x"]}, "command"),
    ({"relative_cwd": "../x"}, "relative_cwd"),
    ({"relative_cwd": "/x"}, "relative_cwd"),
    ({"env": [{"key": "1A", "value": ""}]}, "env key '1A' is invalid"),
    ({"env": [{"key": "A", "value": ""}, {"key": "A", "value": "b"}]}, "twice"),
    ({"env": [{"key": "A", "value": "b" * 1025}]}, "invalid or too long"),
    ({"env": [{"key": f"A{i}", "value": ""} for i in range(65)]}, "64"),
    ({"env_prefixes": [{"key": "PATH", "value": ["../a"]}]}, "env_prefixes path"),
    ({"env_prefixes": [{"key": "PATH", "value": ["a\\b"]}]}, "must use '/'"),
    ({"env_prefixes": [{"key": "PATH", "value": []}]}, "no path"),
    ({"caches": [{"name": "A", "path": "a"}]}, "cache name 'A' is invalid"),
    ({"caches": [{"name": "a", "path": "/a"}]}, "caches path"),
    ({"caches": [{"name": "a", "path": "x"}, {"name": "b", "path": "x"}]}, "twice"),
    ({"outputs": ["../x"]}, "outputs path"),
    ({"outputs": ["x" * 513]}, "512"),
    ({"outputs": ["x"] * 4097}, "4096"),
    ({"secret_bytes": "§"}, "base64"),
    ({"secret_bytes": base64.b64encode(bytes(20 * 1024 + 1)).decode()}, "20480"),
    ({"inputs_ref": {"isolated": "AB" * 20}}, "inputs_ref"),
    ({"inputs_ref": {"isolated": "ab" * 19}}, "inputs_ref"),
    ({"inputs_ref": {"isolated": "ab" * 20, "namespace": "blake3-zstd"}}, "inputs_ref"),
    ({"inputs_ref": {"isolated": "ab" * 20, "namespace": "a b"}}, "inputs_ref"),
    ({"inputs_ref": {"isolated": "ab" * 20, "isolatedserver": "http://example.com"}}, "https"),
    ({"inputs_ref": {"isolated": "ab" * 20, "isolatedserver": "ftp://localhost"}}, "https"),
    ({"inputs_ref": {"isolated": "ab" * 20, "isolatedserver": "http://[::1"}}, "not a URL"),
    ({"cipd_input": {"server": "s"}}, "cipd_input"),
    ({"containment": {"containment_type": "STEEL"}}, "containment_type"),
]


@pytest.mark.parametrize(("body", "reason"), WRONG, ids=[reason for _, reason in WRONG])
def test_a_request_that_breaks_a_rule_is_refused_with_the_reason(body: dict[str, Any], reason: str) -> None:
    with pytest.raises(InvalidTask) as caught:
        parse(body)
    assert reason in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "reason"), WRONG_PROPERTIES, ids=[str(row) for row in range(len(WRONG_PROPERTIES))]
)
def test_properties_that_break_a_rule_are_refused_with_the_reason(changes: dict[str, Any], reason: str) -> None:
    with pytest.raises(InvalidTask) as caught:
        parse(request(properties(**changes)))
    assert reason in str(caught.value)


def test_slices_share_pool_and_secret() -> None:
    other_pool = properties(dimensions=dimensions(("pool", "b")))
    with pytest.raises(InvalidTask, match="same pool"):
        parse(request(properties(), other_pool))
    with pytest.raises(InvalidTask, match="secret_bytes"):
        parse(request(properties(), properties(command=["x"], secret_bytes="AAAA")))


@pytest.mark.parametrize(
    "changes",
    [
        {"execution_timeout_secs": 1},
        {"execution_timeout_secs": 259_210},
        {"grace_period_secs": 0},
        {"grace_period_secs": 3600},
        {"command": ["a"] * 128},
        {"command": ["a" * 8192] * 128},
        {"outputs": [f"{i:04}" + "x" * 508 for i in range(4096)]},
        {"env": [{"key": f"A{i}", "value": "v" * 1024} for i in range(64)]},
        {"secret_bytes": base64.b64encode(bytes(20 * 1024)).decode()},
        {"dimensions": dimensions(("pool", "a"), ("k", "1|2"), ("l", "1|2|3|4"))},
        {"dimensions": dimensions(("pool", "a"), *(("k", str(i)) for i in range(16)))},
    ],
)
def test_the_last_valid_value_of_each_limit(changes: dict[str, Any]) -> None:
    assert parse(request(properties(**changes))).name == "n"


def test_the_rules_know_a_dimension_of_a_bot() -> None:
    assert wire_rules.is_dimension_value("x" * 256)
    assert not wire_rules.is_dimension_value("x" * 257)
    assert not wire_rules.is_dimension_key("")
