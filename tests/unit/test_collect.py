"""Waiting for tasks and showing them, against a scripted server."""

from __future__ import annotations

import asyncio
import errno
import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from isolate.errors import InvalidInput, IsolateError, NotFound, OutputLost, Unavailable
from swarming import actions, report
from swarming.client import OutputsRef, ShardResult, SwarmingClient, Triggered
from swarming.collect import FOREVER_S, NOW_S, Shard, Wanted, Watch, collect, exit_status
from swarming.patience import LONGEST_S
from swarming.summary import Summary
from swarming.trigger import ShardRequest
from tests.clock import ManualClock

BASE = {"created_ts": "2020-01-02T03:04:05", "name": "unit", "failure": False}


class ScriptedClient(SwarmingClient):
    """Answers from a table: the results of tasks, and after how many looks each is final."""

    def __init__(self, results: Mapping[str, Mapping[str, Any]], looks: Mapping[str, int] | None = None) -> None:
        self.results = results
        self.looks = dict(looks or {})
        self.calls: list[str] = []

    async def get(self, method: str, query: Any = None) -> Any:
        self.calls.append(method)
        if method == "tasks/get_states":
            for task_id in query["task_id"]:
                if task_id not in self.results:
                    raise NotFound(f"Task {task_id} not found")
            return {"states": [self._state(task_id) for task_id in query["task_id"]]}
        if method == "tasks/list":
            return {"items": [{"task_id": key, "name": value["name"]} for key, value in self.results.items()]}
        _, task_id, what = method.split("/")
        if task_id not in self.results:
            raise NotFound(f"Task {task_id} not found")
        if what == "stdout":
            return {"output": f"out of {task_id}\n", "state": self.results[task_id]["state"]}
        return self.results[task_id]

    def _state(self, task_id: str) -> str:
        left = self.looks.get(task_id, 0)
        self.looks[task_id] = left - 1
        return "RUNNING" if left > 0 else str(self.results[task_id]["state"])


def result(task_id: str, **fields: Any) -> dict[str, Any]:
    return {**BASE, "task_id": task_id, "state": "COMPLETED", "exit_code": "0", "bot_id": "b", **fields}


async def run(client: SwarmingClient, ids: list[str], wanted: Wanted, clock: ManualClock) -> list[Shard]:
    """Collect, letting time pass whenever nothing else can happen."""
    shown: list[Shard] = []
    watch = Watch(lambda _states: None, shown.append, lambda _text: None, lambda _text: None)
    task = asyncio.ensure_future(collect(client, ids, wanted, clock, watch))
    for _ in range(1000):
        if task.done():
            break
        await asyncio.sleep(0)
        clock.advance(0.1)
    shards = await task
    assert sorted(shard.index for shard in shown) == [shard.index for shard in shards]
    assert all(shard.stdout is None for shard in shards), "what was shown is not held any longer"
    return sorted(shown, key=lambda shard: shard.index)


async def test_each_task_is_shown_once_in_the_end_sorted() -> None:
    client = ScriptedClient({"a10": result("a10"), "b10": result("b10", exit_code="3")}, {"a10": 4})
    shards = await run(client, ["a10", "b10"], Wanted(), ManualClock())
    assert [(shard.result.task_id, shard.result.exit_code, shard.stdout) for shard in shards] == [
        ("a10", 0, "out of a10\n"),
        ("b10", 3, "out of b10\n"),
    ]
    assert exit_status(shards, 2) == 3
    assert exit_status(shards, 3) == 1  # one is missing


@pytest.mark.parametrize("state", ["TIMED_OUT", "KILLED", "CANCELED", "EXPIRED", "BOT_DIED", "NO_RESOURCE", "NEW"])
def test_only_a_task_that_ended_by_itself_can_be_a_success(state: str) -> None:
    assert exit_status([shard(state=state), shard()], 2) == 1
    assert exit_status([shard(state=state, exit_code="-15"), shard()], 2) == -15


async def test_a_lost_text_is_no_success_and_the_rest_is_there() -> None:
    class Lossy(ScriptedClient):
        async def get(self, method: str, query: Any = None) -> Any:
            if method.endswith("a10/stdout"):
                raise OutputLost("damaged")
            return await super().get(method, query)

    fetched: list[int] = []

    async def fetch(index: int, _: OutputsRef) -> None:
        fetched.append(index)

    ref = {"isolated": "ab", "isolatedserver": "http://127.0.0.1:1", "namespace": "blake3-zstd"}
    client = Lossy({"a10": result("a10", outputs_ref=ref), "b10": result("b10")})
    shards = await run(client, ["a10", "b10"], Wanted(outputs=fetch), ManualClock())
    assert [(one.stdout, one.lost) for one in shards] == [(None, "damaged"), ("out of b10\n", None)]
    assert (fetched, exit_status(shards, 2)) == ([0], 1)
    assert exit_status([replace(shards[0], result=shard(exit_code="7").result), shards[1]], 2) == 7


