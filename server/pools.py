"""Pools: which there are, who may schedule in them, and what their tasks get without asking.

Pure. Without a `pools.toml` every pool is open, as on the development server of 2020.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from msgspec.structs import replace

from isolate.cas.digest import SHA256
from isolate.errors import Refused
from server.toml_reader import TomlFile
from swarming.model import TaskRequest
from swarming.wire_rules import DEFAULT_POOL, PING_TOLERANCE_S, is_dimension_value

NO_REVISION = "pools_cfg_rev"  # 2020's word for "there is no file"
ANYBODY = "*"
MAX_PRIORITY = 255
_REVISION_CHARS = 40


@dataclass(frozen=True, slots=True, kw_only=True)
class Pool:
    """One pool."""

    schedulers: frozenset[str] = frozenset({ANYBODY})  # identities, as user:a@b
    owners: tuple[str, ...] = ()
    most_urgent: int = 0  # a more urgent priority is lowered to this
    ping_tolerance_s: int | None = None  # of tasks that name none


@dataclass(frozen=True, slots=True)
class Pools:
    """All pools; None stands for "any"."""

    by_name: Mapping[str, Pool] | None = None
    revision: str = NO_REVISION

    def admit(self, request: TaskRequest, template: str = "AUTO") -> TaskRequest:
        """Return the request with what its pool adds; raises Refused when it must not be scheduled there."""
        found = dict(request.slices[0].properties.dimensions)
        if "pool" not in found and request.slices[0].properties.is_terminate:
            return request
        name, pool = found.get("pool", DEFAULT_POOL), Pool()
        if self.by_name is not None:
            known = self.by_name.get(name)
            if known is None:
                raise Refused(f'Can\'t submit tasks to pool "{name}", not defined in pools.toml')
            if not {ANYBODY, request.authenticated} & known.schedulers:
                raise Refused(
                    f'User "{request.authenticated}" is not allowed to schedule tasks in the pool "{name}", see '
                    "pools.toml"
                )
            pool = known
        tolerance_s = request.bot_ping_tolerance_s
        return replace(
            request,
            priority=max(request.priority, pool.most_urgent),
            bot_ping_tolerance_s=pool.ping_tolerance_s if tolerance_s is None else tolerance_s,
            server_tags=(
                *request.server_tags,
                f"swarming.pool.template:{'skip' if template == 'SKIP' else 'none'}",  # pools have no templates
                f"swarming.pool.version:{self.revision}",
            ),
        )


def read_pools(file: TomlFile, text: str) -> Pools:
    """Return the pools in `pools.toml`; problems are noted in `file`."""
    top = file.top()
    pools: dict[str, Pool] = {}
    for table in top.tables("pool"):
        names = table.texts("names")
        tolerance_s = table.number("bot_ping_tolerance_secs", 0, 0, PING_TOLERANCE_S[1])
        if 0 < tolerance_s < PING_TOLERANCE_S[0]:
            table.problem("bot_ping_tolerance_secs", f"bot_ping_tolerance_secs is at least {PING_TOLERANCE_S[0]}")
        pool = Pool(
            schedulers=frozenset(table.texts("schedulers")),
            owners=table.texts("owners"),
            most_urgent=int(table.number("most_urgent_priority", 0, 0, MAX_PRIORITY)),
            ping_tolerance_s=int(tolerance_s) or None,
        )
        if not pool.schedulers:
            table.warn("Nobody may schedule in this pool: it has no schedulers; write schedulers = ['*'] for anybody")
        for one in pool.schedulers:
            if one != ANYBODY and ":" not in one:
                table.problem("schedulers", f"{one!r} is no identity: expected user:a@b, bot:name or {ANYBODY}")
        if not names:
            table.problem("", "A pool needs names")
        for name in names:
            if not is_dimension_value(name) or "|" in name:
                table.problem("names", f"{name!r} cannot be the name of a pool")
            if name in pools:
                table.problem("names", f"Pool {name!r} is there twice")
            pools[name] = pool
        table.close()
    top.close()
    return Pools(pools, SHA256.digest(text.encode()).hex()[:_REVISION_CHARS])
