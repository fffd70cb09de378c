"""Task templates of pools: what they add, which version a task gets, and that every mistake has its line."""

from __future__ import annotations

import re
import textwrap
from typing import Any

import pytest

from isolate.errors import InvalidTask
from server.pools import Pools
from server.settings import POOLS, InvalidSettings, parse
from server.templates import CHANCES
from swarming.model import NamedCache, TaskProperties
from swarming.wire_rules import MAX_CACHES, MAX_ENV, MAX_PREFIX_PATHS
from tests.tasks import one_slice, properties, request
from tests.unit.server_site import new_task, running_site

FILE = """
[[task_template]]
name = "base"
[[task_template.cache]]
name = "git"
path = "cache/git"
[[task_template.env]]
var = "MODE"
value = "strict"
[[task_template.env]]
var = "PATH"
prefix = ["base/bin"]
soft = true

[[task_template]]
name = "next"
include = ["base"]
[[task_template.cache]]
name = "git"
path = "cache/git2"
[[task_template.env]]
var = "LEVEL"
value = "1"
soft = true

[[task_template_deployment]]
name = "slow"
prod = "base"
canary = "next"
canary_chance = 100

[[pool]]
names = ["default"]
schedulers = ["*"]
task_template_deployment = "slow"

[[pool]]
names = ["inline"]
schedulers = ["*"]
[pool.task_template_deployment_inline]
prod = "next"

[[pool]]
names = ["bare"]
schedulers = ["*"]
"""
GIT, GIT_NEXT = NamedCache("git", "cache/git"), NamedCache("git", "cache/git2")


def pools() -> Pools:
    return parse({POOLS: FILE}).pools


def admitted(asked: TaskProperties | None = None, wish: str = "CANARY_NEVER", drawn: int = 0) -> TaskProperties:
    """Return what a task of the default pool becomes."""
    found = pools().admit(request("t", one_slice(asked or properties())), wish, lambda _: drawn)
    return found.slices[0].properties


def version(wish: str, drawn: int = 0, pool: str = "default") -> str:
    """Return which version of the template a task gets, by its tag."""
    asked = one_slice(properties(dimensions=(("pool", pool),)))
    tags = pools().admit(request("t", asked), wish, lambda most: drawn if most == CHANCES else -1).server_tags
    return next(tag.partition("template:")[2] for tag in tags if "template" in tag)


@pytest.mark.parametrize(
    ("wish", "drawn", "expected"),
    [
        ("AUTO", 99, "canary"),
        ("AUTO", 100, "prod"),
        ("AUTO", 101, "prod"),
        ("CANARY_PREFER", 9_998, "canary"),
        ("CANARY_NEVER", 0, "prod"),
        ("SKIP", 0, "skip"),
    ],
)
def test_which_version_a_task_gets(wish: str, drawn: int, expected: str) -> None:
    assert version(wish, drawn) == expected


def test_a_pool_without_a_canary_or_without_a_template() -> None:
    wishes = ("AUTO", "CANARY_PREFER", "CANARY_NEVER", "SKIP")
    assert [version(wish, pool="inline") for wish in wishes] == ["prod", "prod", "prod", "skip"]
    assert [version(wish, pool="bare") for wish in wishes] == ["none", "none", "none", "skip"]


def test_a_termination_has_no_pool() -> None:
    asked = TaskProperties(dimensions=(("id", "bot"),))
    found = pools().admit(request("t", one_slice(asked), priority=0), "AUTO", lambda _: 0)
    assert (found.server_tags, found.slices[0].properties) == (("swarming.pool.template:no_pool",), asked)


def test_what_a_template_adds() -> None:
    found = admitted(properties(caches=(NamedCache("a", "cache/a"),), env=(("Z", "1"),)))
    assert found.caches == (NamedCache("a", "cache/a"), GIT)
    assert (found.env, found.env_prefixes) == ((("MODE", "strict"), ("Z", "1")), (("PATH", ("base/bin",)),))


def test_skip_adds_nothing_and_every_slice_gets_what_is_added() -> None:
    assert admitted(wish="SKIP") == properties()
    two = request("t", one_slice(), one_slice(properties("false")))
    slices = pools().admit(two, "CANARY_NEVER", lambda _: 0).slices
    assert [part.properties.caches for part in slices] == [(GIT,), (GIT,)]
    assert [part.properties.command for part in slices] == [("true",), ("false",)]


