"""The REST API sentence by sentence: methods, masks, discovery, spellings, and what listings accept.

A client that shares no code with the server: everything here is written down by hand from the documents of 2020.
"""

from __future__ import annotations

import json
import re
from datetime import datetime
from typing import Any

import pytest

from tests.flow.raw_swarming import BASES, asked, bot, get, post, refusal, said
from tests.flow.servers import ServerProcess

JSON = "application/json; charset=utf-8"


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


def ways_in() -> set[tuple[str, str]]:
    """Return method and path of each call, as descriptions have them."""
    return {(method, re.sub(r"bot[12]", "{bot_id}", path.partition("?")[0])) for method, path, _ in calls("{task_id}")}


@pytest.mark.parametrize("base", BASES)
def test_every_call_under_both_bases_and_with_the_wrong_method(rest_server: ServerProcess, base: str) -> None:
    for method, path, body in calls(post(rest_server, "tasks/new", asked("known"))["task_id"]):
        bot(rest_server, "handshake", said("bot2"))  # it is deleted on the way
        status, headers, data = rest_server.raw(
            method, base + path, body, {"Content-Type": "application/x-www-form-urlencoded"}
        )
        assert (status, headers["Content-Type"]) == (200, JSON), (path, data)
        wrong = "POST" if method == "GET" else "GET"
        status, headers, data = rest_server.raw(wrong, base + path)
        assert (status, headers["Content-Type"]) == (405, JSON), path
        assert json.loads(data)["error"]["message"]
        status, headers, _ = rest_server.raw("OPTIONS", base + path.partition("?")[0])
        assert status == 200
        assert headers["Access-Control-Allow-Methods"] == "DELETE, GET, OPTIONS, POST, PUT"
        assert headers["Access-Control-Allow-Headers"] == "Origin, Authorization, Content-Type, Accept, User-Agent"
        assert "Access-Control-Allow-Origin" not in headers  # as long as there is no authentication
        if method == "GET":
            and_ = "&" if "?" in path else "?"
            assert rest_server.call("GET", f"{base}{path}{and_}fields=nothing") == (200, {})
            whole = rest_server.call("GET", f"{base}{path}{and_}unknown=1&fields=%28")[1]
            assert whole  # a mask that cannot be read is ignored


def test_nothing_below_the_base_answers_without_json(rest_server: ServerProcess) -> None:
    for path in ("/_ah/api/none", "/_ah/api/swarming/v1", "/_ah/api/swarming/v2/tasks/list", "/api/swarming/v1/"):
        status, headers, data = rest_server.raw("GET", path)
        assert (status, headers["Content-Type"]) == (404, JSON)
        assert json.loads(data)["error"]["message"]
    for path, place in (("user/task/5cee488008810", "/task?id=5cee488008810"), ("restricted/bot/b", "/bot?id=b")):
        status, headers, _ = rest_server.raw("GET", f"/{path}")
        assert (status, headers["Location"]) == (302, place)


def test_discovery_echoes_the_host_of_the_caller(rest_server: ServerProcess) -> None:
    host = f"localhost:{rest_server.port}"
    directory = rest_server.call("GET", "/_ah/api/discovery/v1/apis", None, {"Host": host})[1]
    assert (directory["kind"], directory["discoveryVersion"]) == ("discovery#directoryList", "v1")
    [item] = [one for one in directory["items"] if one["id"] == "swarming:v1"]
    place = "/_ah/api/discovery/v1/apis/swarming/v1/rest"
    assert item["discoveryRestUrl"] == f"http://{host}{place}"
    found = rest_server.call("GET", place, None, {"Host": host})[1]
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
    assert ways_in() <= ways


def test_the_description_and_its_page_have_every_call(rest_server: ServerProcess) -> None:
    status, headers, data = rest_server.raw("GET", "/api/openapi.json")
    assert (status, headers["Content-Type"]) == (200, JSON)
    described = json.loads(data)
    assert described["openapi"].startswith("3.0.")
    assert [one["url"] + "/" for one in described["servers"]] == list(BASES)
    status, headers, data = rest_server.raw("GET", "/api/")
    page = data.decode()
    assert (status, headers["Content-Type"]) == (200, "text/html; charset=utf-8")
    for method, path in ways_in():
        assert method.lower() in described["paths"][f"/{path}"]
        assert f"{method} {BASES[0]}{path}" in page
    links, places = re.findall('href="#([^"]+)"', page), re.findall(' id="([^"]+)"', page)
    assert set(links) <= set(places)
    assert len(places) == len(set(places))
    references = set(re.findall('"#/components/schemas/([^"]+)"', json.dumps(described)))
    assert references <= described["components"]["schemas"].keys()


