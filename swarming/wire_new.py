"""`tasks/new`: from the JSON of a client to a `TaskRequest` that obeys every rule.

Knows no scheduler. Normalises as 2020 does (dimensions, alternatives, caches and env sorted), puts in `default` what
names no pool, and writes a reference to this very server without its address, so that neither the port of today nor
the spelling of the host is part of a task.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field

from isolate.errors import InvalidInput, InvalidTask
from swarming import model, wire, wire_files, wire_in, wire_rules

TEMPLATES = ("AUTO", "CANARY_PREFER", "CANARY_NEVER", "SKIP")


@dataclass(frozen=True, slots=True)
class NewTask:
    """A decoded `tasks/new`."""

    request: model.TaskRequest
    evaluate_only: bool  # judge and answer, create nothing
    template: str  # one of TEMPLATES: which template of its pool it wants
    secret: bytes | None = field(default=None, repr=False)  # of all slices


def new_task(
    body: bytes, authenticated: str, own_servers: Collection[str] = (), least_s: int = wire_rules.MIN_TIME_S
) -> NewTask:
    """Return the request in `body`; raises InvalidTask.

    `own_servers` are the URLs that mean this server, `least_s` is the shortest time a task may ask for.
    """
    new = wire.decode(body, wire_in.NewTaskRequest)
    slices = wire_rules.check_request(new, least_s)
    parts = tuple(_slice(part, own_servers) for part in slices)
    if len({part.properties for part in parts}) != len(parts):  # as they are stored: what is left out has its default
        raise InvalidTask("cannot request duplicate task slice")
    template = wire.choice(new.pool_task_template, TEMPLATES, "pool_task_template", "AUTO")
    request = model.TaskRequest(
        name=new.name or "",
        priority=new.priority or 0,
        slices=parts,
        tags=tuple(new.tags or ()),
        user=new.user or "",
        authenticated=authenticated,
        parent_task_id=new.parent_task_id or None,
        service_account=new.service_account or "none",
        realm=new.realm or "",
        bot_ping_tolerance_s=new.bot_ping_tolerance_secs,
        request_uuid=(new.request_uuid or "").lower().replace("-", ""),
    )
    secret = wire_rules.secret_bytes(slices[0].properties or wire_in.Properties())
    return NewTask(request, bool(new.evaluate_only), template, secret)


def _slice(part: wire_in.Slice, own_servers: Collection[str]) -> model.TaskSlice:
    return model.TaskSlice(
        properties=_properties(part.properties or wire_in.Properties(), own_servers),
        expiration_s=part.expiration_secs or 0,
        wait_for_capacity=bool(part.wait_for_capacity),
    )


def _properties(sent: wire_in.Properties, own_servers: Collection[str]) -> model.TaskProperties:
    return model.TaskProperties(
        dimensions=_dimensions(sent),
        command=tuple(sent.command or ()),
        extra_args=tuple(sent.extra_args or ()),
        relative_cwd="" if sent.relative_cwd in {None, wire_rules.ROOT} else sent.relative_cwd or "",
        env=tuple(sorted((pair.key or "", pair.value or "") for pair in sent.env or ())),
        env_prefixes=tuple(sorted((pair.key or "", tuple(pair.value or ())) for pair in sent.env_prefixes or ())),
        execution_timeout_s=sent.execution_timeout_secs or 0,
        io_timeout_s=sent.io_timeout_secs or 0,
        grace_period_s=30 if sent.grace_period_secs is None else sent.grace_period_secs,
        idempotent=bool(sent.idempotent),
        inputs=files_ref(sent.inputs_ref, own_servers),
        outputs=tuple(sent.outputs or ()),
        caches=tuple(model.NamedCache(name, path) for name, path in _caches(sent)),
        containment=_containment(sent.containment),
        secret=model.secret_digest(wire_rules.secret_bytes(sent)),
    )


def files_ref(sent: wire_in.FilesRef | None, own_servers: Collection[str]) -> model.FilesRef | None:
    """Return a reference as the model keeps it; None when it says nothing."""
    if sent is None or not (sent.isolated or sent.isolatedserver or sent.namespace):
        return None
    server = (sent.isolatedserver or "").rstrip("/")
    return model.FilesRef(sent.isolated or None, "" if server in own_servers else server, wire_files.namespace_of(sent))


def _dimensions(sent: wire_in.Properties) -> model.Pairs:
    asked = sent.dimensions or []
    values = [(pair.key or "", "|".join(sorted(set((pair.value or "").split("|"))))) for pair in asked]
    if not wire_rules.is_terminate(sent) and all(key != "pool" for key, _ in values):
        values.append(("pool", wire_rules.DEFAULT_POOL))
    return tuple(sorted(values))


def _caches(sent: wire_in.Properties) -> list[tuple[str, str]]:
    return sorted((cache.name or "", cache.path or "") for cache in sent.caches or ())


def _containment(sent: wire_in.Containment | None) -> model.Containment:
    if sent is None:
        return model.Containment()
    try:
        kind = wire.choice(sent.containment_type, wire.CONTAINMENTS, "containment_type", "NOT_SPECIFIED")
    except InvalidInput as error:
        raise InvalidTask(str(error)) from error
    return model.Containment(
        lower_priority=bool(sent.lower_priority),
        containment_type=wire.CONTAINMENTS.index(kind),
        limit_processes=sent.limit_processes,
        limit_total_committed_memory=sent.limit_total_committed_memory,
    )
