"""swarming.show: what is on the screen while tasks are collected."""

from __future__ import annotations

import asyncio
import json
import re
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from isolate.clock import SystemClock
from isolate.http import HttpClient
from swarming.actions import Screen
from swarming.client import Output, SwarmingClient
from swarming.collect import Wanted
from swarming.show import STATUS_EVERY_S, Show, collect_and_show
from tests.clock import ManualClock
from tests.loopback import serving

AGES_S = 4 * STATUS_EVERY_S


class Slow(SwarmingClient):
    """Tasks a10 and b10; the first ends at once, the other when `ends_at` has come."""

    def __init__(self, clock: ManualClock, ends_at: float, *, hangs: bool) -> None:
        self._clock, self._ends_at, self.hangs = clock, ends_at, hangs

    def state(self, task_id: str) -> str:
        return "COMPLETED" if task_id == "a10" or self._clock.monotonic() >= self._ends_at else "RUNNING"

    async def get(self, method: str, query: Any = None) -> Any:
        if method == "tasks/get_states":
            return {"states": [self.state(task_id) for task_id in query["task_id"]]}
        task_id = method.split("/")[1]
        return {
            "task_id": task_id,
            "state": self.state(task_id),
            "created_ts": "2020-01-02T03:04:05",
            "bot_id": "b",
            "exit_code": "0",
        }

    async def output(self, task_id: str, offset: int) -> Output:
        if self.hangs:
            await asyncio.Event().wait()
        return Output("" if offset else "text", 4, self.state(task_id))


async def shown(
    ids: list[str], ends_at: float, how: Show, wanted: Wanted, *, hangs: bool = False
) -> tuple[int, str, list[str]]:
    clock, out, err = ManualClock(), list[str](), list[str]()
    screen = Screen(lambda text: out.append(f"{text}\n"), err.append, out.append)
    client = Slow(clock, ends_at, hangs=hangs)
    task = asyncio.ensure_future(collect_and_show(client, ids, wanted, how, clock, screen))
    while not task.done():
        await asyncio.sleep(0)
        clock.advance(0.5)
    return await task, "".join(out), err


async def test_who_is_awaited_is_said_every_now_and_then() -> None:
    how = Show(url="u", status_updates=True)
    status, out, err = await shown(["a10", "b10"], 2.5 * STATUS_EVERY_S, how, Wanted())
    assert (status, out) == (0, "b: a10 0\n  text\n\nb: b10 0\n  text\n\n")
    assert len(err) == 2
    for line in err:
        assert re.fullmatch(r"\d\d:\d\d:\d\d\.\d{6} Waiting for results from the following shards: 1", line)


async def test_who_is_missing_is_said_in_the_end() -> None:
    status, out, err = await shown(["a10", "b10"], AGES_S, Show(url="u", decorate=True), Wanted(timeout_s=5.0))
    assert status == 1
    assert out.count("| End of shard") == 1
    assert err == ["Results from some shards are missing: 1"]
    _, _, err = await shown(["a10", "b10"], AGES_S, Show(url="u", again="collect it"), Wanted(timeout_s=5.0))
    assert err == ["Results from some shards are missing: 1", "To collect results, use:\n  collect it"]


async def test_one_task_is_printed_while_it_runs() -> None:
    status, out, err = await shown(["b10"], 3.0, Show(url="u", live=True), Wanted(stdout=False))
    assert (status, out, err) == (0, "  text\nb: b10 0\n", [])


async def test_a_task_that_outlasts_our_patience_was_printed_nevertheless() -> None:
    status, out, err = await shown(["b10"], AGES_S, Show(url="u", live=True), Wanted(stdout=False, timeout_s=5.0))
    assert (status, out, err) == (1, "  text\n", ["Results from some shards are missing: 0"])


async def test_a_task_whose_output_does_not_come_in_time_is_missing() -> None:
    wanted = Wanted(stdout=False, timeout_s=5.0)
    status, out, err = await shown(["b10"], 0.0, Show(url="u", live=True), wanted, hangs=True)
    assert (status, out, err) == (1, "", ["Results from some shards are missing: 0"])


