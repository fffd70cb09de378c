"""What clients get back."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import pytest
from msgspec.structs import replace

from swarming import bots, model, wire_out
from swarming.scheduler import TaskView
from swarming.states import State
from swarming.wire_out import whole_characters

TASK_ID, RUN_ID = "5cee488008810", "5cee488008811"
OUT = wire_out.Outbox("http://localhost:1", "0.1.0")
PROPERTIES = model.TaskProperties(
    dimensions=(("os", "Linux"), ("pool", "default")), command=("true",), execution_timeout_s=60, secret="a digest"
)
REQUEST = model.TaskRequest(
    name="n",
    priority=20,
    slices=(
        model.TaskSlice(properties=PROPERTIES, expiration_s=30),
        model.TaskSlice(properties=PROPERTIES, expiration_s=60),
    ),
    tags=("a:b",),
    authenticated="bot:whitelisted-ip",
)
TASK = model.Task(task_id=TASK_ID, request=REQUEST, created_at=1e9, modified_at=1e9, attached=True, deadline_at=2e9)
ATTEMPT = model.Attempt(
    run_id=RUN_ID,
    try_number=1,
    bot_id="bot1",
    bot_version="v",
    bot_dimensions=(("id", ("bot1",)),),
    state=State.COMPLETED,
    offered_at=1e9,
    started_at=1e9 + 1,
    completed_at=1e9 + 3,
    exit_code=0,
    duration_s=1.5,
    cost_usd=0.25,
    outputs=model.FilesRef("ab" * 32, "", "blake3-zstd"),
    stats={"bot_overhead": 0.5},
)


def execution(*attempts: model.Attempt, **changes: Any) -> model.Execution:
    base = model.Execution(
        execution_id=TASK_ID,
        task_name="n",
        properties=PROPERTIES,
        task_hash=None,
        queue="q",
        priority=20,
        rank=1,
        deadline_at=2e9,
        tolerance_s=60,
        created_at=1e9,
        modified_at=1e9,
        attempts=attempts,
    )
    return replace(base, **changes)


def view(task: model.Task, *attempts: model.Attempt, is_run: bool = False) -> TaskView:
    return TaskView(
        task=task, execution=execution(*attempts), attempt=attempts[-1] if attempts else None, is_run=is_run
    )


def test_a_pending_task_has_the_fields_of_every_result_and_none_of_a_run() -> None:
    found = OUT.result(view(TASK))
    assert found == {
        "name": "n",
        "task_id": TASK_ID,
        "created_ts": "2001-09-09T01:46:40",
        "modified_ts": "2001-09-09T01:46:40",
        "state": "PENDING",
        "failure": False,
        "internal_failure": False,
        "server_versions": ["0.1.0"],
        "current_task_slice": "0",
        "user": "",
        "tags": ["a:b"],
    }


def test_an_offer_is_still_pending() -> None:
    offer = replace(ATTEMPT, state=State.PENDING, started_at=None, exit_code=None, completed_at=None)
    assert OUT.result(view(TASK, offer)) == OUT.result(view(TASK))


def test_a_completed_task() -> None:
    done = replace(TASK, state=State.COMPLETED, completed_at=1e9 + 3)
    found = OUT.result(view(done, ATTEMPT))
    assert found["bot_dimensions"] == [{"key": "id", "value": ["bot1"]}]
    assert (found["exit_code"], found["duration"], found["try_number"]) == ("0", 1.5, "1")
    assert (found["run_id"], found["bot_id"], found["bot_version"]) == (RUN_ID, "bot1", "v")
    assert (found["started_ts"], found["completed_ts"]) == ("2001-09-09T01:46:41", "2001-09-09T01:46:43")
    assert found["costs_usd"] == [0.25]
    assert found["outputs_ref"] == {
        "isolated": "ab" * 32,
        "isolatedserver": "http://localhost:1",
        "namespace": "blake3-zstd",
    }
    assert "performance_stats" not in found
    assert "deduped_from" not in found


def test_performance_stats_are_there_when_asked_for() -> None:
    asked = dataclasses.replace(OUT, performance=lambda stats: {"bot_overhead": stats["bot_overhead"]})
    done = replace(TASK, state=State.COMPLETED)
    assert asked.result(view(done, ATTEMPT))["performance_stats"] == {"bot_overhead": 0.5}
    assert "performance_stats" not in asked.result(view(replace(done, deduped=True), ATTEMPT))


def test_a_deduplicated_task_shows_the_run_of_its_source() -> None:
    found = OUT.result(view(replace(TASK, state=State.COMPLETED, deduped=True, attached=False), ATTEMPT))
    assert (found["try_number"], found["run_id"], found["deduped_from"]) == ("0", RUN_ID, RUN_ID)
    assert found["cost_saved_usd"] == 0.25
    assert "costs_usd" not in found


def test_a_run_has_its_own_id_and_neither_user_nor_tags() -> None:
    found = OUT.result(view(replace(TASK, state=State.COMPLETED), ATTEMPT, is_run=True))
    assert (found["task_id"], found["run_id"], found["state"]) == (RUN_ID, RUN_ID, "COMPLETED")
    assert not found.keys() & {"user", "tags", "children_task_ids"}


def test_a_second_try_shows_both_costs() -> None:
    first = replace(ATTEMPT, state=State.BOT_DIED, exit_code=None, duration_s=None, cost_usd=0.5)
    second = replace(ATTEMPT, run_id=RUN_ID[:-1] + "2", try_number=2)
    found = OUT.result(view(replace(TASK, state=State.COMPLETED), first, second))
    assert (found["costs_usd"], found["try_number"], found["run_id"]) == ([0.5, 0.25], "2", RUN_ID[:-1] + "2")


def test_a_dead_bot_is_an_internal_failure() -> None:
    assert OUT.result(view(replace(TASK, state=State.BOT_DIED)))["internal_failure"] is True


@pytest.mark.parametrize("state", State)
def test_every_state_has_its_name(state: State) -> None:
    assert OUT.result(view(replace(TASK, state=state)))["state"] == state.name


def test_a_request_never_shows_its_secret() -> None:
    found = OUT.request(REQUEST, TASK)
    assert found["properties"]["secret_bytes"] == "PFJFREFDVEVEPg=="
    assert "hush" not in json.dumps(found)
    assert "aHVzaA" not in json.dumps(found)


def test_a_request_in_the_spelling_of_2020() -> None:
    found = OUT.request(REQUEST, TASK)
    assert (found["priority"], found["expiration_secs"], found["task_id"]) == ("20", "90", TASK_ID)
    assert [part["expiration_secs"] for part in found["task_slices"]] == ["30", "60"]
    asked = found["properties"]
    assert asked["idempotent"] is False
    assert asked["execution_timeout_secs"] == "60"
    assert asked["containment"] == {"containment_type": "NOT_SPECIFIED", "lower_priority": False}
    assert asked["inputs_ref"] == {"isolatedserver": "http://localhost:1", "namespace": "blake3-zstd"}
    assert asked["io_timeout_secs"] == "0"  # no limit, whether a client said so or nothing
    assert not asked.keys() & {"env", "caches", "outputs", "extra_args", "relative_cwd"}


def test_a_request_that_was_only_evaluated_has_no_id() -> None:
    found = OUT.request(REQUEST, now=1e9)
    assert found["created_ts"] == "2001-09-09T01:46:40"
    assert "task_id" not in found


def test_a_bot() -> None:
    bot = bots.BotInfo(
        bot_id="b", dimensions=(("os", ("Linux", "Ubuntu")),), state={"b": 1, "a": 2}, run_id=RUN_ID, task_name="n"
    )
    found = wire_out.bot_info(bot)
    assert found["dimensions"] == [{"key": "os", "value": ["Linux", "Ubuntu"]}]
    assert found["state"] == '{"a":2,"b":1}'
    assert (found["is_dead"], found["quarantined"], found["deleted"], found["task_id"]) == (False, False, False, RUN_ID)
    assert "maintenance_msg" not in found


def test_a_page_without_more_has_no_cursor() -> None:
    assert wire_out.page([], None, 1e9) == {"now": "2001-09-09T01:46:40"}
    assert wire_out.page([{"a": 1}], "c", 1e9)["cursor"] == "c"


@pytest.mark.parametrize("text", ["abc", "café", "a€", "a𝄞", "€"])
def test_no_character_is_cut_in_two(text: str) -> None:
    whole = text.encode()
    assert whole_characters(whole) == whole
    for length in range(1, len(whole) + 1):
        kept = whole_characters(whole[:length])
        assert whole.startswith(kept)
        assert kept, "a reader must get on"
        if length > 1 and text[0].isascii():
            assert text.startswith(kept.decode())


@pytest.mark.parametrize("output", [b"", b"\xff", b"ab\xff", b"\x80\x80\x80\x80\x80"])
def test_bytes_that_are_no_text_come_through(output: bytes) -> None:
    assert output.startswith(whole_characters(output))
    assert whole_characters(b"ab\x80") == b"ab\x80"
