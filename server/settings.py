"""The settings of a running server: three files, each of which may be missing.

`server.toml` has figures, `bots.toml` who is a bot and what it is for, `pools.toml` who may schedule where. Pure: texts
in, values out; whatever is wrong is found at once and named with its line. Nothing here is applied.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from isolate.errors import InvalidInput
from server.bot_groups import BotGroups, There, read_groups
from server.pools import Pools, read_pools
from server.retention import DAY_S, RetentionPolicy
from server.toml_reader import Table, TomlFile
from swarming.pending import Limits
from swarming.policy import Policy
from swarming.wire_rules import MIN_TIME_S, PING_TOLERANCE_S

SERVER, BOTS, POOLS = "server.toml", "bots.toml", "pools.toml"
FILES = (SERVER, BOTS, POOLS)
SETTINGS_DIR = "config"  # in the data directory
_WEEK_S, _YEAR_S = 7 * DAY_S, 366 * DAY_S


class InvalidSettings(InvalidInput):
    """Settings that make no sense: one line for each problem."""

    def __init__(self, problems: list[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Everything that may change while the server runs."""

    policy: Policy = field(default_factory=Policy)
    retention: RetentionPolicy = field(default_factory=RetentionPolicy)
    pause_bots: bool = False  # no bot gets work
    least_time_s: int = MIN_TIME_S  # the shortest expiration or time-out of a task
    display_server_url_template: str = ""
    groups: BotGroups = field(default_factory=BotGroups)
    pools: Pools = field(default_factory=Pools)
    warnings: tuple[str, ...] = ()  # what is valid and hardly meant, with its line

    @property
    def limits(self) -> Limits:
        """Who gets no work whatever it is, for whom a task is explained to."""
        return Limits(self.pause_bots, lambda bot_id: self.groups.of(bot_id) is not None)


def parse(texts: Mapping[str, str], there: There | None = None) -> Settings:
    """Return what the files say, by name; raises InvalidSettings with every problem of all of them.

    `there` are the files that groups of bots may name; None does not ask for them.
    """
    files = {name: TomlFile(texts[name], name) for name in FILES if name in texts}
    problems: list[str] = []
    policy, retention, pause, least_s, template = Policy(), RetentionPolicy(), False, MIN_TIME_S, ""
    if SERVER in files:
        top = files[SERVER].top()
        policy, pause, least_s = _policy(top.table("scheduler"), policy)
        retention = _retention(top.table("retention"))
        pages = top.table("pages")
        template = _template(pages)
        pages.close()
        top.close()
    groups = read_groups(files[BOTS], there) if BOTS in files else BotGroups()
    pools = read_pools(files[POOLS], texts[POOLS]) if POOLS in files else Pools()
    for file in files.values():
        problems += file.problems
    if problems:
        raise InvalidSettings(problems)
    return Settings(
        policy=policy,
        retention=retention,
        pause_bots=pause,
        least_time_s=least_s,
        display_server_url_template=template,
        groups=groups,
        pools=pools,
        warnings=tuple(one for file in files.values() for one in file.warnings),
    )


def _policy(table: Table, base: Policy) -> tuple[Policy, bool, int]:
    policy = Policy(
        use_lifo=table.truth("use_lifo", default=base.use_lifo),
        reusable_task_age_s=table.number("reusable_task_age_secs", base.reusable_task_age_s, 0, _WEEK_S),
        ping_tolerance_s=table.number("bot_ping_tolerance_secs", base.ping_tolerance_s, *PING_TOLERANCE_S),
        bot_death_s=table.number("bot_death_timeout_secs", base.bot_death_s, 10, DAY_S),
        max_sleep_s=table.number("max_bot_sleep_secs", base.max_sleep_s, 1, 3_600),
        retry_dead=table.truth("retry_dead_bots", default=base.retry_dead),
    )
    pause = table.truth("pause_bots", default=False)
    least_s = table.number("min_task_secs", MIN_TIME_S, MIN_TIME_S, 3_600)
    table.close()
    return policy, pause, math.ceil(least_s)


def _retention(table: Table) -> RetentionPolicy:
    base = RetentionPolicy()
    policy = RetentionPolicy(
        tasks_s=DAY_S * table.number("tasks_days", base.tasks_s / DAY_S, 8, 10 * _YEAR_S / DAY_S),
        events_s=DAY_S * table.number("bot_events_days", base.events_s / DAY_S, 1, 10 * _YEAR_S / DAY_S),
    )
    table.close()
    return policy


def _template(table: Table) -> str:
    template = table.text("display_server_url_template")
    if template and (not template.startswith(("http://", "https://")) or "%s" not in template):
        table.problem(
            "display_server_url_template", "display_server_url_template must be a URL with %s for the task id"
        )
    return template
