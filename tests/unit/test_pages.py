"""The web pages, over a scheduler in memory."""

from __future__ import annotations

import base64
from collections.abc import AsyncIterator

import pytest

from server.pages import spell
from tests.unit.server_site import API, Site, hello, new_task, running_site

HOSTILE = "<script>alert(1)</script>\"'"


@pytest.fixture
async def site() -> AsyncIterator[Site]:
    async with running_site() as running:
        yield running


async def run_one(site: Site, output: bytes, **changes: object) -> str:
    await site.bot("handshake", hello(os=[HOSTILE.strip("\"'")]))
    task_id: str = (await site.post("tasks/new", new_task(**changes)))["task_id"]
    _, command = await site.bot("poll", hello(os=[HOSTILE.strip("\"'")]))
    ending = {"exit_code": 1, "duration": 3700.0, "output": base64.b64encode(output).decode()}
    await site.bot("task_update", {"id": "bot1", "task_id": command["manifest"]["task_id"]} | ending)
    return task_id


async def test_every_page_is_there_and_forbids_scripts(site: Site) -> None:
    task_id = await run_one(site, b"out")
    for path in ("/", "/botlist", "/tasklist", "/task", "/bot", f"/task?id={task_id}", "/bot?id=bot1"):
        status, text, headers = await site.page(path)
        assert status == 200, path
        assert text.startswith("<!doctype html>")
        policy = headers["Content-Security-Policy"]
        assert "default-src 'none'" in policy
        assert "script-src" not in policy
        assert headers["X-Content-Type-Options"] == "nosniff"


async def test_what_tasks_and_bots_say_is_text(site: Site) -> None:
    task_id = await run_one(
        site, HOSTILE.encode(), name=HOSTILE, user=HOSTILE, tags=[f"x:{HOSTILE}", "source_revision:" + HOSTILE]
    )
    for path in ("/", "/tasklist", f"/task?id={task_id}", "/bot?id=bot1", "/botlist"):
        _, text, _ = await site.page(path)
        assert "<script>" not in text
    assert "&lt;script&gt;" in (await site.page(f"/task?id={task_id}"))[1]


async def test_a_task_page_tells_what_happened(site: Site) -> None:
    tags = ["source_revision:0123456789abcdef", "source_repo:https://example.com/+/%s"]
    task_id = await run_one(site, b"first line\n\xff", tags=tags)
    _, text, _ = await site.page(f"/task?id={task_id}")
    for expected in ("COMPLETED (FAILURE)", "first line", "echo hi", "1h 1m 40s", 'href="/bot?id=bot1"'):
        assert expected in text
    assert 'href="https://example.com/+/0123456789abcdef"' in text
    assert ">0123456789ab</a>" in text
    assert (await site.page(f"/task?id={task_id[:-1]}1"))[0] == 200


async def test_output_that_was_damaged_hides_nothing_else(site: Site) -> None:
    task_id = await run_one(site, b"first line")
    site.outputs.is_damaged = True
    status, text, _ = await site.page(f"/task?id={task_id}")
    assert status == 200
    for expected in ("COMPLETED (FAILURE)", "1h 1m 40s", "What it printed was damaged."):
        assert expected in text
    status, text, _ = await site.page(f"/task/output?id={task_id}")
    assert (status, "What it printed was damaged" in text) == (410, True)
    status, body = await site.call("GET", f"{API}task/{task_id}/stdout")
    assert (status, body["error"]["code"]) == (410, "output_lost")
    assert (await site.get(f"task/{task_id}/result"))["exit_code"] == "1"


async def test_a_revision_without_a_place_and_a_dangerous_place(site: Site) -> None:
    task_id = await run_one(site, b"", tags=["source_revision:abc", "source_repo:javascript:alert(%s)"])
    _, text, _ = await site.page(f"/task?id={task_id}")
    assert 'href="javascript' not in text
    assert ">abc<" in text


async def test_long_output_is_cut_on_the_page_and_whole_beside_it(site: Site) -> None:
    output = b"0123456789abcdef" * 20_000
    task_id = await run_one(site, output)
    assert len((await site.page(f"/task?id={task_id}"))[1]) < 100_000
    status, text, headers = await site.page(f"/task/output?id={task_id}")
    assert (status, text.encode()) == (200, output)
    assert headers["Content-Type"].startswith("text/plain")
    assert "sandbox" in headers["Content-Security-Policy"]


async def test_filters(site: Site) -> None:
    await run_one(site, b"", name="one")
    await site.post("tasks/new", new_task(name="two", tags=["a:b"]))
    assert "two" not in (await site.page("/tasklist?state=COMPLETED_FAILURE"))[1]
    assert "one" not in (await site.page("/tasklist?tags=a:b"))[1].split("<tbody>")[1]
    assert "bot1" in (await site.page("/botlist?status=idle"))[1]
    assert "No bots." in (await site.page("/botlist?status=dead"))[1]


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/task?id=5cee488008810", 404),
        ("/task?id=<script>", 400),
        ("/bot?id=nobody", 404),
        ("/tasklist?state=X", 400),
        ("/botlist?status=X", 400),
        ("/task/output?id=5cee488008810", 404),
    ],
)
async def test_mistakes_are_pages_too(site: Site, path: str, status: int) -> None:
    found, text, headers = await site.page(path)
    assert found == status
    assert headers["Content-Type"].startswith("text/html")
    assert "<script>" not in text


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("/user/task/5cee488008810", "/task?id=5cee488008810"),
        ("/tasks/5cee488008810", "/task?id=5cee488008810"),
        ("/restricted/bot/a%20b", "/bot?id=a%20b"),
        ("/restricted/bots", "/botlist"),
        ("/user/tasks", "/tasklist"),
        ("/user/task/%0d%0aX:y", "/task?id=%0D%0AX:y"),
    ],
)
async def test_addresses_of_2020_lead_on(site: Site, old: str, new: str) -> None:
    status, _, headers = await site.page(old)
    assert (status, headers["Location"]) == (302, new)


async def test_the_style_is_served(site: Site) -> None:
    status, text, headers = await site.page("/static/style.css")
    assert (status, headers["Content-Type"]) == (200, "text/css")
    assert "body" in text


@pytest.mark.parametrize(
    ("duration_s", "text"),
    [(None, "--"), (0.04, "0.0s"), (59.94, "59.9s"), (60, "1m"), (3785, "1h 3m 5s"), (90061, "1d 1h 1m 1s")],
)
def test_durations(duration_s: float | None, text: str) -> None:
    assert spell.lasting(duration_s) == text