def test_what_includes_stands_in_place_of_what_is_included() -> None:
    found = admitted(wish="CANARY_PREFER")
    assert (found.caches, found.env) == ((GIT_NEXT,), (("LEVEL", "1"), ("MODE", "strict")))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"env": (("MODE", "strict"),)}, "env: 'MODE' is of the template"),
        ({"env_prefixes": (("MODE", ("x",)),)}, "env: 'MODE' is of the template"),
        ({"caches": (NamedCache("git", "elsewhere"),)}, "caches: 'git' at 'cache/git' is of the template"),
        ({"caches": (NamedCache("other", "cache/git"),)}, "caches: 'git' at 'cache/git' is of the template"),
    ],
)
def test_a_task_must_not_contradict_a_template(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidTask, match=message):
        admitted(properties(**fields))


def test_of_what_is_soft_the_value_of_the_task_wins_and_its_paths_come_first() -> None:
    asked = properties(env=(("LEVEL", ""),), env_prefixes=(("PATH", ("own", "base/bin")),))
    found = admitted(asked, "CANARY_PREFER")
    assert dict(found.env)["LEVEL"] == ""  # a bot unsets it: so the task asked
    assert found.env_prefixes == (("PATH", ("own", "base/bin")),)
    assert admitted(properties(env_prefixes=(("PATH", ("own",)),))).env_prefixes == (("PATH", ("own", "base/bin")),)


def test_the_limits_hold_for_both_together() -> None:
    caches = tuple(NamedCache(f"c{number:02}", f"p{number}") for number in range(MAX_CACHES))
    env = tuple((f"E{number:02}", "") for number in range(MAX_ENV))
    paths = tuple(f"p{number}" for number in range(MAX_PREFIX_PATHS))
    assert len(admitted(properties(caches=caches[1:])).caches) == MAX_CACHES
    assert len(admitted(properties(env=env[1:])).env) == MAX_ENV
    assert len(admitted(properties(env_prefixes=(("PATH", paths[1:]),))).env_prefixes[0][1]) == MAX_PREFIX_PATHS
    for fields in ({"caches": caches}, {"env": env}, {"env_prefixes": (("PATH", paths),)}):
        with pytest.raises(InvalidTask, match="with those of the template of the pool, at most"):
            admitted(properties(**fields))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("[[task_template]]\n", "pools.toml:1: A task_template needs a name"),
        (
            "[[task_template]]\nname = 'a'\n[[task_template]]\nname = 'a'",
            "pools.toml:4: The task_template 'a' is there",
        ),
        ("[[task_template]]\nname = 'a'\ncipd_package = []", "pools.toml:3: Unknown key cipd_package"),
        ("[[task_template]]\nname = 'a'\ninclude = ['b']", "pools.toml:3: There is no task_template 'b'"),
        (
            "[[task_template]]\nname = 'a'\ninclude = ['b']\n[[task_template]]\nname = 'b'\ninclude = ['a']",
            "pools.toml:6: The task_template 'b' includes itself, by 'a'",
        ),
        ("[[task_template]]\nname = 'a'\ninclude = ['a']", "pools.toml:3: The task_template 'a' includes itself"),
        ("[[task_template]]\nname='a'\n[[task_template.cache]]\nname='X'\npath='p'", "pools.toml:3: cache name 'X'"),
        ("[[task_template]]\nname='a'\n[[task_template.cache]]\nname='x'\npath='../p'", "pools.toml:3: caches path"),
        (
            (
                "[[task_template]]\nname='a'\n[[task_template.cache]]\nname='x'\npath='p'\n"
                "[[task_template.cache]]\nname='x'\npath='q'"
            ),
            "pools.toml:7: The cache 'x' is there twice",
        ),
        (
            (
                "[[task_template]]\nname='a'\n[[task_template.cache]]\nname='x'\npath='p'\n"
                "[[task_template.cache]]\nname='y'\npath='p'"
            ),
            "pools.toml:1: The task_template 'a' has two caches at one path",
        ),
        (
            "[[task_template]]\nname='a'\n[[task_template.env]]\nvar='1'\nvalue='v'",
            "pools.toml:3: env key '1' is invalid",
        ),
        ("[[task_template]]\nname='a'\n[[task_template.env]]\nvar='A'", "pools.toml:3: The variable 'A' has neither"),
        (
            "[[task_template]]\nname='a'\n[[task_template.env]]\nvar='A'\nprefix=['/x']",
            "pools.toml:3: env_prefixes path '/x' must be relative",
        ),
        (
            (
                "[[task_template]]\nname='a'\n[[task_template.env]]\nvar='A'\nvalue='1'\n"
                "[[task_template]]\nname='b'\n[[task_template.env]]\nvar='A'\nvalue='1'\nsofter=true"
            ),
            "pools.toml:11: Unknown key softer",
        ),
        (
            (
                "[[task_template]]\nname='a'\n[[task_template.env]]\nvar='A'\nvalue='1'\n"
                "[[task_template.env]]\nvar='A'\nvalue='2'"
            ),
            "pools.toml:7: The variable 'A' is there twice",
        ),
        ("[[task_template_deployment]]\n", "pools.toml:1: A task_template_deployment needs a name"),
        ("[[task_template_deployment]]\nname = 'd'", "pools.toml:1: prod must name the task_template"),
        ("[[task_template_deployment]]\nname = 'd'\nprod = 'x'", "pools.toml:3: There is no task_template 'x'"),
        ("[[task_template_deployment]]\nname = 'd'\ncanary = 'x'", "pools.toml:3: There is no task_template 'x'"),
        ("[[task_template_deployment]]\nname = 'd'\ncanary_chance = 10000", "pools.toml:3: canary_chance must be"),
        ("[[task_template_deployment]]\nname = 'd'\ncanary_chance = 5", "pools.toml:3: canary_chance says nothing"),
        (
            "[[task_template_deployment]]\nname = 'd'\n[[task_template_deployment]]\nname = 'd'",
            "pools.toml:4: The task_template_deployment 'd' is there twice",
        ),
        (
            "[[pool]]\nnames = ['p']\ntask_template_deployment = 'd'",
            "pools.toml:3: There is no task_template_deployment 'd'",
        ),
        (
            (
                "[[task_template]]\nname = 't'\n[[pool]]\nnames = ['p']\ntask_template_deployment = 'd'\n"
                "[pool.task_template_deployment_inline]\nprod = 't'"
            ),
            "pools.toml:6: A pool has either task_template_deployment or task_template_deployment_inline",
        ),
    ],
)
def test_mistakes_have_their_line(text: str, expected: str) -> None:
    with pytest.raises(InvalidSettings) as caught:
        parse({POOLS: text})
    assert any(one.startswith(expected) for one in caught.value.problems), caught.value.problems


