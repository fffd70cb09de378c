"""swarming.listing and swarming.why: texts made of what a server said."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from isolate.errors import InvalidInput, NotFound
from swarming import listing, why
from swarming.client import SwarmingClient


def bot(bot_id: str, **fields: Any) -> dict[str, Any]:
    own = {"id": [bot_id], "pool": ["default"], "os": ["Linux", "Debian"], **fields.pop("dimensions", {})}
    return {"bot_id": bot_id, "dimensions": [{"key": key, "value": own[key]} for key in sorted(own)], **fields}


class Pages(SwarmingClient):
    """A listing of ten items, two to a page at most."""

    def __init__(self) -> None:
        self.asked: list[Mapping[str, Any]] = []

    def url(self, method: str) -> str:
        return f"http://s/{method}"

    async def get(self, method: str, query: Any = None) -> Any:
        self.asked.append(query)
        if method == "task/1/result":
            raise NotFound("Task 1 not found")
        start = int(query.get("cursor", 0))
        end = min(start + min(int(query["limit"]), 2), 10)
        page: dict[str, Any] = {"items": list(range(start, end)), "now": "n"}
        return page | ({"cursor": str(end)} if end < 10 else {})


@pytest.mark.parametrize(
    ("limit", "items", "pages"), [(1, 1, 1), (2, 2, 1), (5, 5, 3), (9, 9, 5), (10, 10, 5), (99, 10, 5)]
)
async def test_a_query_follows_cursors_up_to_its_limit(limit: int, items: int, pages: int) -> None:
    client, ticks = Pages(), list[None]()
    reply = await listing.query(client, "tasks/list?state=ALL", limit, lambda: ticks.append(None))
    assert reply == {"items": list(range(items)), "now": "n"}
    assert len(ticks) == len(client.asked) == pages
    assert all(asked["state"] == ["ALL"] for asked in client.asked)


async def test_a_query_that_fails_says_of_what() -> None:
    with pytest.raises(Exception, match="Failed to access http://s/task/1/result: Task 1 not found"):
        await listing.query(Pages(), "task/1/result", 5, lambda: None)
    with pytest.raises(InvalidInput, match="--limit must be at least 1"):
        await listing.query(Pages(), "tasks/list", 0, lambda: None)


def test_bots_are_sorted_by_number() -> None:
    assert sorted(["b10", "b9", "a"], key=listing.natural_key) == ["a", "b9", "b10"]


def test_the_table_of_bots() -> None:
    found = [bot("b1"), bot("b22", task_id="a11"), bot("b3", is_dead=True, task_id="c11"), bot("b4", quarantined=True)]
    lines = listing.bots_table(found)
    assert lines[0].split() == ["BOT", "STATUS", "TASK", "DIMENSIONS"]
    assert [line.split()[1] for line in lines[1:]] == ["idle", "busy", "dead", "quarantined"]
    assert lines[2] == "b22  busy         a10   os=Linux,Debian pool=default"
    assert listing.bots_table(found, 200) == lines
    narrow = listing.bots_table(found, 40)
    assert narrow[3:5] == ["b22  busy         a10   os=Linux,Debian", "                        pool=default"]
    assert max(map(len, narrow)) <= 40


def test_the_table_of_tasks() -> None:
    task = {"task_id": "a10", "name": "n", "state": "COMPLETED", "exit_code": "3", "duration": 1.25, "user": "joe"}
    rows: list[dict[str, Any]] = [
        {**task, "created_ts": "2020-01-02T03:04:05.678"},
        {"task_id": "b10", "name": "m", "state": "PENDING"},
    ]
    assert [line.split() for line in listing.tasks_table(rows)[1:]] == [
        ["a10", "EXIT", "3", "n", "joe", "2020-01-02", "03:04:05", "1.2"],
        ["b10", "PENDING", "m"],
    ]
    wide = listing.tasks_table([{**row, "name": "somebody/os=Linux_pool=default"} for row in rows])
    assert listing.tasks_table([{**row, "name": "somebody/os=Linux_pool=default"} for row in rows], 200) == wide
    narrow = listing.tasks_table([{**row, "name": "somebody/os=Linux_pool=default"} for row in rows], 70)
    assert narrow[1] == "a10   EXIT 3   somebody/os=L…  joe        2020-01-02 03:04:05  1.2"
    assert len(narrow[1]) <= 70
    assert "a�[31mb" in listing.tasks_table([{**task, "name": "a\x1b[31mb"}])[1]
    assert "DEDUPED" in listing.tasks_table([{**task, "deduped_from": "x"}])[1]


def test_apis_are_described() -> None:
    methods = {
        "list": {"httpMethod": "GET", "path": "tasks/list", "description": "word " * 30},
        "new": {"httpMethod": "POST", "path": "tasks/new"},
    }
    apis = {"swarming:v1": {"description": "The API", "resources": {"tasks": {"methods": methods}}}}
    lines = list(listing.described(apis, "http://x/explorer"))
    assert lines[:3] == ["swarming:v1", "  The API", "- tasks.list: tasks/list"]
    assert lines[-1] == "  http://x/explorer/swarming.tasks.list"
    assert max(map(len, lines)) <= 80
    assert "new" not in "".join(lines)


def explained(bots: list[dict[str, Any]], *wishes: dict[str, str], state: str = "PENDING", **result: Any) -> str:
    slices = [
        {
            "expiration_secs": "60",
            "properties": {"dimensions": [{"key": key, "value": value} for key, value in wish.items()]},
        }
        for wish in wishes
    ]
    facts = {"task_id": "a10", "name": "n", "state": state, **result}
    return "\n".join(why.explain(facts, {"task_slices": slices}, bots))


@pytest.mark.parametrize(
    ("bots", "wish", "reason"),
    [
        ([], {"pool": "x"}, "the server knows no bot at all"),
        ([bot("b1")], {"pool": "default", "os": "Amiga"}, "no bot has os=Amiga (1 known)"),
        (
            [bot("b1"), bot("b2", dimensions={"pool": ["lab"], "os": ["Mac"]})],
            {"pool": "lab", "os": "Linux"},
            "no bot has all of it at once (2 known); b1 comes closest, it lacks pool=lab",
        ),
        ([bot("b1"), bot("b2")], {"os": "Linux"}, "2 of 2 bots have all that now: 2 idle (b1, b2)"),
        ([bot("b1")], {"os": "Mac|Linux"}, "1 of 1 bots have all that now: 1 idle (b1)"),
        (
            [bot("b1", task_id="c11"), bot("b2", is_dead=True), bot("b3", maintenance_msg="oil")],
            {"os": "Linux"},
            "3 of 3 bots have all that now: 1 busy (b1), 1 dead (b2), 1 maintenance (b3)",
        ),
        ([bot(f"b{n}", is_dead=True) for n in range(7)], {"os": "Linux"}, "7 dead (b0, b1, b2, b3, b4 and 2 more)"),
    ],
)
def test_what_nobody_took_in_time(bots: list[dict[str, Any]], wish: dict[str, str], reason: str) -> None:
    assert reason in explained(bots, wish, state="EXPIRED")


def test_why_a_task_is_pending_is_what_the_server_says() -> None:
    named = [{"bot_id": f"b{n}", "reason": "leaves before it would be done"} for n in range(7)]
    told = {
        "summary": "None of 9 bots may run it",
        "bots": [*named, {"bot_id": "ill", "reason": "quarantined"}],
        "reasons": [
            {"reason": "leaves before it would be done", "bots": "7"},
            {"reason": "quarantined", "bots": "1"},
            {"reason": "lacks os:Mac", "bots": "1"},
        ],
    }
    assert explained([bot("b1")], {"os": "Linux"}, pending=told).splitlines()[1:] == [
        "  waits up to 60 s for a bot with os=Linux:",
        "    None of 9 bots may run it",
        "    7 leaves before it would be done (b0, b1, b2, b3, b4 and 2 more)",
        "    1 quarantined (ill)",
        "    1 lacks os:Mac",
    ]
    assert explained([bot("b1")], {"os": "Linux"}).endswith("\n    the server does not say why")


def test_slices_to_come_are_explained_too() -> None:
    text = explained([bot("b1")], {"os": "One"}, {"os": "Two"}, {"os": "Three"}, current_task_slice="1")
    assert "os=One" not in text
    assert "Slice 2 of 3, waits up to 60 s for a bot with os=Two:" in text
    assert "Slice 3 of 3, comes later, waits up to 60 s for a bot with os=Three" in text


def test_what_is_not_pending_is_not_explained() -> None:
    assert explained([], {}, state="RUNNING", bot_id="b1").endswith("It is not pending: bot b1 took it.")


@pytest.mark.parametrize("state", ["NO_RESOURCE", "EXPIRED"])
def test_what_was_pending_too_long_is_explained_as_of_now(state: str) -> None:
    text = explained([bot("b1")], {"os": "Amiga"}, {"os": "Mac"}, state=state, current_task_slice="1")
    assert "Slice 1 of 2, wanted a bot with os=Amiga:\n    no bot has os=Amiga (1 known)" in text
