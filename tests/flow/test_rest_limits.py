"""Every limit of a task request on both sides: the last that is accepted, the first that is not, and the reason.

A client that shares no code with the server: the figures are written down by hand from the documents of 2020.
"""

from __future__ import annotations

import base64
from typing import Any

from tests.flow.raw_swarming import asked, post, refusal
from tests.flow.servers import ServerProcess

HASH = {"isolated": "a" * 40, "isolatedserver": "https://blobs.example.com", "namespace": "default-gzip"}
UUID = "12345678-1234-4234-8234-123456789abc"


def dimensions(*more: tuple[str, str]) -> dict[str, Any]:
    return {"dimensions": [{"key": key, "value": value} for key, value in (("pool", "default"), *more)]}


def many(count: int, **entry: Any) -> list[dict[str, Any]]:
    """Return entries that differ in their keys, names and paths."""
    return [
        {key: value % number if "%d" in str(value) else value for key, value in entry.items()}
        for number in range(count)
    ]


def secret(size_bytes: int) -> dict[str, str]:
    return {"secret_bytes": base64.b64encode(bytes(size_bytes)).decode()}


# What is changed in the properties of a task: the last that is accepted, the first that is not, a word of the reason.
LIMITS: list[tuple[dict[str, Any], dict[str, Any], str]] = [
    ({"execution_timeout_secs": 1}, {"execution_timeout_secs": 0}, "between 1 and"),
    ({"execution_timeout_secs": 259_210}, {"execution_timeout_secs": 259_211}, "259210"),
    ({"io_timeout_secs": 259_210}, {"io_timeout_secs": 259_211}, "259210"),
    ({"grace_period_secs": 0}, {"grace_period_secs": -1}, "between 0 and 3600"),
    ({"grace_period_secs": 3600}, {"grace_period_secs": 3601}, "between 0 and 3600"),
    (dimensions(*((f"k{i}", "v") for i in range(31))), dimensions(*((f"k{i}", "v") for i in range(32))), "32 keys"),
    (dimensions(*(("k", str(i)) for i in range(16))), dimensions(*(("k", str(i)) for i in range(17))), "too many"),
    (dimensions(("k", "a"), ("k", "b")), dimensions(("k", "a"), ("k", "a")), "repeated"),
    (dimensions(("k" * 64, "v")), dimensions(("k" * 65, "v")), "invalid"),
    (dimensions(("-_.9", "v")), dimensions(("9", "v")), "invalid"),
    (dimensions(("k", "v" * 256)), dimensions(("k", "v" * 257)), "invalid"),
    (dimensions(("k", "a b")), dimensions(("k", "a ")), "invalid"),
    (dimensions(("k", "a|b")), dimensions(("k", "a|")), "invalid"),
    (dimensions(("k", "a|b|c|d"), ("l", "a|b")), dimensions(("k", "a|b|c"), ("l", "a|b|c")), "8 combinations"),
    (dimensions(("id", "a")), dimensions(("id", "a"), ("id", "b")), "'id'"),
    (dimensions(), dimensions(("pool", "other")), "'pool'"),
    ({"command": ["a"] * 128}, {"command": ["a"] * 129}, "128"),
    (
        {"command": [], "extra_args": ["a"] * 128, "inputs_ref": HASH},
        {"command": [], "extra_args": ["a"] * 129, "inputs_ref": HASH},
        "128",
    ),
    ({"command": [], "inputs_ref": HASH}, {"command": []}, "at least one of"),
    ({"inputs_ref": HASH}, {"inputs_ref": HASH, "extra_args": ["a"]}, "both"),
    ({"relative_cwd": "."}, {"relative_cwd": "../a"}, "'..'"),
    ({"env": many(64, key="K%d", value="v")}, {"env": many(65, key="K%d", value="v")}, "64"),
    ({"env": [{"key": "K" * 64, "value": ""}]}, {"env": [{"key": "K" * 65, "value": ""}]}, "invalid"),
    ({"env": [{"key": "_9", "value": ""}]}, {"env": [{"key": "9_", "value": ""}]}, "invalid"),
    ({"env": [{"key": "K", "value": "v" * 1024}]}, {"env": [{"key": "K", "value": "v" * 1025}]}, "too long"),
    ({"env": many(2, key="K%d", value="v")}, {"env": many(2, key="K", value="v%d")}, "twice"),
    ({"env_prefixes": many(64, key="K%d", value=["a"])}, {"env_prefixes": many(65, key="K%d", value=["a"])}, "64"),
    (
        {"env_prefixes": [{"key": "K", "value": ["a" * 1024]}]},
        {"env_prefixes": [{"key": "K", "value": ["a" * 1025]}]},
        "1024",
    ),
    ({"env_prefixes": [{"key": "K", "value": ["."]}]}, {"env_prefixes": [{"key": "K", "value": [".."]}]}, "'..'"),
    ({"caches": many(32, name="n%d", path="p%d")}, {"caches": many(33, name="n%d", path="p%d")}, "32"),
    ({"caches": [{"name": "n" * 128, "path": "p"}]}, {"caches": [{"name": "n" * 129, "path": "p"}]}, "invalid"),
    ({"caches": [{"name": "n_9", "path": "p"}]}, {"caches": [{"name": "N-9", "path": "p"}]}, "invalid"),
    ({"caches": [{"name": "n", "path": "p" * 256}]}, {"caches": [{"name": "n", "path": "p" * 257}]}, "256"),
    ({"caches": many(2, name="n%d", path="p%d")}, {"caches": many(2, name="n", path="p%d")}, "twice"),
    ({"caches": many(2, name="n%d", path="p%d")}, {"caches": many(2, name="n%d", path="p")}, "twice"),
    ({"outputs": [f"o{i}" for i in range(4096)]}, {"outputs": [f"o{i}" for i in range(4097)]}, "4096"),
    ({"outputs": ["o" * 512]}, {"outputs": ["o" * 513]}, "512"),
    (secret(20 * 1024), secret(20 * 1024 + 1), "20480"),
    ({"secret_bytes": base64.encodebytes(bytes(100)).decode()}, {"secret_bytes": "no base64"}, "base64"),
    ({"inputs_ref": HASH}, {"inputs_ref": HASH | {"isolated": "a" * 39}}, "40"),
    ({"inputs_ref": HASH}, {"inputs_ref": HASH | {"isolated": "A" * 40}}, "lower-case"),
    ({"inputs_ref": HASH | {"namespace": "n" * 128}}, {"inputs_ref": HASH | {"namespace": "n" * 129}}, "128"),
    (
        {"inputs_ref": HASH | {"isolatedserver": "http://localhost:1"}},
        {"inputs_ref": HASH | {"isolatedserver": "http://blobs.example.com"}},
        "https",
    ),
    (
        {"inputs_ref": HASH | {"isolatedserver": "https://" + "e" * 1016}},
        {"inputs_ref": HASH | {"isolatedserver": "https://" + "e" * 1017}},
        "1024",
    ),
    ({"cipd_input": None}, {"cipd_input": {"server": "https://cipd.example.com"}}, "cipd_input"),
    ({"cas_input_root": None}, {"cas_input_root": {"cas_instance": "projects/a/instances/b"}}, "cas_input_root"),
]
TAG = "a:" + "b" * 319
# The same for the request itself.
REQUESTS: list[tuple[dict[str, Any], dict[str, Any], str]] = [
    ({"name": "n"}, {"name": ""}, "name"),
    ({"priority": 1}, {"priority": 0}, "priority 0 can only be used for terminate request"),
    ({"priority": 255}, {"priority": 256}, "between 0 and 255"),
    ({"bot_ping_tolerance_secs": 30}, {"bot_ping_tolerance_secs": 29}, "between 30 and 1200"),
    ({"bot_ping_tolerance_secs": 1200}, {"bot_ping_tolerance_secs": 1201}, "between 30 and 1200"),
    ({"tags": [f"a:{i}" for i in range(256)]}, {"tags": [f"a:{i}" for i in range(257)]}, "256"),
    ({"tags": [TAG]}, {"tags": [TAG + "b"]}, "321"),
    ({"tags": ["a:b:c"]}, {"tags": ["ab"]}, "key:value"),
    ({"tags": []}, {"tags": ["swarming.pool.template:none"]}, "reserved"),
    ({"service_account": "bot"}, {"service_account": "robot"}, "service_account"),
    ({"service_account": "none"}, {"service_account": "a@example.com"}, "token server"),
    ({"request_uuid": UUID}, {"request_uuid": UUID[:-1] + "g"}, "invalid uuid is given as request_uuid"),
    ({"parent_task_id": ""}, {"parent_task_id": "5cee488008811"}, "parent_task_id"),
    ({"resultdb": {"enable": False}}, {"resultdb": {"enable": True}}, "realm"),
    ({"pubsub_topic": None}, {"pubsub_topic": "projects/a/topics/b"}, "pubsub_topic"),
    ({"properties": None}, {"properties": {}}, "Specify one of properties or task_slices, not both"),
    ({"expiration_secs": None}, {"expiration_secs": 60}, "do not specify a global expiration_secs"),
]


