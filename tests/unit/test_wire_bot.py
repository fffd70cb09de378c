"""What bots say and are told."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from isolate.errors import InvalidInput
from swarming import bots, model, wire_bot, wire_stats

# §4.3 of the protocol: a bot of 2020 compares exactly these.
MANIFEST_KEYS = {
    "bot_authenticated_as", "bot_id", "caches", "cas_input_root", "cipd_input", "command", "containment", "dimensions",
    "env", "env_prefixes", "extra_args", "grace_period", "hard_timeout", "host", "io_timeout", "isolated", "outputs",
    "realm", "relative_cwd", "resultdb", "secret_bytes", "service_accounts", "task_id",
}  # fmt: skip


def said(**changes: Any) -> dict[str, Any]:
    base: dict[str, Any] = {
        "dimensions": {"id": ["bot1"], "os": ["Linux", "Ubuntu"]},
        "state": {"running_time": 1.0, "sleep_streak": 0},
        "version": "v1",
    }
    return base | changes


def execution(**changes: Any) -> model.Execution:
    properties = model.TaskProperties(
        dimensions=(("os", "Linux"), ("os", "Ubuntu"), ("pool", "default")),
        command=("true",),
        execution_timeout_s=60,
        **changes,
    )
    return model.Execution(
        execution_id="5cee488008810",
        task_name="n",
        properties=properties,
        task_hash=None,
        queue="q",
        priority=1,
        rank=1,
        deadline_at=2.0,
        tolerance_s=60,
        created_at=1.0,
        modified_at=1.0,
    )


ATTEMPT = model.Attempt(run_id="5cee488008811", try_number=1, bot_id="bot1", session="s", offered_at=1.0)


def test_a_bot_without_a_pool_is_in_default() -> None:
    hello = wire_bot.hello(said(), session="s")
    assert hello.dimensions == (("id", ("bot1",)), ("os", ("Linux", "Ubuntu")), ("pool", ("default",)))
    assert (hello.bot_id, hello.session, hello.problem, hello.version) == ("bot1", "s", "", "v1")


def test_a_bot_with_a_pool_stays_in_it() -> None:
    hello = wire_bot.hello(said(dimensions={"id": ["b"], "pool": ["gpu"]}))
    assert dict(hello.dimensions)["pool"] == ("gpu",)


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"dimensions": {"id": ["b"], "os": "Linux"}}, "'os'"),
        ({"dimensions": {"id": ["b"], "os": []}}, "'os'"),
        ({"dimensions": {"id": ["b"], "os": ["a", "a"]}}, "'os'"),
        ({"dimensions": {"id": ["b"], "os": [1]}}, "'os'"),
        ({"dimensions": {"id": ["b"], "o s": ["x"]}}, "'o s'"),
        ({"state": {"running_time": 1}}, "sleep_streak"),
        ({"state": []}, "objects"),
        ({"version": 3}, "version"),
        ({"extra": 1}, "superfluous: extra"),
        ({"state": {"running_time": 1, "sleep_streak": 1, "quarantined": "disk full"}}, "disk full"),
        ({"dimensions": {"id": ["b"], "quarantined": True}}, "Bot self-quarantined"),
        ({"state": {"running_time": 1, "sleep_streak": 1, "lease_expiration_ts": "soon"}}, "not 'soon'"),
        ({"state": {"running_time": 1, "sleep_streak": 1, "lease_expiration_ts": True}}, "lease_expiration_ts"),
    ],
)
def test_a_bad_description_quarantines_instead_of_refusing(changes: dict[str, Any], problem: str) -> None:
    assert problem in wire_bot.hello(said(**changes)).problem


def test_a_missing_key_is_named() -> None:
    body = said()
    del body["version"]
    assert wire_bot.hello(body).problem == "Unexpected keys missing: version; did you make a typo?"


@pytest.mark.parametrize("dimensions", [{}, {"id": []}, {"id": ["a", "b"]}, {"id": "a"}, None, {"id": [""]}])
def test_without_one_id_there_is_nobody_to_answer(dimensions: Any) -> None:
    with pytest.raises(InvalidInput, match="id"):
        wire_bot.hello(said(dimensions=dimensions))


@pytest.mark.parametrize("bot_id", ["../x", "a/b", "a\\b", "<script>", "a|b", "a?b", "a#b", "a%b"])
def test_an_id_that_means_something_elsewhere_is_refused(bot_id: str) -> None:
    with pytest.raises(InvalidInput, match="Invalid bot id"):
        wire_bot.hello(said(dimensions={"id": [bot_id]}))


@given(
    st.recursive(
        st.none() | st.booleans() | st.text(max_size=5),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(max_size=5), inner),
        max_leaves=8,
    )
)
def test_no_description_crashes(value: Any) -> None:
    for key in ("dimensions", "state", "version"):
        try:
            assert wire_bot.hello(said(**{key: value})).bot_id
        except InvalidInput:
            assert key == "dimensions"


def test_only_a_stale_configuration_restarts() -> None:
    assert not wire_bot.is_restart_due(wire_bot.hello(said()))
    state = said()["state"]
    current = wire_bot.hello(said(state=state | {"bot_group_cfg_version": wire_bot.GROUP_VERSION}))
    stale = wire_bot.hello(said(state=state | {"bot_group_cfg_version": "hash:123"}))
    assert (wire_bot.is_restart_due(current), wire_bot.is_restart_due(stale)) == (False, True)


def test_only_four_events_are_the_bots_own() -> None:
    assert wire_bot.event({"event": "bot_error", "message": "m"}) == ("bot_error", "m")
    with pytest.raises(InvalidInput, match="Unsupported event type: bot_missing"):
        wire_bot.event({"event": "bot_missing"})


def update(**fields: Any) -> bots.TaskUpdate:
    body = {"id": "bot1", "task_id": "5cee488008811"} | fields
    return wire_bot.update(wire_bot.decode_update(json.dumps(body).encode()), ("http://localhost:1",))


def test_a_final_update() -> None:
    found = update(
        output=base64.b64encode(b"\xff\0hi").decode(),
        output_chunk_start=5,
        exit_code=-15,
        duration=1.5,
        hard_timeout=True,
        cost_usd=0.5,
        bot_overhead=0.25,
        isolated_stats={"download": {}},
        outputs_ref={"isolated": "ab" * 32, "isolatedserver": "http://localhost:1", "namespace": "blake3-zstd"},
    )
    assert (found.output, found.output_start, found.exit_code, found.duration_s) == (b"\xff\0hi", 5, -15, 1.5)
    assert found.hard_timeout
    assert found.outputs == model.FilesRef("ab" * 32, "", "blake3-zstd")
    assert found.stats == {"bot_overhead": 0.25, "isolated_stats": {"download": {}}}


def test_output_that_is_no_base64_is_kept_as_it_came() -> None:
    assert update(output="not base64!").output == b"not base64!"


def test_a_canceled_bot_may_leave_out_the_duration() -> None:
    found = update(canceled=True, exit_code=-1)
    assert (found.canceled, found.is_final) == (True, True)


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"exit_code": 0}, "had unexpected duration; expected iff a command completes"),
        ({"duration": 1.0}, "had unexpected duration"),
        ({"exit_code": 0, "duration": -1.0}, "negative"),
        ({"cost_usd": -1}, "negative"),
        ({"cost_usd": 1.5e308}, "cannot be more than 1000000000"),
        ({"exit_code": 0, "duration": 1.0, "isolated_stats": {}}, "bot_overhead"),
        ({"bot_overhead": 1.0}, "bot_overhead"),
        ({"typo": 1, "also": 2}, "Unexpected keys superfluous: also, typo; did you make a typo?"),
        ({"exit_code": "zero", "duration": 1}, "exit_code"),
    ],
)
def test_a_wrong_update_is_refused_with_the_reason(fields: dict[str, Any], reason: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        update(**fields)
    assert reason in str(caught.value)


def test_a_manifest_has_exactly_the_keys_of_2020() -> None:
    found = wire_bot.manifest(bots.Run(execution(), ATTEMPT), "http://localhost:1", "bot:whitelisted-ip")
    assert found.keys() == MANIFEST_KEYS
    assert found["containment"].keys() == {
        "lower_priority",
        "containment_type",
        "limit_processes",
        "limit_total_committed_memory",
    }
    assert (found["task_id"], found["command"], found["extra_args"], found["env"]) == (
        "5cee488008811",
        ["true"],
        None,
        {},
    )
    assert found["dimensions"] == {"os": ["Linux", "Ubuntu"], "pool": ["default"]}
    json.dumps(found)


def test_a_manifest_names_this_server_for_trees_without_an_address() -> None:
    inputs = model.FilesRef("ab" * 20, "", "default-gzip")
    caches = (model.NamedCache("git", "c/git"),)
    found = wire_bot.manifest(
        bots.Run(execution(inputs=inputs, caches=caches), ATTEMPT, b"k"), "http://localhost:1", "x"
    )
    assert found["isolated"] == {"input": "ab" * 20, "namespace": "default-gzip", "server": "http://localhost:1"}
    assert found["caches"] == [{"name": "git", "path": "c/git", "hint": "-1"}]
    assert found["secret_bytes"] == base64.b64encode(b"k").decode()


def test_outputs_without_inputs_go_to_a_namespace_the_bot_knows() -> None:
    ours = wire_bot.manifest(bots.Run(execution(), ATTEMPT), "http://localhost:1", "x")
    old = wire_bot.manifest(bots.Run(execution(), replace(ATTEMPT, session="")), "http://localhost:1", "x")
    assert (ours["isolated"]["namespace"], old["isolated"]["namespace"]) == ("blake3-zstd", "default-gzip")
    assert ours["isolated"]["input"] is None


def test_commands() -> None:
    def spelt(given: bots.Command) -> dict[str, Any]:
        return wire_bot.command(given, server_url="http://localhost:1", authenticated_as="x")

    assert spelt(bots.Sleep(2.5)) == {"cmd": "sleep", "duration": 2.5, "quarantined": False}
    assert spelt(bots.Terminate("a1")) == {"cmd": "terminate", "task_id": "a1"}
    assert spelt(bots.Restart("m")) == {"cmd": "restart", "message": "m"}
    assert spelt(bots.Run(execution(), ATTEMPT))["cmd"] == "run"


def test_details_are_kept_as_far_as_they_fit() -> None:
    def kept(**fields: Any) -> bots.TaskUpdate:
        said = {"id": "b", "task_id": "t", "exit_code": 0, "duration": 1.0, "bot_overhead": 0.5, **fields}
        return wire_bot.update(wire_bot.decode_update(json.dumps(said).encode()), ())

    def stats(size: int) -> dict[str, Any]:
        return {"download": {"duration": 2.0, "items_cold": "x" * size}}

    around = len(json.dumps(stats(0), separators=(",", ":")))
    fits = stats(wire_stats.MAX_BYTES - around)
    assert (kept(isolated_stats=fits).stats or {})["isolated_stats"] == fits
    too_large = stats(wire_stats.MAX_BYTES - around + 1)
    assert (kept(isolated_stats=too_large).stats or {})["isolated_stats"] == {"download": {"duration": 2.0}}
    odd = {"download": {"x": "x" * wire_stats.MAX_BYTES}}
    assert kept(isolated_stats=odd, cipd_stats=odd).stats == {"bot_overhead": 0.5}
    assert (kept(cipd_pins=odd).cipd_pins, kept(cipd_pins={"a": 1}).cipd_pins) == (None, {"a": 1})
