"""Every call of the REST API, with values made from its own description: never a 500, always JSON (guarantee 13)."""

from __future__ import annotations

import asyncio
import json
from typing import Any
from urllib.parse import quote, urlencode

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from server import openapi
from server.api_messages import MESSAGES
from server.api_routes import BASES
from server.api_table import ALL_CALLS, CALLS, Call
from swarming import wire_in
from tests.unit.server_site import Site, hello, new_task, running_site

DOCUMENT = openapi.description("0.1.0", BASES)
KNOWN = [
    "bot1",
    "a:b",
    "default",
    "pool:default",
    "5cee488008810",
    "5cee488008811",
    "1700000000",
    "\0",
    "é",
    "a|b",
    "*",
]
TEXT = st.sampled_from(KNOWN) | st.text(max_size=12)
NUMBER = st.sampled_from([0, 1, 60, 100, 1000, 1001, -1, 2**31, 2**63 - 1, 2**63, -(2**63)]) | st.integers()
ANYTHING = (
    st.none() | st.booleans() | NUMBER | TEXT | st.lists(TEXT, max_size=2) | st.dictionaries(TEXT, TEXT, max_size=2)
)
DEPTH = 4


def values(schema: dict[str, Any], depth: int = 0) -> st.SearchStrategy[Any]:
    """Return mostly what a schema wants, and sometimes something else."""
    if "$ref" in schema:
        return values(DOCUMENT["components"]["schemas"][schema["$ref"].rpartition("/")[2]], depth)
    if "enum" in schema:
        right: st.SearchStrategy[Any] = st.sampled_from(schema["enum"]) | st.integers(-1, 15)
    elif schema["type"] == "array":
        right = st.lists(values(schema["items"], depth + 1), max_size=2)
    elif schema["type"] == "object":
        fields = {} if depth > DEPTH else schema.get("properties", {})
        right = st.fixed_dictionaries({}, optional={key: values(one, depth + 1) for key, one in fields.items()})
    elif schema["type"] == "boolean":
        right = st.booleans()
    elif schema["type"] in {"integer", "number"}:
        right = NUMBER
    else:
        right = NUMBER.map(str) if schema.get("format") == "int64" else TEXT
    return st.one_of(right, right, right, right, ANYTHING)


def operation(call: Call) -> dict[str, Any]:
    found: dict[str, Any] = DOCUMENT["paths"]["/" + call.path][call.method.lower()]
    return found


@st.composite
def requests(draw: st.DrawFn, call: Call) -> tuple[str, bytes | None]:
    path, query = BASES[0] + "/" + call.path, []
    for one in operation(call)["parameters"]:
        value = draw(values(one["schema"]))
        if one["in"] == "path":
            text = str(value).replace("/", "").strip(".") or "x"
            path = path.replace(f"{{{one['name']}}}", quote(text.encode("utf-8", "replace"), safe=""))
        elif one["required"] or draw(st.booleans()):
            many = value if isinstance(value, list) else [value]
            query += [(one["name"], str(item).encode("utf-8", "replace")) for item in many]
    body = None
    if call.method == "POST":
        schema = operation(call)["requestBody"]["content"]["application/json"]["schema"]
        body = draw(values(schema).map(lambda value: json.dumps(value).encode()) | st.binary(max_size=8))
    return f"{path}?{urlencode(query)}" if query else path, body


async def send(site: Site, call: Call, path: str, body: bytes | None) -> None:
    from yarl import URL

    async with site.session.request(call.method, URL(site.url + path, encoded=True), data=body) as response:
        text = await response.text()
        assert response.status < 500, (call.name, path, body, text)
        assert response.content_type == "application/json", (call.name, path, text)
        content = json.loads(text)
        assert (response.status == 200) is ("error" not in content), (call.name, path, text)


@pytest.mark.parametrize("call", ALL_CALLS, ids=lambda call: call.name)
@settings(max_examples=15, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_no_call_breaks(call: Call, data: st.DataObject) -> None:
    sent = data.draw(st.lists(requests(call), min_size=3, max_size=8))

    async def run() -> None:
        async with running_site() as site:
            await site.bot("handshake", hello())
            await site.post("tasks/new", new_task(tags=["a:b"]))
            for path, body in sent:
                await send(site, call, path, body)

    asyncio.run(run())


@pytest.mark.parametrize(
    ("message", "struct"),
    [
        ("NewTaskRequest", wire_in.NewTaskRequest),
        ("TaskSlice", wire_in.Slice),
        ("TaskProperties", wire_in.Properties),
        ("Containment", wire_in.Containment),
        ("FilesRef", wire_in.FilesRef),
        ("TasksCancelRequest", wire_in.TasksCancelRequest),
        ("TaskCancelRequest", wire_in.CancelRequest),
    ],
)
def test_messages_are_described_as_they_are_read(message: str, struct: Any) -> None:
    assert set(MESSAGES[message]) == set(struct.__struct_fields__)


KINDS: dict[str, Any] = {
    "string": str,
    "boolean": bool,
    "number": (int, float),
    "object": dict,
    "array": list,
    "integer": int,
}


def check(schema: dict[str, Any], value: Any, where: str) -> None:
    """Fail for a reply that says more, or otherwise, than its description."""
    if "$ref" in schema:
        schema = DOCUMENT["components"]["schemas"][schema["$ref"].rpartition("/")[2]]
    assert isinstance(value, KINDS[schema["type"]]), (where, value)
    if "enum" in schema:
        assert value in schema["enum"], where
    if schema["type"] == "array":
        for one in value:
            check(schema["items"], one, where + "[]")
    if schema["type"] == "object" and "properties" in schema:
        assert set(value) <= set(schema["properties"]), (where, set(value) - set(schema["properties"]))
        for key, one in value.items():
            check(schema["properties"][key], one, f"{where}.{key}")


async def test_replies_are_what_the_description_says() -> None:
    async with running_site() as site:
        await site.bot("handshake", hello(os=["Linux"]))
        first = (await site.post("tasks/new", new_task(properties={"idempotent": True})))["task_id"]
        _, command = await site.bot("poll", hello(os=["Linux"]))
        run_id = command["manifest"]["task_id"]
        stats = {"bot_overhead": 1.0, "isolated_stats": {"download": {"duration": 1.0}}}
        await site.bot("task_update", {"id": "bot1", "task_id": run_id})
        ending = {"exit_code": 0, "duration": 1.0, "output": "aGk=", "output_chunk_start": 0, **stats}
        await site.bot("task_update", {"id": "bot1", "task_id": run_id, **ending})
        await site.post("tasks/new", new_task(properties={"idempotent": True}))
        waiting = (await site.post("tasks/new", new_task(tags=["x:y"])))["task_id"]
        await site.scheduler.close()
        seen = set()
        for call in CALLS:
            if call.method == "GET":
                for task_id in (first, run_id, waiting):
                    path = call.path.format(task_id=task_id, bot_id="bot1")
                    reply = await site.get(
                        f"{path}?start=1&include_performance_stats="
                        + ("false" if call.name == "tasks.requests" else f"true&task_id={task_id}")
                    )
                    check({"$ref": call.reply}, reply, call.name)
                seen.add(call.name)
        for name, body in (("tasks.new", new_task()), ("tasks.cancel", {"tags": ["x:y"]})):
            call = next(one for one in CALLS if one.name == name)
            check({"$ref": call.reply}, await site.post(call.path, body), name)
        assert len(seen) == sum(call.method == "GET" for call in CALLS)
