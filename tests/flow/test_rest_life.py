"""The life of tasks as clients see it: endings, kills, children, shared results, output and figures.

A client and a bot of 2020 that share no code with the server; what is expected is written down by hand.
"""

from __future__ import annotations

import base64
import zlib
from typing import Any

from tests.flow.raw_swarming import BOT, asked, bot, get, post, refusal, said
from tests.flow.servers import ServerProcess

UUID = "12345678-1234-4234-8234-123456789abd"
FINAL = ("state", "failure", "internal_failure", "exit_code", "duration")


def begun(server: ServerProcess, name: str, **properties: Any) -> tuple[str, str]:
    """Let the bot take a task that only it can have; returns the ids of task and run."""
    task_id = post(server, "tasks/new", asked(name, bot_id="bot1", **properties))["task_id"]
    command = bot(server, "poll", said("bot1"))
    assert command["manifest"]["task_id"] == task_id[:-1] + "1"
    return task_id, task_id[:-1] + "1"


def report(server: ServerProcess, run_id: str, **fields: Any) -> Any:
    return bot(server, "task_update", {"id": "bot1", "task_id": run_id, **fields})


def result(server: ServerProcess, task_id: str) -> dict[str, Any]:
    return dict(get(server, f"task/{task_id}/result?include_performance_stats=true"))


def printed(text: bytes, start: int) -> dict[str, Any]:
    return {"output": base64.b64encode(text).decode(), "output_chunk_start": start}


def packed(*deltas: int) -> str:
    """Return sizes in the form of 2020; each difference to the one before has one byte here."""
    return base64.b64encode(zlib.compress(bytes(deltas))).decode()


def test_every_ending_a_bot_can_report(rest_server: ServerProcess) -> None:
    endings: list[tuple[dict[str, Any], tuple[Any, ...]]] = [
        ({"exit_code": 0, "duration": 1.5}, ("COMPLETED", False, False, "0", 1.5)),
        ({"exit_code": 3, "duration": 0.0}, ("COMPLETED", True, False, "3", 0.0)),
        ({"exit_code": -15, "duration": 2.0, "hard_timeout": True}, ("TIMED_OUT", True, False, "-15", 2.0)),
        ({"exit_code": -9, "duration": 2.0, "io_timeout": True}, ("TIMED_OUT", True, False, "-9", 2.0)),
        ({"exit_code": -1, "canceled": True}, ("CANCELED", False, False, None, None)),
    ]
    for ending, expected in endings:
        task_id, run_id = begun(rest_server, "ends")
        report(rest_server, run_id, cost_usd=0.5)
        assert report(rest_server, run_id, cost_usd=0.25, **ending) == {"must_stop": False, "ok": True}
        found = result(rest_server, task_id)
        assert tuple(found.get(key) for key in FINAL) == expected
        assert ("abandoned_ts" in found) == (expected[0] == "CANCELED")
        assert found["costs_usd"] == [0.5]  # never less than it was
        assert found["completed_ts"] >= found["started_ts"] >= found["created_ts"]
        run = result(rest_server, run_id)
        assert (run["task_id"], run["run_id"], run["costs_usd"]) == (run_id, run_id, [0.5])
        assert tuple(run.get(key) for key in FINAL) == expected
        assert report(rest_server, run_id, **ending)["ok"] is True  # a bot that lost the answer asks again
        other = {"id": "bot1", "task_id": run_id, "exit_code": 77, "duration": 9.0}
        assert rest_server.call("POST", f"{BOT}task_update", other)[0] == 409  # for ever: nothing to try again
        assert tuple(result(rest_server, task_id).get(key) for key in FINAL) == expected
    task_id, run_id = begun(rest_server, "fails")
    assert bot(rest_server, "task_error", {"id": "bot1", "task_id": run_id, "message": "no disk"}) == {}
    found = result(rest_server, task_id)
    assert tuple(found.get(key) for key in FINAL) == ("BOT_DIED", False, True, None, None)
    assert found["abandoned_ts"] == found["completed_ts"]


def test_a_kill_has_two_phases(rest_server: ServerProcess) -> None:
    task_id, run_id = begun(rest_server, "killed")
    assert report(rest_server, run_id)["must_stop"] is False
    path, kill = f"task/{task_id}/cancel", {"kill_running": True}
    assert post(rest_server, path, {}) == {"ok": False, "was_running": True}
    assert result(rest_server, task_id)["state"] == "RUNNING"
    for _ in range(2):  # repeating it changes nothing
        assert post(rest_server, path, kill) == {"ok": True, "was_running": True}
    dying = result(rest_server, task_id)
    assert (dying["state"], dying["abandoned_ts"]) == ("RUNNING", dying["completed_ts"])
    assert report(rest_server, run_id)["must_stop"] is True
    report(rest_server, run_id, exit_code=-9, duration=3.0)
    found = result(rest_server, task_id)
    assert tuple(found[key] for key in FINAL) == ("KILLED", True, False, "-9", 3.0)
    assert found["abandoned_ts"] == dying["abandoned_ts"]
    assert post(rest_server, path, kill) == {"ok": False, "was_running": False}
    waiting = post(rest_server, "tasks/new", asked("waits", bot_id="bot1"))["task_id"]
    assert post(rest_server, f"task/{waiting[:-1]}1/cancel") == {"ok": True, "was_running": False}  # by its run id
    found = result(rest_server, waiting)
    assert (found["state"], found["abandoned_ts"]) == ("CANCELED", found["completed_ts"])