def test_spellings_of_what_is_sent(rest_server: ServerProcess) -> None:
    body = asked("null", "null:null", command=["null", "true", "1"], execution_timeout_secs=60)
    sent = body | {
        "user": "null",
        "realm": None,
        "pool_task_template": 3,
        "nobody_knows": {"this": []},
        "priority": "7",
    }
    made = post(rest_server, "tasks/new?nor=that", sent)["request"]
    assert (made["name"], made["user"], made["properties"]["command"]) == ("null", "null", ["null", "true", "1"])
    assert (made["priority"], made["properties"]["execution_timeout_secs"]) == ("7", "60")
    assert "swarming.pool.template:skip" in made["tags"]
    assert "realm" not in made
    for value in ("AUTO", 2, "2"):
        contained = asked("n", containment={"containment_type": value}) | {"evaluate_only": True}
        made = post(rest_server, "tasks/new", contained)["request"]["properties"]
        assert made["containment"] == {"containment_type": "AUTO", "lower_priority": False}
    for state, number in (("PENDING", 0), ("ALL", 10), ("NO_RESOURCE", 13)):
        of_name, of_number = (get(rest_server, f"tasks/count?start=0&state={one}")["count"] for one in (state, number))
        assert of_name == of_number
    assert rest_server.call("POST", BASES[0] + "tasks/new") == rest_server.call("POST", BASES[0] + "tasks/new", {})
    for wrong in (b"null", b"[]", b"{", b"\xff", b'{"name": 1}'):
        assert "JSON" in refusal(rest_server, "POST", "tasks/new", wrong)
    for path in ("tasks/list?state=14", "tasks/list?state=pending", "tasks/list?sort=5", "bots/list?is_dead=4"):
        assert "expected one of" in (why := refusal(rest_server, "GET", path)) or "expected TRUE" in why
    task_id = post(rest_server, "tasks/new", asked("q", "by:query"))["task_id"]
    assert "true or false" in refusal(rest_server, "POST", f"task/{task_id}/cancel?kill_running=1")
    assert post(rest_server, "tasks/cancel?tags=by:query&kill_running=TRUE")["matched"] == "1"


def test_what_a_request_shows_though_nobody_asked_for_it(rest_server: ServerProcess) -> None:
    made = post(rest_server, "tasks/new", asked("plain", io_timeout_secs=0) | {"evaluate_only": True})
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
    assert what["inputs_ref"] == {"isolatedserver": rest_server.url, "namespace": "blake3-zstd"}
    assert not {"env", "caches", "outputs", "extra_args", "secret_bytes", "relative_cwd"} & what.keys()
    leave = post(rest_server, "bot/bot1/terminate")["task_id"]
    asked_to = get(rest_server, f"task/{leave}/request")
    assert (asked_to["name"], asked_to["priority"], asked_to["expiration_secs"]) == ("Terminate bot1", "0", "86400")
    assert asked_to["task_slices"][0]["wait_for_capacity"] is True
    assert asked_to["properties"]["execution_timeout_secs"] == "0"
    assert {"terminate:1", "swarming.pool.template:no_pool"} <= set(asked_to["tags"])
    assert get(rest_server, "server/details")["display_server_url_template"] == ""


def test_listings_at_the_edges_of_their_parameters(rest_server: ServerProcess) -> None:
    for path in ("tasks/list", "tasks/requests", "bot/bot1/tasks", "bot/bot1/events", "bots/list", "queues/list"):
        for limit in (1, 1000):
            assert "now" in get(rest_server, f"{path}?limit={limit}")
        for wrong in ("limit=0", "limit=1001", "limit=x", "cursor=%21%21"):
            assert refusal(rest_server, "GET", f"{path}?{wrong}")
    for path in ("tasks/list", "tasks/requests", "bot/bot1/tasks"):
        for sort in ("MODIFIED_TS", "COMPLETED_TS", "ABANDONED_TS", "STARTED_TS"):
            assert "now" in get(rest_server, f"{path}?sort={sort}")
            for with_ in ("start=1", "end=9999999999"):
                assert "CREATED_TS" in refusal(rest_server, "GET", f"{path}?sort={sort}&{with_}")
        assert "now" in get(rest_server, f"{path}?sort=CREATED_TS&start=1.5&end=9999999999")
    for _ in range(10):  # a time that was shown is found again, from it on and up to it
        made = post(rest_server, "tasks/new", asked("dated"))["request"]
        then = repr(datetime.fromisoformat(f"{made['created_ts']}+00:00").timestamp())
        found = get(rest_server, f"tasks/list?start={then}&end={then}")["items"]
        assert [one["task_id"] for one in found] == [made["task_id"]]
    many = [post(rest_server, "tasks/new", asked("one"))["task_id"]] * 1000
    states = get(rest_server, "tasks/get_states?" + "&".join(f"task_id={one}" for one in many))
    assert states["states"] == ["PENDING"] * 1000
