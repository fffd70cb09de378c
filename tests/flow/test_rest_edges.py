"""The REST API at its edges, sentence by sentence: methods, spellings, limits on both sides, and what they answer.

A client that shares no code with the server: everything here is written down by hand from the documents of 2020.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from typing import Any

import pytest

from tests.flow.servers import ServerProcess, running_server
from tests.flow.test_rest_calls import asked, said

BASES = ("/_ah/api/swarming/v1/", "/api/swarming/v1/")
BOT = "/swarming/api/v1/bot/"
JSON = "application/json; charset=utf-8"
HASH = {"isolated": "a" * 40, "isolatedserver": "https://blobs.example.com", "namespace": "default-gzip"}
UUID = "12345678-1234-4234-8234-123456789abc"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """One server for all tests here: none of them minds the tasks of another."""
    with running_server(tmp_path_factory.mktemp("edges") / "data") as process:
        assert process.call("POST", f"{BOT}handshake", said("bot1"))[0] == 200
        yield process


def get(server: ServerProcess, path: str) -> Any:
    status, reply = server.call("GET", BASES[0] + path)
    assert status == 200, (path, reply)
    return reply


def post(server: ServerProcess, path: str, body: Any = None) -> Any:
    status, reply = server.call("POST", BASES[0] + path, {} if body is None else body)
    assert status == 200, (path, reply)
    return reply


def refusal(server: ServerProcess, method: str, path: str, body: Any = None) -> str:
    """Return why a call gets 400."""
    status, reply = server.call(method, BASES[0] + path, body)
    assert status == 400, (path, body, reply)
    return str(reply["error"]["message"])


def calls(task_id: str) -> list[tuple[str, str, Any]]:
    """Return the 25 calls of 2020, each so that it succeeds as often as it is made."""
    return [
        ("GET", "server/details", None),
        ("POST", "server/token", {}),
        ("GET", "server/permissions", None),
        ("GET", "server/get_bootstrap", None),
        ("GET", "server/get_bot_config", None),
        ("GET", f"task/{task_id}/result", None),
        ("GET", f"task/{task_id}/request", None),
        ("POST", f"task/{task_id}/cancel", {}),
        ("GET", f"task/{task_id}/stdout", None),
        ("POST", "tasks/new", asked("n") | {"evaluate_only": True}),
        ("GET", "tasks/list", None),
        ("GET", "tasks/requests", None),
        ("GET", f"tasks/get_states?task_id={task_id}", None),
        ("GET", "tasks/count?start=0", None),
        ("POST", "tasks/cancel", {"tags": ["no:such"]}),
        ("GET", "tasks/tags", None),
        ("GET", "queues/list", None),
        ("GET", "bot/bot1/get", None),
        ("POST", "bot/bot2/delete", {}),
        ("GET", "bot/bot1/events", None),
        ("POST", "bot/bot1/terminate", {}),
        ("GET", "bot/bot1/tasks", None),
        ("GET", "bots/list", None),
        ("GET", "bots/count", None),
        ("GET", "bots/dimensions", None),
    ]


@pytest.mark.parametrize("base", BASES)
def test_every_call_under_both_bases_and_with_the_wrong_method(server: ServerProcess, base: str) -> None:
    for method, path, body in calls(post(server, "tasks/new", asked("known"))["task_id"]):
        assert server.call("POST", f"{BOT}handshake", said("bot2"))[0] == 200  # it is deleted on the way
        status, headers, data = server.raw(
            method, base + path, body, {"Content-Type": "application/x-www-form-urlencoded"}
        )
        assert (status, headers["Content-Type"]) == (200, JSON), (path, data)
        wrong = "POST" if method == "GET" else "GET"
        status, headers, data = server.raw(wrong, base + path)
        assert (status, headers["Content-Type"]) == (405, JSON), path
        assert json.loads(data)["error"]["message"]
        status, headers, _ = server.raw("OPTIONS", base + path.partition("?")[0])
        assert status == 200
        assert headers["Access-Control-Allow-Methods"] == "DELETE, GET, OPTIONS, POST, PUT"
        assert headers["Access-Control-Allow-Headers"] == "Origin, Authorization, Content-Type, Accept, User-Agent"
        assert "Access-Control-Allow-Origin" not in headers  # as long as there is no authentication
        if method == "GET":
            and_ = "&" if "?" in path else "?"
            assert server.call("GET", f"{base}{path}{and_}fields=nothing") == (200, {})
            whole = server.call("GET", f"{base}{path}{and_}unknown=1&fields=%28")[1]
            assert whole  # a mask that cannot be read is ignored


def test_nothing_below_the_base_answers_without_json(server: ServerProcess) -> None:
    for path in ("/_ah/api/none", "/_ah/api/swarming/v1", "/_ah/api/swarming/v2/tasks/list", "/api/swarming/v1/"):
        status, headers, data = server.raw("GET", path)
        assert (status, headers["Content-Type"]) == (404, JSON)
        assert json.loads(data)["error"]["message"]
    for path, place in (("user/task/5cee488008810", "/task?id=5cee488008810"), ("restricted/bot/b", "/bot?id=b")):
        status, headers, _ = server.raw("GET", f"/{path}")
        assert (status, headers["Location"]) == (302, place)


def test_discovery_echoes_the_host_of_the_caller(server: ServerProcess) -> None:
    host = f"localhost:{server.port}"
    directory = server.call("GET", "/_ah/api/discovery/v1/apis", None, {"Host": host})[1]
    assert (directory["kind"], directory["discoveryVersion"]) == ("discovery#directoryList", "v1")
    [item] = [one for one in directory["items"] if one["id"] == "swarming:v1"]
    place = "/_ah/api/discovery/v1/apis/swarming/v1/rest"
    assert item["discoveryRestUrl"] == f"http://{host}{place}"
    found = server.call("GET", place, None, {"Host": host})[1]
    keys = (
        "auth basePath baseUrl batchPath description discoveryVersion icons id kind name parameters protocol resources"
    )
    assert {*keys.split(), "rootUrl", "schemas", "servicePath", "version"} <= found.keys()
    assert (found["protocol"], found["servicePath"], found["rootUrl"]) == (
        "rest",
        "swarming/v1/",
        f"http://{host}/_ah/api/",
    )
    ways = {
        (method["httpMethod"], method["path"])
        for resource in found["resources"].values()
        for method in resource["methods"].values()
    }
    expected = [(method, path.partition("?")[0]) for method, path, _ in calls("{task_id}")]
    assert {(method, path.replace("bot1", "{bot_id}").replace("bot2", "{bot_id}")) for method, path in expected} <= ways


def test_spellings_of_what_is_sent(server: ServerProcess) -> None:
    body = asked("null", "null:null", command=["null", "true", "1"], execution_timeout_secs=60)
    sent = body | {
        "user": "null",
        "realm": None,
        "pool_task_template": 3,
        "nobody_knows": {"this": []},
        "priority": "7",
    }
    made = post(server, "tasks/new?nor=that", sent)["request"]
    assert (made["name"], made["user"], made["properties"]["command"]) == ("null", "null", ["null", "true", "1"])
    assert (made["priority"], made["properties"]["execution_timeout_secs"]) == ("7", "60")
    assert "swarming.pool.template:skip" in made["tags"]
    assert "realm" not in made
    for value in ("AUTO", 2, "2"):
        contained = asked("n", containment={"containment_type": value}) | {"evaluate_only": True}
        made = post(server, "tasks/new", contained)["request"]["properties"]
        assert made["containment"] == {"containment_type": "AUTO", "lower_priority": False}
    for state, number in (("PENDING", 0), ("ALL", 10), ("NO_RESOURCE", 13)):
        of_name, of_number = (get(server, f"tasks/count?start=0&state={one}")["count"] for one in (state, number))
        assert of_name == of_number
    assert server.call("POST", BASES[0] + "tasks/new") == server.call("POST", BASES[0] + "tasks/new", {})
    for wrong in (b"null", b"[]", b"{", b"\xff", b'{"name": 1}'):
        assert "JSON" in refusal(server, "POST", "tasks/new", wrong)
    for path in ("tasks/list?state=14", "tasks/list?state=pending", "tasks/list?sort=5", "bots/list?is_dead=4"):
        assert "expected one of" in (why := refusal(server, "GET", path)) or "expected TRUE" in why
    task_id = post(server, "tasks/new", asked("q", "by:query"))["task_id"]
    assert "true or false" in refusal(server, "POST", f"task/{task_id}/cancel?kill_running=1")
    assert post(server, "tasks/cancel?tags=by:query&kill_running=TRUE")["matched"] == "1"


def test_what_a_request_shows_though_nobody_asked_for_it(server: ServerProcess) -> None:
    made = post(server, "tasks/new", asked("plain", io_timeout_secs=0) | {"evaluate_only": True})
    assert made.keys() == {"request"}
    request = made["request"]
    assert "task_id" not in request
    assert request["created_ts"]
    assert (request["bot_ping_tolerance_secs"], request["expiration_secs"]) == ("60", "600")
    assert (request["service_account"], request["authenticated"]) == ("none", "bot:whitelisted-ip")
    what = request["properties"]
    assert what == request["task_slices"][0]["properties"]
    assert (what["grace_period_secs"], what["io_timeout_secs"], what["idempotent"]) == ("30", "0", False)
    assert what["containment"] == {"containment_type": "NOT_SPECIFIED", "lower_priority": False}
    assert what["inputs_ref"] == {"isolatedserver": server.url, "namespace": "blake3-zstd"}
    assert not {"env", "caches", "outputs", "extra_args", "secret_bytes", "relative_cwd"} & what.keys()
    leave = post(server, "bot/bot1/terminate")["task_id"]
    asked_to = get(server, f"task/{leave}/request")
    assert (asked_to["name"], asked_to["priority"], asked_to["expiration_secs"]) == ("Terminate bot1", "0", "86400")
    assert asked_to["task_slices"][0]["wait_for_capacity"] is True
    assert asked_to["properties"]["execution_timeout_secs"] == "0"
    assert {"terminate:1", "swarming.pool.template:no_pool"} <= set(asked_to["tags"])
    assert get(server, "server/details")["display_server_url_template"] == ""


def test_listings_at_the_edges_of_their_parameters(server: ServerProcess) -> None:
    for path in ("tasks/list", "tasks/requests", "bot/bot1/tasks", "bot/bot1/events", "bots/list", "queues/list"):
        for limit in (1, 1000):
            assert "now" in get(server, f"{path}?limit={limit}")
        for wrong in ("limit=0", "limit=1001", "limit=x", "cursor=%21%21"):
            assert refusal(server, "GET", f"{path}?{wrong}")
    for path in ("tasks/list", "tasks/requests", "bot/bot1/tasks"):
        for sort in ("MODIFIED_TS", "COMPLETED_TS", "ABANDONED_TS", "STARTED_TS"):
            assert "now" in get(server, f"{path}?sort={sort}")
            for with_ in ("start=1", "end=9999999999"):
                assert "CREATED_TS" in refusal(server, "GET", f"{path}?sort={sort}&{with_}")
        assert "now" in get(server, f"{path}?sort=CREATED_TS&start=1.5&end=9999999999")
    many = [post(server, "tasks/new", asked("one"))["task_id"]] * 1000
    states = get(server, "tasks/get_states?" + "&".join(f"task_id={one}" for one in many))
    assert states["states"] == ["PENDING"] * 1000


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


def test_the_limits_of_properties_on_both_sides(server: ServerProcess) -> None:
    for good, wrong, word in LIMITS:
        assert "request" in post(server, "tasks/new", changed(**good)), good
        assert word in refusal(server, "POST", "tasks/new", changed(**wrong))


def test_the_limits_of_requests_on_both_sides(server: ServerProcess) -> None:
    for good, wrong, word in REQUESTS:
        assert "request" in post(server, "tasks/new", changed() | good), good
        assert word in refusal(server, "POST", "tasks/new", changed() | wrong)


def slices(*changes: dict[str, Any], expiration_s: int = 60) -> dict[str, Any]:
    parts = [asked("n", **one)["task_slices"][0]["properties"] for one in changes]
    return changed() | {"task_slices": [{"expiration_secs": expiration_s, "properties": one} for one in parts]}


def test_the_limits_of_slices_on_both_sides(server: ServerProcess) -> None:
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
        assert "request" in post(server, "tasks/new", good)
        assert word in refusal(server, "POST", "tasks/new", wrong)


def test_a_termination_asks_for_nothing_else(server: ServerProcess) -> None:
    properties = {"dimensions": [{"key": "id", "value": "bot1"}]}
    body = changed() | {"priority": 0}

    def leave(**more: Any) -> dict[str, Any]:
        part = {"expiration_secs": 60, "properties": properties | more, "wait_for_capacity": True}
        return body | {"task_slices": [part]}

    assert post(server, "tasks/new", leave())["request"]["priority"] == "0"
    assert "must be priority 0" in refusal(server, "POST", "tasks/new", leave() | {"priority": 1})
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
        assert "terminate request" in refusal(server, "POST", "tasks/new", leave(**one))


def test_tags_and_orders_of_what_is_stored(server: ServerProcess) -> None:
    made = post(
        server,
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
    two = post(server, "tasks/new", slices({}, dimensions(("os", "Mac"))) | {"evaluate_only": False})
    assert {"os:Mac", "pool:default"} < set(two["request"]["tags"])  # of every slice, used or not
    assert two["request"]["expiration_secs"] == "120"