def changed(**properties: Any) -> dict[str, Any]:
    return asked("n", **properties) | {"evaluate_only": True}


def test_the_limits_of_properties_on_both_sides(rest_server: ServerProcess) -> None:
    for good, wrong, word in LIMITS:
        assert "request" in post(rest_server, "tasks/new", changed(**good)), good
        assert word in refusal(rest_server, "POST", "tasks/new", changed(**wrong))


def test_the_limits_of_requests_on_both_sides(rest_server: ServerProcess) -> None:
    for good, wrong, word in REQUESTS:
        assert "request" in post(rest_server, "tasks/new", changed() | good), good
        assert word in refusal(rest_server, "POST", "tasks/new", changed() | wrong)


def slices(*changes: dict[str, Any], expiration_s: int = 60) -> dict[str, Any]:
    parts = [asked("n", **one)["task_slices"][0]["properties"] for one in changes]
    return changed() | {"task_slices": [{"expiration_secs": expiration_s, "properties": one} for one in parts]}


def test_the_limits_of_slices_on_both_sides(rest_server: ServerProcess) -> None:
    other_pool = {"dimensions": [{"key": "pool", "value": "other"}]}
    pairs = [
        (slices({}, expiration_s=1), slices({}, expiration_s=0), "between 1 and"),
        (slices({}, expiration_s=604_810), slices({}, expiration_s=604_811), "604810"),
        (slices(*({"command": [str(i)]} for i in range(8))), slices(*({"command": [str(i)]} for i in range(9))), "8"),
        (slices({}, {"command": ["a"]}), slices({}, {"command": ["a"], **other_pool}), "same pool"),
        (
            slices({}, {"grace_period_secs": 29}),
            slices({}, {"grace_period_secs": 30}),
            "duplicate",
        ),  # 30 is the default
        (slices(secret(1), secret(1) | {"command": ["a"]}), slices({}, secret(1)), "secret_bytes"),
    ]
    for good, wrong, word in pairs:
        assert "request" in post(rest_server, "tasks/new", good)
        assert word in refusal(rest_server, "POST", "tasks/new", wrong)