ODD: dict[str, tuple[int, str]] = {
    "lost": (410, '{"error": {"code": "output_lost", "message": "What it printed was damaged"}}'),
    "bad": (400, '{"error": {"message": "no such key"}}'),
    "forbidden": (403, "no"),
    "html": (200, "<html>"),
    "null": (200, "null"),
    "list": (200, "[1]"),
    "empty": (200, "{}"),
}


async def shown_from_odd_server(ids: list[str], how: Show) -> tuple[int, str, list[str]]:
    """Collect from a server whose tasks `<what is odd>.<call>` get odd answers to one call; a10 is as it should be."""

    async def answer(request: web.Request) -> web.Response:
        if "task_id" in request.match_info:
            task_id, call = request.match_info["task_id"], request.match_info["call"]
            what, _, odd_call = task_id.partition(".")
            if call == odd_call:
                status, text = ODD[what]
                return web.Response(status=status, text=text)
            fields = {"state": "COMPLETED", "created_ts": "2020-01-02T03:04:05", "bot_id": "b", "exit_code": "0"}
            text = "" if int(request.query.get("offset", 0)) else f"of {task_id}"
            return web.json_response(fields | {"task_id": task_id, "output": text})
        return web.json_response({"states": ["COMPLETED" for _ in request.query.getall("task_id")]})

    api, out, err = "/_ah/api/swarming/v1", list[str](), list[str]()
    routes = [web.get(f"{api}/tasks/get_states", answer), web.get(f"{api}/task/{{task_id}}/{{call}}", answer)]
    async with serving(routes) as url, HttpClient(url, user_agent="test") as http:
        client, screen = SwarmingClient(http), Screen(out.append, err.append, out.append)
        status = await collect_and_show(client, ids, Wanted(stdout=not how.live), how, SystemClock(), screen)
    return status, "".join(out), err


async def test_a_shard_with_odd_answers_keeps_back_no_other(tmp_path: Path) -> None:
    ids = [*(f"{what}.{call}" for what in ODD if what != "lost" for call in ("result", "stdout")), "a10"]
    status, out, err = await shown_from_odd_server(ids, Show(url="u", summary_files=(tmp_path / "s.json",)))
    assert (status, out) == (1, "b: a10 0\n  of a10\n")
    *lost, missing = err
    assert missing == f"Results from some shards are missing: {', '.join(map(str, range(len(ids) - 1)))}"
    for index, task_id in enumerate(ids[:-1]):
        (line,) = (line for line in lost if line.startswith(f"Shard {index} (task {task_id}) cannot be collected: "))
        assert "\n" not in line
    assert len(lost) == len(ids) - 1
    shards = json.loads((tmp_path / "s.json").read_text())["shards"]
    assert [shard and shard["task_id"] for shard in shards] == [*(None for _ in lost), "a10"]


@pytest.mark.parametrize("live", [False, True])
async def test_a_task_whose_text_is_lost_is_shown_all_the_same(live: bool) -> None:
    status, out, err = await shown_from_odd_server(["lost.stdout"], Show(url="u", live=live))
    assert (status, out.rstrip()) == (1, "b: lost.stdout 0")
    assert err == ["The text of shard 0 is lost: What it printed was damaged"]


async def test_odd_answers_while_one_task_is_printed() -> None:
    status, _, err = await shown_from_odd_server(["list.result"], Show(url="u", live=True))
    assert (status, err[1:]) == (1, ["Results from some shards are missing: 0"])
    assert err[0].startswith("Shard 0 (task list.result) cannot be collected: The server's reply to task/list.result/")
    status, out, err = await shown_from_odd_server(["forbidden.stdout"], Show(url="u", live=True))
    assert (status, out, err[1:]) == (1, "", ["Results from some shards are missing: 0"])
    assert err[0].startswith("The output of task forbidden.stdout is incomplete: http://")
