"""Settings that change while the server runs, as bots and clients see them."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest

from server.settings import BOTS, POOLS, SERVER, parse
from tests.unit.server_site import Site, hello, new_task, running_site

GROUP = """
[[group]]
ids = ["bot1"]
dimensions = ["zone:eu", "pool:special"]
"""


@pytest.fixture
async def site() -> AsyncIterator[Site]:
    async with running_site() as running:
        yield running


def said(version: str | None = None, bot_id: str = "bot1") -> dict[str, Any]:
    body = hello(bot_id)
    if version is not None:
        body["state"]["bot_group_cfg_version"] = version
    return body


async def test_a_bot_is_told_its_group_and_starts_again_when_that_changes(site: Site) -> None:
    before = (await site.bot("handshake", said()))[1]
    assert (before["bot_group_cfg_version"], before["bot_group_cfg"]) == ("default", {"dimensions": {}})
    site.settings = parse({BOTS: GROUP})
    assert (await site.bot("poll", said("default")))[1]["cmd"] == "bot_restart"
    after = (await site.bot("handshake", said()))[1]
    assert after["bot_group_cfg"] == {"dimensions": {"zone": ["eu"], "pool": ["special"]}}
    assert (await site.bot("poll", said(after["bot_group_cfg_version"])))[1]["cmd"] == "sleep"
    known = {pair["key"]: pair["value"] for pair in (await site.get("bot/bot1/get"))["dimensions"]}
    assert known == {"id": ["bot1"], "zone": ["eu"], "pool": ["special"]}


async def test_a_bot_of_no_group_is_refused(site: Site) -> None:
    site.settings = parse({BOTS: GROUP})
    for call in ("handshake", "poll"):
        status, body = await site.bot(call, said(bot_id="stranger"))
        assert status == 403
        assert "no group" in body["error"]


async def test_no_bot_gets_work_while_bots_are_paused(site: Site) -> None:
    await site.bot("handshake", said())
    await site.post("tasks/new", new_task())
    site.settings = parse({SERVER: "[scheduler]\npause_bots = true"})
    assert (await site.bot("poll", said()))[1] == {"cmd": "sleep", "duration": 60.0, "quarantined": True}
    site.settings = parse({})
    assert (await site.bot("poll", said()))[1]["cmd"] == "run"


async def test_short_times_are_refused_where_the_settings_say_so(site: Site) -> None:
    site.settings = parse({SERVER: "[scheduler]\nmin_task_secs = 30"})
    short = {"execution_timeout_secs": 29}
    status, message = await site.refused("POST", "tasks/new", new_task(properties=short))
    assert (status, message) == (
        400,
        "execution_timeout_secs (29) must be between 30 and 259210 seconds (inclusive)",
    )
    await site.post("tasks/new", new_task(properties={"execution_timeout_secs": 30}))


async def test_permissions_name_the_pools(site: Site) -> None:
    assert "list_bots" not in await site.get("server/permissions")
    site.settings = parse({POOLS: '[[pool]]\nnames = ["b", "a"]\nschedulers = ["*"]'})
    found = await site.get("server/permissions")
    assert (found["list_bots"], found["list_tasks"]) == (["a", "b"], ["a", "b"])


async def test_pools_are_asked_before_anything_is_made(site: Site) -> None:
    text = '[[pool]]\nnames = ["default"]\nschedulers = ["user:a@b"]\n[[pool]]\nnames = ["open"]\nschedulers = ["*"]'
    site.settings = parse({POOLS: text})
    status, message = await site.refused("POST", "tasks/new", new_task())
    assert status == 403
    assert message == (
        'User "bot:whitelisted-ip" is not allowed to schedule tasks in the pool "default", see pools.toml'
    )
    wanted = [{"key": "pool", "value": "open"}]
    reply = await site.post("tasks/new", new_task(properties={"dimensions": wanted}))
    revision = site.settings.pools.revision
    assert f"swarming.pool.version:{revision}" in reply["request"]["tags"]
    assert len((await site.get("tasks/list"))["items"]) == 1


async def test_the_template_for_richer_output_is_shown(site: Site) -> None:
    site.settings = parse({SERVER: '[pages]\ndisplay_server_url_template = "https://logs/%s"'})
    assert (await site.get("server/details"))["display_server_url_template"] == "https://logs/%s"
