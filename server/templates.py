"""Task templates: what a pool adds to every task scheduled in it, and which of its versions a task gets.

Pure; luck is an argument. The invariants: a template is whole, what it includes is in it already; what it adds obeys
the rules for tasks, and so does every task it was added to, else the task is refused.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from msgspec.structs import replace

from isolate.errors import InvalidTask
from server.toml_reader import Table
from swarming.model import NamedCache, TaskProperties
from swarming.wire_in import CacheEntry, Pair, PairList, Properties
from swarming.wire_rules import MAX_CACHES, MAX_ENV, MAX_PREFIX_PATHS, check_caches, check_environment

CHANCES = 9_999  # of so many tasks, `canary_chance` get the canary
Draw = Callable[[int], int]  # returns a number from 0 to below its argument, each as likely


@dataclass(frozen=True, slots=True, kw_only=True)
class Variable:
    """A variable of the environment."""

    name: str
    value: str = ""  # "" sets none
    prefixes: tuple[str, ...] = ()
    is_soft: bool = False  # a task may set it too: its value wins, its prefixes come first


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskTemplate:
    """What is added to a task; nothing is there twice."""

    caches: tuple[NamedCache, ...] = ()
    variables: tuple[Variable, ...] = ()

    def applied(self, asked: TaskProperties) -> TaskProperties:
        """Return the properties with what the template adds; raises InvalidTask for what contradicts it."""
        names, paths = {one.name for one in asked.caches}, {one.path for one in asked.caches}
        for cache in self.caches:
            if cache.name in names or cache.path in paths:
                raise InvalidTask(f"caches: {cache.name!r} at {cache.path!r} is of the template of the pool already")
        env, prefixes = dict(asked.env), dict(asked.env_prefixes)
        for one in self.variables:
            if not one.is_soft and (one.name in env or one.name in prefixes):
                raise InvalidTask(f"env: {one.name!r} is of the template of the pool; a task must not set it")
            if one.value:
                env.setdefault(one.name, one.value)
            if one.prefixes:
                prefixes[one.name] = tuple(dict.fromkeys((*prefixes.get(one.name, ()), *one.prefixes)))
        caches = tuple(sorted((*asked.caches, *self.caches), key=lambda cache: cache.name))
        _check_counts(caches, env, prefixes)
        return replace(
            asked, caches=caches, env=tuple(sorted(env.items())), env_prefixes=tuple(sorted(prefixes.items()))
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Deployment:
    """The versions of a template that are in use."""

    prod: TaskTemplate = TaskTemplate()
    canary: TaskTemplate | None = None
    canary_chance: int = 0  # of CHANCES

    def choose(self, wish: str, draw: Draw) -> tuple[str, TaskTemplate]:
        """Return the version for a task and its name; `wish` is AUTO, CANARY_PREFER or CANARY_NEVER."""
        if self.canary is None or wish == "CANARY_NEVER":
            return "prod", self.prod
        if wish == "CANARY_PREFER" or draw(CHANCES) < self.canary_chance:
            return "canary", self.canary
        return "prod", self.prod


@dataclass(frozen=True, slots=True)
class _Written:
    """A template as it stands in the file."""

    table: Table
    include: tuple[str, ...]
    own: TaskTemplate


def read_templates(top: Table) -> Mapping[str, TaskTemplate]:
    """Return the templates of a file by name, each with all it includes; problems are noted in the tables."""
    written: dict[str, _Written] = {}
    for table in top.tables("task_template"):
        name = table.text("name")
        caches, variables = _caches(table.tables("cache")), _variables(table.tables("env"))
        if not name:
            table.problem("name", "A task_template needs a name")
        elif name in written:
            table.problem("name", f"The task_template {name!r} is there twice")
        written[name] = _Written(table, table.texts("include"), TaskTemplate(caches=caches, variables=variables))
        table.close()
    whole: dict[str, TaskTemplate] = {}
    for name in written:
        _complete(name, written, whole, ())
    return whole


def read_deployments(top: Table, templates: Mapping[str, TaskTemplate]) -> Mapping[str, Deployment]:
    """Return the deployments of a file by name."""
    found: dict[str, Deployment] = {}
    for table in top.tables("task_template_deployment"):
        name = table.text("name")
        if not name:
            table.problem("name", "A task_template_deployment needs a name")
        elif name in found:
            table.problem("name", f"The task_template_deployment {name!r} is there twice")
        found[name] = _deployment(table, templates)
    return found


def read_choice(
    pool: Table, templates: Mapping[str, TaskTemplate], deployments: Mapping[str, Deployment]
) -> Deployment | None:
    """Return the deployment a pool names or has within itself; None for a pool without."""
    key, inline = "task_template_deployment", "task_template_deployment_inline"
    own = _deployment(pool.table(inline), templates) if pool.has(inline) else None
    name = pool.text(key)
    if name and own is not None:
        pool.problem(inline, f"A pool has either {key} or {inline}")
    elif name and name not in deployments:
        pool.problem(key, f"There is no {key} {name!r}")
    return own or deployments.get(name)


def _deployment(table: Table, templates: Mapping[str, TaskTemplate]) -> Deployment:
    names = {key: table.text(key) for key in ("prod", "canary")}
    if not names["prod"]:
        table.problem("prod", "prod must name the task_template that tasks get")
    for key, name in names.items():
        if name and name not in templates:
            table.problem(key, f"There is no task_template {name!r}")
    chance = table.number("canary_chance", 0, 0, CHANCES)
    if chance and not names["canary"]:
        table.problem("canary_chance", "canary_chance says nothing without a canary")
    table.close()
    return Deployment(
        prod=templates.get(names["prod"], TaskTemplate()),
        canary=templates.get(names["canary"]),
        canary_chance=int(chance),
    )


def _complete(
    name: str, written: Mapping[str, _Written], whole: dict[str, TaskTemplate], above: tuple[str, ...]
) -> TaskTemplate:
    """Enter a template with all it includes in `whole`; what includes stands in place of what is included."""
    if name in whole:
        return whole[name]
    one = written[name]
    caches: dict[str, NamedCache] = {}
    variables: dict[str, Variable] = {}
    parts = []
    for other in one.include:
        if other in (*above, name):
            one.table.problem("include", f"The task_template {name!r} includes itself, by {other!r}")
        elif other not in written:
            one.table.problem("include", f"There is no task_template {other!r}")
        else:
            parts.append(_complete(other, written, whole, (*above, name)))
    for part in (*parts, one.own):
        caches |= {cache.name: cache for cache in part.caches}
        variables |= {variable.name: variable for variable in part.variables}
    found = TaskTemplate(caches=tuple(caches.values()), variables=tuple(variables.values()))
    if len({cache.path for cache in found.caches}) < len(found.caches):
        one.table.problem("", f"The task_template {name!r} has two caches at one path")
    try:
        found.applied(TaskProperties(dimensions=()))
    except InvalidTask as error:
        one.table.problem("", f"The task_template {name!r} has too much: {error}")
    whole[name] = found
    return found


def _caches(tables: Iterable[Table]) -> tuple[NamedCache, ...]:
    found: dict[str, NamedCache] = {}
    for table in tables:
        cache = NamedCache(table.text("name"), table.text("path"))
        _judge(table, check_caches, Properties(caches=[CacheEntry(cache.name, cache.path)]))
        if cache.name in found:
            table.problem("name", f"The cache {cache.name!r} is there twice")
        found[cache.name] = cache
        table.close()
    return tuple(found.values())


def _variables(tables: Iterable[Table]) -> tuple[Variable, ...]:
    found: dict[str, Variable] = {}
    for table in tables:
        one = Variable(
            name=table.text("var"),
            value=table.text("value"),
            prefixes=table.texts("prefix"),
            is_soft=table.truth("soft", default=False),
        )
        sent = Properties(
            env=[Pair(one.name, one.value)],
            env_prefixes=[PairList(one.name, list(one.prefixes))] if one.prefixes else None,
        )
        _judge(table, check_environment, sent)
        if not one.value and not one.prefixes:
            table.problem("", f"The variable {one.name!r} has neither value nor prefix")
        if one.name in found:
            table.problem("var", f"The variable {one.name!r} is there twice")
        found[one.name] = one
        table.close()
    return tuple(found.values())


def _judge(table: Table, rule: Callable[[Properties], None], sent: Properties) -> None:
    """Note what `rule` finds wrong with the content of a table, which is `sent` as a task would send it."""
    try:
        rule(sent)
    except InvalidTask as error:
        table.problem("", str(error))


def _check_counts(caches: Sequence[NamedCache], env: Mapping[str, str], prefixes: Mapping[str, Sequence[str]]) -> None:
    """Raise InvalidTask for more than a task may have; each part was judged by itself."""
    longest = max(map(len, prefixes.values()), default=0)
    for what, count, most in (
        ("caches", len(caches), MAX_CACHES),
        ("env", len(env), MAX_ENV),
        ("env_prefixes", len(prefixes), MAX_ENV),
        ("paths of one of env_prefixes", longest, MAX_PREFIX_PATHS),
    ):
        if count > most:
            raise InvalidTask(f"{what}: {count} with those of the template of the pool, at most {most}")