async def test_waiting_costs_one_request_however_many_tasks() -> None:
    results = {f"{index:x}10": result(f"{index:x}10") for index in range(100)}
    client = ScriptedClient(results)
    shards = await run(client, list(results), Wanted(stdout=False), ManualClock())
    assert len(shards) == 100
    assert client.calls.count("tasks/get_states") == 1
    assert len(client.calls) == 101


async def test_the_time_limit_leaves_out_what_has_not_ended() -> None:
    client = ScriptedClient({"a10": result("a10"), "b10": result("b10")}, {"b10": 10**6})
    shards = await run(client, ["a10", "b10"], Wanted(timeout_s=7.0), ManualClock())
    assert [shard.index for shard in shards] == [0]
    assert exit_status(shards, 2) == 1


@pytest.mark.parametrize("timeout_s", [FOREVER_S, NOW_S])
@pytest.mark.parametrize("known", [["a10", "b10", "c10"], []])
async def test_tasks_the_server_does_not_know_keep_back_no_others(known: list[str], timeout_s: float) -> None:
    client, told = ScriptedClient({one: result(one) for one in known}, {"b10": 3}), list[str]()
    ids = ["a10", "e10", "b10", "f10", "c10"]
    watch = Watch(lambda _states: None, lambda _shard: None, lambda _text: None, told.append)
    clock = ManualClock()
    task = asyncio.ensure_future(collect(client, ids, Wanted(timeout_s=timeout_s, stdout=False), clock, watch))
    while not task.done():
        await asyncio.sleep(0)
        clock.advance(0.1)
    if known:
        assert [shard.index for shard in await task] == [0, 2, 4]
        assert sorted(told) == ["Task e10 not found", "Task f10 not found"]
    else:
        with pytest.raises(NotFound, match=r"Task .10 not found"):
            await task
        assert told == []


class Hanging(ScriptedClient):
    """Answers no `method` any more from the second call on."""

    def __init__(self, results: Mapping[str, Mapping[str, Any]], method: str, looks: Mapping[str, int]) -> None:
        super().__init__(results, looks)
        self.method = method

    async def get(self, method: str, query: Any = None) -> Any:
        if method == self.method and method in self.calls:
            await asyncio.Event().wait()
        return await super().get(method, query)


@pytest.mark.parametrize("all_in_time", [True, False])
async def test_the_time_limit_is_kept_while_the_server_is_away(all_in_time: bool) -> None:
    client, clock = Hanging({"a10": result("a10")}, "tasks/get_states", {"a10": 1}), ManualClock()
    assert await run(client, ["a10"], Wanted(timeout_s=7.0, all_in_time=all_in_time), clock) == []
    assert clock.monotonic() < 9.0  # the clean-up costs turns of the loop


async def test_the_time_limit_is_kept_while_outputs_hang() -> None:
    ref = {"isolated": "ab" * 32, "namespace": "blake3-zstd", "isolatedserver": "http://localhost:1"}
    client, clock = ScriptedClient({"a10": result("a10"), "b10": result("b10", outputs_ref=ref)}), ManualClock()

    async def hang(_index: int, _outputs: OutputsRef) -> None:
        await asyncio.Event().wait()

    shards = await run(client, ["a10", "b10"], Wanted(timeout_s=7.0, outputs=hang), clock)
    assert [shard.index for shard in shards] == [0]
    assert clock.monotonic() < 9.0  # the clean-up costs turns of the loop


async def test_a_limit_for_tasks_to_end_is_none_for_their_outputs() -> None:
    ref = {"isolated": "ab" * 32, "namespace": "blake3-zstd", "isolatedserver": "http://localhost:1"}
    client, clock = ScriptedClient({"a10": result("a10", outputs_ref=ref)}), ManualClock()

    async def slow(_index: int, _outputs: OutputsRef) -> None:
        await clock.sleep(20.0)

    wanted = Wanted(timeout_s=7.0, all_in_time=False, outputs=slow)
    assert len(await run(client, ["a10"], wanted, clock)) == 1


