"""From what a user asks for to the bodies of `tasks/new`, one for each shard.

Pure: no server, no clock, no environment. The rules are those of the command line of 2020: names and variables of
shards, earlier slices from optional dimensions, the default name; and the invariant is that every body differs from the
first only in its name, its shard variables and its `request_uuid`.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any

import msgspec

from isolate.errors import InvalidInput
from swarming.wire_in import (
    CacheEntry,
    Containment,
    FilesRef,
    NewTaskRequest,
    Pair,
    PairList,
    Properties,
    ResultDb,
    Slice,
)

DEFAULT_POOL = "default"
MAX_SHARDS = 20_000  # one for each machine of the largest fleet; more is a typing error
GRACE_PERIOD_S = 30  # not a flag in 2020 either
MIN_LAST_SLICE_S = 60
CIPD_PARTS = ("path", "package_name", "version")
SHARD_INDEX, TOTAL_SHARDS = "GTEST_SHARD_INDEX", "GTEST_TOTAL_SHARDS"
Pairs = tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class OptionalDimension:
    """A dimension that is insisted on only for the first `expiration_s` seconds."""

    key: str
    value: str
    expiration_s: int


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskSpec:
    """One task as the command line describes it; all durations in seconds."""

    name: str | None = None
    user: str | None = None
    isolated: str | None = None
    isolate_server: str | None = None
    namespace: str | None = None
    command: tuple[str, ...] = ()
    raw_command: bool = False
    relative_cwd: str | None = None
    dimensions: Pairs = ()
    optional_dimensions: tuple[OptionalDimension, ...] = ()
    env: Pairs = ()
    env_prefixes: Pairs = ()
    outputs: tuple[str, ...] = ()
    named_caches: Pairs = ()
    secret: str | None = field(default=None, repr=False)  # base64
    idempotent: bool = False
    wait_for_capacity: bool = False
    lower_priority: bool = False
    containment: str = "NONE"
    service_account: str | None = None
    pool_task_template: str = "AUTO"
    realm: str | None = None
    resultdb: bool = False
    cipd_packages: tuple[str, ...] = ()
    hard_timeout_s: int = 3600
    io_timeout_s: int = 1200
    expiration_s: int = 21600
    priority: int = 200
    tags: tuple[str, ...] = ()
    shards: int = 1
    parent_task_id: str = ""


@dataclass(frozen=True, slots=True)
class ShardRequest:
    """One body of `tasks/new`, with the name and place of its shard."""

    index: int
    name: str
    body: dict[str, Any]


def requests(spec: TaskSpec, new_uuid: Callable[[], str]) -> list[ShardRequest]:
    """Return the bodies to post, in order of their shards; raises InvalidInput for what no server would take."""
    _check(spec)
    name = spec.name or default_name(spec)
    if spec.shards == 1:
        spec, name = _one_of_several(spec, name)
        return [ShardRequest(0, name, _body(spec, name, new_uuid()))]
    found = []
    for index in range(spec.shards):
        shard_env = (*spec.env, (SHARD_INDEX, str(index)), (TOTAL_SHARDS, str(spec.shards)))
        shard_name = f"{name}:{index}:{spec.shards}"
        found.append(ShardRequest(index, shard_name, _body(replace(spec, env=shard_env), shard_name, new_uuid())))
    return found


def _one_of_several(spec: TaskSpec, name: str) -> tuple[TaskSpec, str]:
    """Return a task that was given the variables of a shard by hand, with the name and tags of one.

    2020 forgot the tags of shard 0; that is of no use to anybody.
    """
    env = dict(spec.env)
    index, total = env.get(SHARD_INDEX, ""), env.get(TOTAL_SHARDS, "")
    if not (index.isdecimal() and total.isdecimal() and int(total) > 1):
        return spec, name
    return replace(spec, tags=(*spec.tags, f"shard_index:{index}", f"total_shards:{total}")), f"{name}:{index}:{total}"


def unsharded(first: ShardRequest, name: str) -> dict[str, Any]:
    """Return the body of the first shard as it would be without shards (what `--dump-json` keeps)."""
    if first.name == name:
        return first.body
    slices = []
    for piece in first.body["task_slices"]:
        env = [pair for pair in piece["properties"].get("env", ()) if pair["key"] not in {SHARD_INDEX, TOTAL_SHARDS}]
        others = {key: value for key, value in piece["properties"].items() if key != "env"}
        slices.append({**piece, "properties": {**others, **({"env": env} if env else {})}})
    return {**first.body, "name": name, "task_slices": slices}


def default_name(spec: TaskSpec) -> str:
    """Return `<user>/<k=v_k=v…>[/<isolated>]`."""
    dimensions = "_".join(f"{key}={value}" for key, value in sorted(_with_pool(spec.dimensions)))
    return "/".join(part for part in (spec.user, dimensions, spec.isolated) if part)


def _check(spec: TaskSpec) -> None:
    if not spec.isolated and not spec.raw_command:
        raise InvalidInput("Specify at least one of --raw-cmd or --isolated or both")
    if spec.raw_command and not spec.command:
        raise InvalidInput("Arguments with --raw-cmd should be passed after -- as command delimiter")
    if spec.relative_cwd is not None:
        if not spec.raw_command:
            raise InvalidInput("--relative-cwd requires --raw-cmd")
        if spec.relative_cwd.startswith("/") or ".." in spec.relative_cwd.split("/"):
            raise InvalidInput("--relative-cwd must not try to escape the working directory")
    if any(package.count(":") != 2 or "" in package.split(":")[1:] for package in spec.cipd_packages):
        raise InvalidInput("CIPD packages must take the form: path:package:version")
    if spec.resultdb and not spec.realm:
        raise InvalidInput("--resultdb requires --realm")
    if any(":" not in tag for tag in spec.tags):
        raise InvalidInput("--tags must be in the format key:value")
    if not 1 <= spec.shards <= MAX_SHARDS:
        raise InvalidInput(f"--shards must be at least 1 and at most {MAX_SHARDS:,}, not {spec.shards:,}")
    if any(":" in key for key, _ in spec.dimensions) or any(":" in one.key for one in spec.optional_dimensions):
        raise InvalidInput('dimension key cannot contain ":"')
    _check_optional(spec.optional_dimensions)
    _check_texts(spec)


def _check_texts(spec: TaskSpec) -> None:
    """Refuse words that no JSON can carry, and names that would not stay on their line in a listing."""
    for one in fields(spec):
        for text in _texts(getattr(spec, one.name)):
            if not text.isascii() and any("\ud800" <= character <= "\udfff" for character in text):
                raise InvalidInput(f"{one.name.replace('_', ' ')}: {text!r} is not UTF-8")
    if spec.name and any(unicodedata.category(character) == "Cc" for character in spec.name):
        raise InvalidInput(f"The name of a task must be one line, and without control characters: {spec.name!r}")


def _texts(value: object) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, tuple):
        for one in value:
            yield from _texts(one)
    elif isinstance(value, OptionalDimension):
        yield from (value.key, value.value)


def _check_optional(dimensions: Sequence[OptionalDimension]) -> None:
    for optional in dimensions:
        if optional.expiration_s % 60:
            raise InvalidInput("optional-dimension expiration is not divisible by 60")
        if optional.expiration_s <= 0:
            raise InvalidInput(f"optional-dimension expiration must be at least 60, not {optional.expiration_s}")


def _body(spec: TaskSpec, name: str, request_uuid: str) -> dict[str, Any]:
    request = NewTaskRequest(
        name=name,
        parent_task_id=spec.parent_task_id,
        pool_task_template=spec.pool_task_template,
        priority=spec.priority,
        realm=spec.realm,
        request_uuid=request_uuid,
        resultdb=ResultDb(enable=True) if spec.resultdb else None,
        service_account=spec.service_account,
        tags=list(spec.tags),
        task_slices=_slices(spec),
        user=spec.user or "",
    )
    body: dict[str, Any] = msgspec.to_builtins(request)
    return body


def _slices(spec: TaskSpec) -> list[Slice]:
    """Return the slices: one for each optional expiration, ascending, then the one that asks for the least."""
    base = _with_pool(spec.dimensions)
    slices = []
    previous_s = 0
    # The more lasting first: what is insisted on for a shorter time replaces it while that lasts.
    lasting = sorted(spec.optional_dimensions, key=lambda optional: -optional.expiration_s)
    for expiration_s in sorted({optional.expiration_s for optional in spec.optional_dimensions}):
        wanted = base
        for optional in lasting:
            if optional.expiration_s >= expiration_s:
                wanted = _override(wanted, optional.key, optional.value)
        slices.append(_slice(spec, wanted, expiration_s - previous_s, wait=False))
        previous_s = expiration_s
    rest_s = max(spec.expiration_s - previous_s, MIN_LAST_SLICE_S) if previous_s else spec.expiration_s
    return [*slices, _slice(spec, base, rest_s, wait=spec.wait_for_capacity)]


def _override(dimensions: Pairs, key: str, value: str) -> Pairs:
    kept = dimensions if key == "caches" else tuple(pair for pair in dimensions if pair[0] != key)
    return (*kept, (key, value))


def _with_pool(dimensions: Pairs) -> Pairs:
    has_pool = any(key == "pool" for key, _ in dimensions)
    return dimensions if has_pool else (*dimensions, ("pool", DEFAULT_POOL))


def _slice(spec: TaskSpec, dimensions: Pairs, expiration_s: int, *, wait: bool) -> Slice:
    prefixes: dict[str, list[str]] = {}
    for key, path in spec.env_prefixes:
        prefixes.setdefault(key, []).append(path)
    inputs = None
    if spec.isolated:
        inputs = FilesRef(isolated=spec.isolated, isolatedserver=spec.isolate_server, namespace=spec.namespace)
    packages = [dict(zip(CIPD_PARTS, one.split(":"), strict=True)) for one in spec.cipd_packages]
    properties = Properties(
        cipd_input={"packages": packages} if packages else None,
        caches=[CacheEntry(name=name, path=path) for name, path in spec.named_caches] or None,
        command=list(spec.command) if spec.raw_command else None,
        containment=Containment(containment_type=spec.containment, lower_priority=spec.lower_priority),
        dimensions=[Pair(key=key, value=value) for key, value in sorted(dimensions)],
        env=_pairs(spec.env),
        env_prefixes=[PairList(key=key, value=paths) for key, paths in sorted(prefixes.items())] or None,
        execution_timeout_secs=spec.hard_timeout_s,
        extra_args=list(spec.command) if spec.command and not spec.raw_command else None,
        grace_period_secs=GRACE_PERIOD_S,
        idempotent=spec.idempotent,
        inputs_ref=inputs,
        io_timeout_secs=spec.io_timeout_s,
        outputs=list(spec.outputs) or None,
        relative_cwd=spec.relative_cwd,
        secret_bytes=spec.secret,
    )
    return Slice(expiration_secs=expiration_s, properties=properties, wait_for_capacity=wait)


def _pairs(pairs: Sequence[tuple[str, str]]) -> list[Pair] | None:
    return [Pair(key=key, value=value) for key, value in sorted(dict(pairs).items())] or None