def test_a_template_that_no_task_could_have_is_a_mistake() -> None:
    many = "".join(f"[[task_template.env]]\nvar = 'E{number}'\nvalue = '1'\n" for number in range(MAX_ENV + 1))
    with pytest.raises(InvalidSettings, match=re.escape("pools.toml:1: The task_template 'a' has too much: env: 65")):
        parse({POOLS: f"[[task_template]]\nname = 'a'\n{many}"})


async def test_clients_see_what_was_added_and_are_told_of_contradictions() -> None:
    async with running_site() as site:
        site.settings = parse({POOLS: textwrap.dedent(FILE)})
        reply = await site.post("tasks/new", {**new_task(), "pool_task_template": "CANARY_PREFER"})
        shown = reply["request"]["properties"]
        assert shown["caches"] == [{"name": "git", "path": "cache/git2"}]
        assert shown["env"] == [{"key": "LEVEL", "value": "1"}, {"key": "MODE", "value": "strict"}]
        assert "swarming.pool.template:canary" in reply["request"]["tags"]
        again = await site.post("tasks/new", {**new_task(), "pool_task_template": 3})
        assert "caches" not in again["request"]["properties"]
        assert "swarming.pool.template:skip" in again["request"]["tags"]
        wrong = new_task(properties={"env": [{"key": "MODE", "value": "lax"}]})
        status, message = await site.refused("POST", "tasks/new", wrong)
        assert (status, message) == (400, "env: 'MODE' is of the template of the pool; a task must not set it")
        assert len((await site.get("tasks/list"))["items"]) == 2