@pytest.mark.parametrize("same", [True, False])
async def test_a_dead_server_of_outputs_is_given_up_whatever_the_scheduler_answers(same: bool) -> None:
    url = "http://localhost:1"
    ref = {"isolated": "ab" * 32, "namespace": "blake3-zstd", "isolatedserver": f"{url}/"}
    client = ScriptedClient({"a10": result("a10", outputs_ref=ref), "b10": result("b10")}, {"b10": 10**6})
    clock, said, shown = ManualClock(), list[str](), list[Shard]()

    async def dead(_index: int, _outputs: OutputsRef) -> None:
        raise Unavailable(f"Cannot reach {url}")

    watch = Watch(lambda _states: None, shown.append, said.append, said.append)
    wanted = Wanted(timeout_s=2 * LONGEST_S, outputs=dead, server=url if same else "http://localhost:2")
    task = asyncio.ensure_future(collect(client, ["a10", "b10"], wanted, clock, watch))
    while not task.done():
        await asyncio.sleep(0)
        clock.advance(0.5)
    await task
    if same:  # it does answer, only not this
        assert "The server answers again" in said
    else:
        assert [shard.problem for shard in shown] == [f"Cannot reach {url}"]
        assert said == [f"Cannot reach {url}; trying again for 6 minutes"]


async def test_now_reports_also_what_is_running() -> None:
    client = ScriptedClient({"a10": result("a10", state="RUNNING", exit_code=None)})
    shards = await run(client, ["a10"], Wanted(timeout_s=NOW_S), ManualClock())
    assert [shard.result.state for shard in shards] == ["RUNNING"]
    assert exit_status(shards, 1) == 1


async def test_outputs_that_cannot_be_brought_do_not_lose_the_result() -> None:
    ref = {"isolated": "ab" * 32, "namespace": "blake3-zstd", "isolatedserver": "http://localhost:1"}
    client = ScriptedClient({"a10": result("a10", outputs_ref=ref)})

    async def refuse(index: int, outputs: OutputsRef) -> None:
        assert (index, outputs.isolated) == (0, "ab" * 32)
        raise NotFound("Blob gone")

    (shard,) = await run(client, ["a10"], Wanted(outputs=refuse), ManualClock())
    assert shard.problem == "Blob gone"
    assert shard.result.exit_code == 0
    assert exit_status([shard], 1) == 1


async def test_a_download_that_is_interrupted_is_begun_again() -> None:
    ref = {"isolated": "ab" * 32, "namespace": "blake3-zstd", "isolatedserver": "http://localhost:1"}
    client = ScriptedClient({"a10": result("a10", outputs_ref=ref)})
    tries = iter([Unavailable("Reply of http://localhost:1 was cut off"), Unavailable("Cannot reach it"), None])

    async def flaky(_index: int, _outputs: OutputsRef) -> None:
        if problem := next(tries):
            raise problem

    (shard,) = await run(client, ["a10"], Wanted(outputs=flaky), ManualClock())
    assert shard.problem is None
    assert list(tries) == []


async def test_names_find_the_newest_task_or_all_its_shards() -> None:
    names = {"e10": "other", "d10": "unit:1:2", "c10": "unit:0:2", "b10": "unit:1:2", "a10": "solo", "910": "solo"}
    client = ScriptedClient({key: result(key, name=name) for key, name in names.items()})
    assert await actions.find(client, ["unit"]) == ["c10", "d10"]
    assert await actions.find(client, ["solo", "e10"]) == ["a10", "e10"]
    with pytest.raises(NotFound, match="No task is called 'unknown'"):
        await actions.find(client, ["unknown"])


def shard(stdout: str | None = "one\ntwo\n", **fields: Any) -> Shard:
    return Shard(0, ShardResult(result("a10", **fields)), stdout)


def test_plain_text_is_that_of_2020() -> None:
    assert report.plain(shard()) == "b: a10 0\n  one\n  two\n"
    assert report.plain(shard(" \n")) == "b: a10 0"
    assert report.plain(shard(None, bot_id=None, exit_code=None)) == "N/A: a10 None"


