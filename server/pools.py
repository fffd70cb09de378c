"""Pools: which there are, who may schedule in them, and what their tasks get without asking.

Pure. Without a `pools.toml` every pool is open, as on the development server of 2020.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from msgspec.structs import replace

from isolate.cas.digest import SHA256
from isolate.errors import Refused
from server.templates import Deployment, Draw, read_choice, read_deployments, read_templates
from server.toml_reader import Table, TomlFile
from swarming.model import TaskRequest
from swarming.submission import TEMPLATE_TAG
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
    deployment: Deployment | None = None  # of what is added to tasks


@dataclass(frozen=True, slots=True)
class Pools:
    """All pools; None stands for "any"."""

    by_name: Mapping[str, Pool] | None = None
    revision: str = NO_REVISION

    def admit(self, request: TaskRequest, wish: str, draw: Draw) -> TaskRequest:
        """Return the request with what its pool adds; `wish` says which version of that, where there are two.

        Raises Refused when it must not be scheduled there, InvalidTask when it contradicts what is added.
        """
        found = dict(request.slices[0].properties.dimensions)
        if "pool" not in found and request.slices[0].properties.is_terminate:
            return replace(request, server_tags=(*request.server_tags, f"{TEMPLATE_TAG}no_pool"))
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
        request, version = _templated(request, pool.deployment, wish, draw)
        tolerance_s = request.bot_ping_tolerance_s
        return replace(
            request,
            priority=max(request.priority, pool.most_urgent),
            bot_ping_tolerance_s=pool.ping_tolerance_s if tolerance_s is None else tolerance_s,
            server_tags=(
                *request.server_tags,
                f"{TEMPLATE_TAG}{version}",
                f"swarming.pool.version:{self.revision}",
            ),
        )


def _templated(request: TaskRequest, deployment: Deployment | None, wish: str, draw: Draw) -> tuple[TaskRequest, str]:
    """Return the request with its template in every slice, and the name of the version that was."""
    if wish == "SKIP" or deployment is None:
        return request, "skip" if wish == "SKIP" else "none"
    version, template = deployment.choose(wish, draw)
    slices = tuple(replace(part, properties=template.applied(part.properties)) for part in request.slices)
    return replace(request, slices=slices), version


def read_pools(file: TomlFile, text: str) -> Pools:
    """Return the pools in `pools.toml`; problems are noted in `file`."""
    top = file.top()
    templates = read_templates(top)
    deployments = read_deployments(top, templates)
    pools: dict[str, Pool] = {}
    for table in top.tables("pool"):
        names = table.texts("names", needed="A pool needs names")
        pool = _pool(table, read_choice(table, templates, deployments))
        for name in names:
            if not is_dimension_value(name) or "|" in name:
                table.problem("names", f"{name!r} cannot be the name of a pool")
            if name in pools:
                table.problem("names", f"Pool {name!r} is there twice")
            pools[name] = pool
        table.close()
    top.close()
    return Pools(pools, SHA256.digest(text.encode()).hex()[:_REVISION_CHARS])


def _pool(table: Table, deployment: Deployment | None) -> Pool:
    tolerance_s = table.number("bot_ping_tolerance_secs", 0, 0, PING_TOLERANCE_S[1])
    if 0 < tolerance_s < PING_TOLERANCE_S[0]:
        table.problem("bot_ping_tolerance_secs", f"bot_ping_tolerance_secs is at least {PING_TOLERANCE_S[0]}")
    pool = Pool(
        schedulers=frozenset(table.texts("schedulers")),
        owners=table.texts("owners"),
        most_urgent=int(table.number("most_urgent_priority", 0, 0, MAX_PRIORITY)),
        ping_tolerance_s=int(tolerance_s) or None,
        deployment=deployment,
    )
    if not pool.schedulers:
        table.warn("Nobody may schedule in this pool: it has no schedulers; write schedulers = ['*'] for anybody")
    for one in pool.schedulers:
        if one != ANYBODY and ":" not in one:
            table.problem("schedulers", f"{one!r} is no identity: expected user:a@b, bot:name or {ANYBODY}")
    return pool
