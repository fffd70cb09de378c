"""Whatever JSON arrives: it becomes a value or a refusal with a reason, never another error (guarantee 13)."""

from __future__ import annotations

import asyncio
import copy
import json
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from isolate.errors import InvalidInput
from swarming import model, wire_bot, wire_out, wire_query
from swarming.bots import BotHello, Command, Restart, Sleep
from swarming.doorbell import LocalDoorbell
from swarming.memory import MemoryTaskStore
from swarming.model import task_hash
from swarming.scheduler import Scheduler
from swarming.wire_new import new_task
from tests.clock import ManualClock
from tests.examples import examples
from tests.unit.server_site import MemoryOutputs

VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=8)
    | st.sampled_from(["default", "a|b", "..", "/x", "\0", "5cee488008811", "blake3-zstd", "ab" * 32, "AUTO"]),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["key", "value", "x"]), inner, max_size=3)
    ),
    max_leaves=6,
)

REQUEST: dict[str, Any] = {
    "name": "n",
    "priority": 100,
    "tags": ["a:b"],
    "request_uuid": "12345678-1234-4234-8234-123456789abc",
    "task_slices": [
        {
            "expiration_secs": 60,
            "wait_for_capacity": True,
            "properties": {
                "command": ["true"],
                "dimensions": [{"key": "pool", "value": "default"}, {"key": "os", "value": "a|b"}],
                "execution_timeout_secs": 60,
                "io_timeout_secs": 0,
                "grace_period_secs": 30,
                "env": [{"key": "A", "value": "b"}],
                "env_prefixes": [{"key": "PATH", "value": ["bin"]}],
                "caches": [{"name": "git", "path": "c"}],
                "inputs_ref": {
                    "isolated": "ab" * 32,
                    "isolatedserver": "http://localhost:1",
                    "namespace": "blake3-zstd",
                },
                "outputs": ["o"],
                "containment": {"containment_type": 2},
                "idempotent": True,
                "relative_cwd": "x",
                "secret_bytes": "AAAA",
            },
        }
    ],
}
HELLO: dict[str, Any] = {
    "dimensions": {"id": ["b"], "os": ["Linux"]},
    "state": {
        "running_time": 1,
        "sleep_streak": 0,
        "bot_group_cfg_version": "default",
        "maintenance": "",
        "quarantined": False,
        "lease_expiration_ts": 4e9,
        "cost_usd_hour": 1.0,
        "periodic_reboot_secs": 1e6,
    },
    "version": "v",
}
UPDATE: dict[str, Any] = {
    "id": "b",
    "task_id": "5cee488008811",
    "output": "aGk=",
    "output_chunk_start": 0,
    "exit_code": 0,
    "duration": 1.0,
    "cost_usd": 0.1,
    "bot_overhead": 0.1,
    "isolated_stats": {},
    "outputs_ref": {"isolated": "ab" * 32, "namespace": "blake3-zstd"},
    "hard_timeout": False,
}


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Return the path of everything inside a JSON value."""
    found: list[tuple[Any, ...]] = [path] if path else []
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in items:
        found += places(inner, (*path, key))
    return found


@st.composite
def spoilt(draw: st.DrawFn, base: dict[str, Any]) -> bytes:
    """Return `base` with one or two places replaced by anything."""
    body = copy.deepcopy(base)
    for _ in range(draw(st.integers(1, 2))):
        path = draw(st.sampled_from(places(body)))
        inner: Any = body
        for key in path[:-1]:
            inner = inner[key]
        inner[path[-1]] = draw(VALUES)
    return json.dumps(body).encode()


@examples(100)
@given(spoilt(REQUEST))
def test_a_request_becomes_a_task_or_a_refusal(body: bytes) -> None:
    try:
        asked = new_task(body, "user:a@b").request
    except InvalidInput:
        return
    for part in asked.slices:
        assert len(task_hash(part.properties)) == 64
    assert wire_out.Outbox("http://localhost:1", "v").request(asked)["name"] == asked.name
    assert isinstance(asked, model.TaskRequest)


async def polled(hello: BotHello) -> Command:
    """Return what a scheduler in memory answers to the first poll of a bot."""
    scheduler = Scheduler(MemoryTaskStore(), MemoryOutputs(), LocalDoorbell(), ManualClock())
    await scheduler.start()
    await scheduler.handshake(hello)
    return await scheduler.poll(hello, None)


@examples(150)
@given(spoilt(HELLO))
def test_a_bot_is_understood_or_quarantined_or_refused(body: bytes) -> None:
    try:
        hello = wire_bot.hello(wire_bot.json_object(body))
    except InvalidInput:
        return
    assert hello.bot_id
    command = asyncio.run(polled(hello))
    if isinstance(command, Restart):
        assert command.message.startswith("Periodic reboot: ")
    else:
        assert isinstance(command, Sleep)
        assert command.quarantined or not hello.problem
    assert isinstance(wire_bot.is_restart_due(hello), bool)
    assert all(values and all(isinstance(value, str) for value in values) for _, values in hello.dimensions)


@examples(100)
@given(spoilt(UPDATE))
def test_an_update_is_understood_or_refused(body: bytes) -> None:
    try:
        found = wire_bot.update(wire_bot.decode_update(body), ())
    except InvalidInput:
        return
    assert isinstance(found.output, bytes)


@examples(100)
@given(
    st.lists(
        st.tuples(
            st.sampled_from(
                ["state", "sort", "limit", "cursor", "start", "end", "tags", "dimensions", "is_dead", "offset"]
            ),
            st.text(max_size=6) | st.sampled_from(["1", "-1", "nan", "ALL", "KILLED", "1e999", "a:b", "TRUE"]),
        ),
        max_size=4,
    )
)
def test_a_query_is_understood_or_refused(query: list[tuple[str, str]]) -> None:
    for parse in (wire_query.task_query, wire_query.bot_query, wire_query.count_query, wire_query.stdout_range):
        try:
            found = parse(query)
        except InvalidInput:
            continue
        assert found is not None
