"""Hints of how large named caches become."""

from __future__ import annotations

from typing import Any

import pytest

from swarming.bots import BotHello
from swarming.cache_hints import FORGOTTEN_S, KEPT_S, MAX_KNOWN, CacheHints
from swarming.fleet import Fleet
from swarming.model import Lists, NamedCache
from tests.clock import ManualClock
from tests.unit.server_site import hello, new_task, running_site

GIT = (NamedCache("git", "cache/git"),)
LINUX: Lists = (("id", ("asker",)), ("os", ("Linux", "Debian")), ("pool", ("default",)))


class Site:
    def __init__(self) -> None:
        self.fleet, self.clock = Fleet(), ManualClock()
        self.hints = CacheHints(self.fleet, self.clock)

    def says(self, bot_id: str, caches: Any, system: str = "Linux", pool: str = "default") -> None:
        dimensions = (("id", (bot_id,)), ("os", (system, "x")), ("pool", (pool,)))
        said = BotHello(bot_id=bot_id, dimensions=dimensions, state={"named_caches": caches})
        self.fleet.welcome(said, self.clock.now(), self.clock.monotonic())

    def git(self) -> int | None:
        return self.hints.of(LINUX, GIT).get("git")


def kept(size_bytes: Any) -> dict[str, Any]:
    return {"git": [["dir", size_bytes], 1_600_000_000]}


def test_nothing_is_known_of_a_cache_that_no_bot_has() -> None:
    site = Site()
    site.says("a", {"other": [["dir", 5], 1]})
    site.says("b", kept(7), system="Windows")
    site.says("c", kept(8), pool="other")
    assert site.git() is None


@pytest.mark.parametrize(("sizes", "expected"), [([5], 5), (list(range(1, 20)), 19), (list(range(1, 41)), 39)])
def test_the_hint_is_what_nearly_all_stay_below(sizes: list[int], expected: int) -> None:
    site = Site()
    for number, size_bytes in enumerate(sizes):
        site.says(f"bot{number}", kept(size_bytes))
    assert site.git() == expected


@pytest.mark.parametrize("said", [None, 5, [], {"git": 5}, {"git": [["dir"], 1]}, kept("5"), kept(-1), kept(1.5)])
def test_nonsense_is_passed_over(said: Any) -> None:
    site = Site()
    site.says("a", said)
    site.says("b", kept(9))
    assert site.git() == 9


def test_the_fleet_is_looked_at_once_in_a_while_and_what_nobody_has_is_forgotten() -> None:
    site = Site()
    site.says("a", kept(5))
    assert site.git() == 5
    site.says("a", kept(6))
    assert site.git() == 5
    site.clock.advance(KEPT_S)
    assert site.git() == 6
    site.says("a", {})
    site.clock.advance(FORGOTTEN_S - 1)
    assert site.git() == 6
    site.clock.advance(KEPT_S)
    assert site.git() is None


def test_only_so_many_names_are_remembered() -> None:
    site = Site()
    for number in range(MAX_KNOWN + 1):
        site.hints.of(LINUX, [NamedCache(f"n{number}", "p")])
    site.says("a", {"n0": [["dir", 5], 1], f"n{MAX_KNOWN}": [["dir", 5], 1]})
    assert site.hints.of(LINUX, [NamedCache("n0", "p"), NamedCache(f"n{MAX_KNOWN}", "p")]) == {"n0": 5}


async def test_a_bot_gets_the_hint_as_text_with_its_task() -> None:
    async with running_site() as site:
        said = hello("bot1")
        said["state"]["named_caches"] = kept(1234)
        await site.bot("handshake", said)
        wanted = [{"name": "git", "path": "git"}, {"name": "new", "path": "new"}]
        await site.post("tasks/new", new_task(properties={"caches": wanted}))
        manifest = (await site.bot("poll", said))[1]["manifest"]
        assert [cache["hint"] for cache in manifest["caches"]] == ["1234", "-1"]