def test_boxes_are_those_of_2020() -> None:
    done = shard(started_ts="2020-01-02T03:04:06", duration=2.0)
    border = f"+-{'-' * 47}-+"
    assert report.decorated(done, "http://x").splitlines() == [
        border,
        "| Shard 0  http://x/user/task/a10                 |",
        border,
        "one",
        "two",
        border,
        "| End of shard 0                                  |",
        "|  Pending: 1.0s  Duration: 2.0s  Bot: b  Exit: 0 |",
        border,
    ]


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({"state": "CANCELED", "abandoned_ts": "2020-01-02T03:04:08"}, " Pending: 3.0s  CANCELED"),
        ({"state": "EXPIRED", "abandoned_ts": "2020-01-02T03:04:08"}, " Pending: 3.0s  EXPIRED (lack of capacity)"),
        ({"state": "TIMED_OUT", "exit_code": "-15"}, " Pending: N/A  Duration: N/A  Bot: b  Exit: -15  TIMED_OUT"),
        ({"started_ts": "2020-01-02T03:04:01", "duration": 1}, " Pending: 0.0s  Duration: 1.0s"),  # joined
        ({"deduped_from": "x", "started_ts": "2020-01-01T00:00:00", "duration": 1}, " Pending: N/A  Duration: 1.0s"),
    ],
)
def test_the_facts_of_a_shard(fields: dict[str, Any], text: str) -> None:
    assert text in report.decorated(shard(None, **fields), "u")


def test_an_ending_that_was_not_the_tasks_own_is_said() -> None:
    assert report.ending(shard(exit_code="3")) is None
    assert report.ending(shard(state="RUNNING")) == "Shard 0 RUNNING: it has not ended yet"
    assert str(report.ending(shard(state="PENDING"))).startswith("Shard 0 PENDING: no bot has taken it yet")
    assert str(report.ending(shard(state="NO_RESOURCE"))).startswith("Shard 0 NO_RESOURCE: no bot has these dimensions")


def test_the_summary_keeps_what_the_server_said(tmp_path: Path) -> None:
    ref = {"isolated": "ab", "namespace": "n", "isolatedserver": "http://s"}
    paths = tmp_path / "one.json", tmp_path / "made" / "two.json"
    with Summary(paths, 2, with_output=True) as summary:
        summary.add(shard("text", outputs_ref=ref))
        summary.write()
    written = paths[0].read_text()
    assert written == paths[1].read_text()
    found = json.loads(written)
    assert written == json.dumps(found, indent=2, sort_keys=True) + "\n"
    assert found["shards"][1] is None
    assert found["shards"][0]["output"] == "text"
    assert found["shards"][0]["exit_code"] == "0"
    assert found["shards"][0]["outputs_ref"]["view_url"] == "http://s/browse?namespace=n&hash=ab"
    assert "output" not in report.summary_entry(shard("text"), with_output=False)


def test_shards_are_in_order_in_the_summary_however_they_end(tmp_path: Path) -> None:
    with Summary([tmp_path / "s.json"], 3, with_output=True) as summary:
        for index in (2, 0, 1):
            summary.add(replace(shard(f"{index}\n" * 3), index=index))
        summary.write()
    outputs = [entry["output"] for entry in json.loads((tmp_path / "s.json").read_text())["shards"]]
    assert outputs == ["0\n" * 3, "1\n" * 3, "2\n" * 3]