def test_no_resource_is_said_at_once_and_the_next_slice_taken(rest_server: ServerProcess) -> None:
    def part(bot_id: str) -> dict[str, Any]:
        return {**asked("n", bot_id=bot_id)["task_slices"][0], "wait_for_capacity": False}

    made = post(rest_server, "tasks/new", asked("n") | {"task_slices": [part("nobody")]})["task_result"]
    assert made["state"] == "NO_RESOURCE"
    assert made["created_ts"] == made["abandoned_ts"] == made["completed_ts"]
    made = post(rest_server, "tasks/new", asked("n") | {"task_slices": [part("nobody"), part("bot1")]})
    assert (made["task_result"]["state"], made["task_result"]["current_task_slice"]) == ("PENDING", "1")
    assert {"id:nobody", "id:bot1"} < set(made["request"]["tags"])
    post(rest_server, f"task/{made['task_id']}/cancel")


def test_children_end_with_their_parent(rest_server: ServerProcess) -> None:
    task_id, run_id = begun(rest_server, "parent")
    report(rest_server, run_id)
    child = asked("child", bot_id="nobody") | {"parent_task_id": run_id, "user": "somebody"}
    made = post(rest_server, "tasks/new", child)
    assert (made["request"]["parent_task_id"], made["request"]["user"]) == (run_id, "joe")  # of the parent
    for one in (task_id, run_id):
        assert result(rest_server, one)["children_task_ids"] == [made["task_id"]]
    assert "not the id of a run" in refusal(rest_server, "POST", "tasks/new", child | {"parent_task_id": task_id})
    report(rest_server, run_id, exit_code=0, duration=1.0)
    assert result(rest_server, made["task_id"])["state"] == "CANCELED"
    late = post(rest_server, "tasks/new", child)["task_id"]
    assert result(rest_server, late)["state"] == "CANCELED"


def test_a_result_that_is_used_again(rest_server: ServerProcess) -> None:
    task_id, run_id = begun(rest_server, "source", idempotent=True)
    outputs = {"isolated": "a" * 40, "isolatedserver": "https://blobs.example.com", "namespace": "default-gzip"}
    stats = {"download": {"duration": 0.5, "initial_number_items": 3}, "upload": {"items_cold": packed(1, 2, 125)}}
    ending = {"exit_code": 0, "duration": 1.5, "bot_overhead": 0.5, "isolated_stats": stats, "outputs_ref": outputs}
    report(rest_server, run_id, cost_usd=0.75, **printed(b"once\n", 0), **ending)
    source = result(rest_server, task_id)
    assert source["performance_stats"] == {
        "bot_overhead": 0.5,
        "isolated_download": {"duration": 0.5, "initial_number_items": "3"},
        "isolated_upload": {
            "items_cold": packed(1, 2, 125),
            "num_items_cold": "3",
            "total_bytes_items_cold": "132",  # 1, 3 and 128
        },
    }
    again = asked("again", "its:own", bot_id="bot1", idempotent=True) | {"user": "ann", "request_uuid": UUID}
    made = post(rest_server, "tasks/new", again)
    found = result(rest_server, made["task_id"])
    assert found == made["task_result"]  # without statistics, though they were asked for
    assert (found["state"], found["try_number"], found["deduped_from"]) == ("COMPLETED", "0", run_id)
    assert (found["cost_saved_usd"], "costs_usd" in found) == (0.75, False)
    assert (found["user"], found["name"], "its:own" in found["tags"]) == ("ann", "again", True)
    its_own = {"task_id", "name", "user", "tags", "created_ts", "modified_ts", "try_number"}
    shared = source.keys() - its_own - {"costs_usd", "performance_stats"}
    assert {key: found[key] for key in shared} == {key: source[key] for key in shared}
    assert get(rest_server, f"task/{made['task_id']}/stdout")["output"] == "once\n"
    assert post(rest_server, "tasks/new", again | {"name": "a retry"}) == made  # the same request_uuid
    listed = get(rest_server, "tasks/list?state=DEDUPED&tags=its:own")["items"]
    assert [one["task_id"] for one in listed] == [made["task_id"]]


def test_output_is_addressed_by_its_bytes(rest_server: ServerProcess) -> None:
    task_id, run_id = begun(rest_server, "prints")
    path = f"task/{task_id}/stdout"
    assert "output" not in get(rest_server, path)
    pieces = ((b"abc", 0, "abc", "3"), (b"\xff!", 5, "abc\0\0\ufffd!", "7"), (b"de", 3, "abcde\ufffd!", "7"))
    for text, start, expected, next_offset in pieces:
        report(rest_server, run_id, **printed(text, start))
        assert get(rest_server, path) == {"output": expected, "state": "RUNNING", "next_offset": next_offset}
    report(rest_server, run_id, exit_code=0, duration=1.0, **printed(b"B", 1))  # what overlaps replaces
    assert get(rest_server, f"{path}?offset=1&length=3") == {"output": "Bcd", "state": "COMPLETED", "next_offset": "4"}
    assert get(rest_server, f"{path}?length=0")["output"] == "aBcde\ufffd!"
    for wrong in ("offset=-1", "length=-1", "offset=x"):
        assert "expected" in refusal(rest_server, "GET", f"{path}?{wrong}")


def test_the_more_urgent_goes_first_and_then_the_older(rest_server: ServerProcess) -> None:
    made = []
    for priority in (200, 50, 50, 255, 1):
        wish = asked(f"p{priority}", bot_id="bot1") | {"priority": priority}
        made.append(post(rest_server, "tasks/new", wish)["task_id"])
    ran = []
    for _ in made:
        run_id = bot(rest_server, "poll", said("bot1"))["manifest"]["task_id"]
        report(rest_server, run_id, exit_code=0, duration=0.0)
        ran.append(made.index(run_id[:-1] + "0"))
    assert ran == [4, 1, 2, 0, 3]