def test_a_termination_asks_for_nothing_else(rest_server: ServerProcess) -> None:
    properties = {"dimensions": [{"key": "id", "value": "bot1"}]}
    body = changed() | {"priority": 0}

    def leave(**more: Any) -> dict[str, Any]:
        part = {"expiration_secs": 60, "properties": properties | more, "wait_for_capacity": True}
        return body | {"task_slices": [part]}

    assert post(rest_server, "tasks/new", leave())["request"]["priority"] == "0"
    assert "must be priority 0" in refusal(rest_server, "POST", "tasks/new", leave() | {"priority": 1})
    more: list[dict[str, Any]] = [
        {"command": ["a"]},
        {"env": [{"key": "a", "value": "b"}]},
        {"caches": [{"name": "a", "path": "b"}]},
        {"outputs": ["a"]},
        {"idempotent": True},
        {"inputs_ref": HASH},
        {"execution_timeout_secs": 60},
        {"io_timeout_secs": 60},
        secret(1),
        dimensions(("id", "bot1")),
    ]
    for one in more:
        assert "terminate request" in refusal(rest_server, "POST", "tasks/new", leave(**one))


def test_tags_and_orders_of_what_is_stored(rest_server: ServerProcess) -> None:
    made = post(
        rest_server,
        "tasks/new",
        asked(
            "sorted", "z:1", "b:2", "b:2",
            dimensions=dimensions(("os", "Windows|Linux"), ("cpu", "x"))["dimensions"],
            env=[{"key": "B", "value": "2"}, {"key": "A", "value": ""}],
            caches=[{"name": "b", "path": "x"}, {"name": "a", "path": "y"}],
        ) | {"user": ""},
    )  # fmt: skip
    request, what = made["request"], made["request"]["properties"]
    assert request["tags"] == [
        "b:2", "cpu:x", "os:Linux", "os:Windows", "pool:default", "priority:100", "realm:none", "service_account:none",
        "swarming.pool.template:none", "swarming.pool.version:pools_cfg_rev", "user:none", "z:1",
    ]  # fmt: skip
    assert (request["user"], made["task_result"]["user"], made["task_result"]["tags"]) == ("", "", request["tags"])
    assert [one["value"] for one in what["dimensions"]] == ["x", "Linux|Windows", "default"]
    assert [one["key"] for one in what["env"]] == ["A", "B"]
    assert [one["name"] for one in what["caches"]] == ["a", "b"]
    two = post(rest_server, "tasks/new", slices({}, dimensions(("os", "Mac"))) | {"evaluate_only": False})
    assert {"os:Mac", "pool:default"} < set(two["request"]["tags"])  # of every slice, used or not
    assert two["request"]["expiration_secs"] == "120"