def test_a_summary_that_cannot_be_written_says_where(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with (
        Summary([tmp_path / "file" / "s.json"], 1, with_output=True) as summary,
        pytest.raises(IsolateError, match=r"Cannot write .*s\.json") as failed,
    ):
        summary.write()
    assert not isinstance(failed.value, InvalidInput), "what was asked for was right"


def test_the_task_file_goes_round(tmp_path: Path) -> None:
    piece = {"expiration_secs": 100, "properties": {"execution_timeout_secs": 50}}
    tasks = [
        actions.TriggeredTask(ShardRequest(index, f"u:{index}:2", {"task_slices": [piece, piece]}), f"{index}a10")
        for index in range(2)
    ]
    actions.dump(tasks, "u", "http://s", tmp_path / "t.json")
    assert actions.load(tmp_path / "t.json") == actions.TaskFile(("0a10", "1a10"), 100 + 50 + 100 + 10.0)
    assert json.loads((tmp_path / "t.json").read_text())["tasks"]["u:1:2"]["view_url"] == "http://s/user/task/1a10"


def test_what_was_triggered_is_said_on_stderr_when_stdout_is_full() -> None:
    err: list[str] = []

    def full(_text: str) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(OSError, match="No space left"):
        actions.tell(
            [actions.TriggeredTask(ShardRequest(0, "u", {}), "0a10")],
            "u",
            "u",
            None,
            actions.Screen(full, err.append, full),
        )
    assert "swarming.py collect -S u 0a10" in err[0]


class Accepting(SwarmingClient):
    """Accepts so many tasks, then fails with `problem`, or hangs until it may `answer`."""

    def __init__(self, accepted: int, problem: Exception | None) -> None:
        self.left, self.problem = accepted, problem
        self.stopped, self.answer = asyncio.Event(), asyncio.Event()

    async def new_task(self, body: Mapping[str, Any]) -> Triggered:
        if not self.left:
            self.stopped.set()
            if self.problem:
                raise self.problem
            await self.answer.wait()
        self.left -= 1
        return Triggered(f"{self.left}a10", body["priority"], "PENDING")


@pytest.mark.parametrize("problem", [IsolateError("Not in this pool"), None])
@pytest.mark.parametrize(("accepted", "said"), [(2, ["Only 2 shard(s) out of 3 were triggered"]), (0, [])])
async def test_what_was_triggered_is_kept_when_the_rest_is_not(
    accepted: int, said: list[str], problem: Exception | None
) -> None:
    client, err, done = Accepting(accepted, problem), list[str](), list[actions.TriggeredTask]()
    shards = [ShardRequest(index, f"u:{index}:3", {"priority": 1}) for index in range(3)]
    screen = actions.Screen(pytest.fail, err.append, pytest.fail)
    clock = ManualClock()
    task = asyncio.ensure_future(actions.trigger(client, shards, screen, done, clock))
    await client.stopped.wait()
    task.cancel()
    for _ in range(5):
        await asyncio.sleep(0)
        clock.advance(1.0)
    with pytest.raises((IsolateError, asyncio.CancelledError)):
        await task
    assert (err, len(done)) == (said, accepted)


async def test_a_task_that_is_being_triggered_when_the_user_stops_is_known() -> None:
    client, err, done = Accepting(0, None), list[str](), list[actions.TriggeredTask]()
    shards = [ShardRequest(index, f"u:{index}:3", {"priority": 1}) for index in range(3)]
    screen = actions.Screen(pytest.fail, err.append, pytest.fail)
    task = asyncio.ensure_future(actions.trigger(client, shards, screen, done, ManualClock()))
    await client.stopped.wait()
    task.cancel()
    await asyncio.sleep(0)
    client.answer.set()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert err == ["Only 1 shard(s) out of 3 were triggered"]
    assert [one.request.index for one in done] == [0]


@pytest.mark.parametrize(("made", "said"), [(200, []), (100, ["Priority was reset to 100"])])
async def test_a_priority_that_the_server_changes_is_said(made: int, said: list[str]) -> None:
    class Raising(SwarmingClient):
        def __init__(self) -> None:
            pass

        async def new_task(self, body: Mapping[str, Any]) -> Triggered:
            return Triggered("a10", made, "PENDING")

    err: list[str] = []
    screen = actions.Screen(pytest.fail, err.append, pytest.fail)
    await actions.trigger(Raising(), [ShardRequest(0, "u", {"priority": 200})], screen, [], ManualClock())
    assert err == said


def test_the_ids_are_printed_also_when_the_file_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    task = actions.TriggeredTask(ShardRequest(0, "u", {"task_slices": [{"properties": {}}]}), "1a10")
    out: list[str] = []
    screen = actions.Screen(out.append, pytest.fail, pytest.fail)
    with pytest.raises(IsolateError, match="Cannot write"):
        actions.tell([task], "u", "http://s", tmp_path / "file" / "t.json", screen)
    assert "  swarming.py collect -S http://s 1a10\n" in out[0]
    actions.tell([task], "u", "http://s", tmp_path / "my tasks.json", screen)
    assert f"  swarming.py collect -S http://s --json '{tmp_path}/my tasks.json'\n" in out[1]


def test_whether_a_file_can_be_written_is_known_before(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("kept")
    (tmp_path / "link").symlink_to("file")
    for good in ("file", "link", "made/new.json", "/dev/null"):
        actions.check_writable(tmp_path / good)
    assert (tmp_path / "file").read_text() == "kept"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "link", "made"]
    for bad in ("file/x", "file/x/y", "made", "x" * 300):
        with pytest.raises(IsolateError, match="Cannot write"):
            actions.check_writable(tmp_path / bad)


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"tasks": {"a": {}}}', '{"tasks": 3}'])
def test_a_file_that_is_none_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "t.json").write_text(text)
    with pytest.raises(InvalidInput, match="no file that `trigger --dump-json` wrote"):
        actions.load(tmp_path / "t.json")


def test_forever_is_the_default() -> None:
    assert Wanted().timeout_s == FOREVER_S
