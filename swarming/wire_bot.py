"""What bots say and are told, as the bot API of 2020 spells it; the only addition is `update_every_s`.

Knows no route and no header: whoever has them passes the session in. A bot that describes itself badly is not refused
but quarantined (`BotHello.problem`), because only a bot that gets answers can be repaired; only a message without an
id, or one that is no JSON, raises InvalidInput.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Collection, Mapping
from typing import Any

import msgspec

from isolate.cas.digest import DEFAULT_NAMESPACE
from isolate.errors import InvalidInput
from swarming import bots, model, wire, wire_files, wire_in, wire_rules, wire_stats
from swarming.cache_hints import UNKNOWN
from swarming.wire_new import files_ref

GROUP_VERSION = "default"  # of the configuration of a group for which nobody wrote one
MAX_FIGURE = 1_000_000_000  # dollars or seconds: more can only be a mistake, and sums of it no numbers
HELLO_KEYS = {"dimensions", "state", "version"}
STATE_KEYS = {"running_time", "sleep_streak"}
_NOT_IN_IDS = frozenset("/\\<>|?#%")
EVENTS = ("bot_error", "bot_log", "bot_rebooting", "bot_shutdown")


class UpdateMessage(wire_in.Message, forbid_unknown_fields=True):
    """The body of `task_update`."""

    id: str | None = None
    task_id: str | None = None
    bot_overhead: float | None = None
    canceled: bool | None = None
    cas_output_root: dict[str, Any] | None = None
    cipd_pins: dict[str, Any] | None = None
    cipd_stats: dict[str, Any] | None = None
    cost_usd: float | None = None
    duration: float | None = None
    exit_code: wire_in.Int64 | None = None
    hard_timeout: bool | None = None
    io_timeout: bool | None = None
    isolated_stats: dict[str, Any] | None = None
    output: str | None = None
    output_chunk_start: wire_in.Int64 | None = None
    outputs_ref: wire_in.FilesRef | None = None


class ErrorMessage(wire_in.Message):
    """The body of `task_error`."""

    id: str | None = None
    message: str | None = None
    task_id: str | None = None


class TokenMessage(wire_in.Message):
    """The body of `oauth_token`."""

    account_id: str | None = None
    id: str | None = None
    scopes: list[str] | None = None
    task_id: str | None = None


def token_request(body: bytes) -> tuple[str, str | None]:
    """Return (bot id, run id) of who asks for a token, the run for that of a task only; raises InvalidInput."""
    said = wire.decode(body, TokenMessage)
    if said.account_id not in {"system", "task"}:
        raise InvalidInput(f"account_id must be 'system' or 'task', not {str(said.account_id)[:100]!r}")
    if not said.id or not said.scopes or (said.account_id == "task" and not said.task_id):
        raise InvalidInput("id and scopes are required, and task_id for the account of a task")
    return said.id, said.task_id or None


def json_object(body: bytes) -> dict[str, Any]:
    """Return the JSON object a bot sent; raises InvalidInput."""
    try:
        found = msgspec.json.decode(body)
    except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError) as error:
        raise InvalidInput(f"Invalid JSON body: {error}") from error
    if not isinstance(found, dict):
        raise InvalidInput("The body must be a JSON object")
    return found


def hello(
    said: Mapping[str, Any],
    *,
    session: str = "",
    external_ip: str = "",
    authenticated_as: str = "",
    also: Collection[str] = (),
) -> bots.BotHello:
    """Return what a bot says of itself; `also` names the keys its message has besides. Raises InvalidInput."""
    dimensions, state, version = said.get("dimensions"), said.get("state"), said.get("version")
    problem = _wrong_keys(said.keys() - set(also), HELLO_KEYS)
    if not isinstance(dimensions, Mapping) or not isinstance(state, Mapping) or not isinstance(version, str):
        problem = problem or "dimensions and state must be objects, version a string"
    described = dict(dimensions) if isinstance(dimensions, Mapping) else {}
    known_state = dict(state) if isinstance(state, Mapping) else {}
    own_wish = described.pop("quarantined", None) or known_state.get("quarantined")
    valid, wrong = _dimensions(described)
    lacking = STATE_KEYS - known_state.keys()
    problem = problem or wrong or (f"state lacks {', '.join(sorted(lacking))}" if lacking else "")
    problem = problem or _wrong_lease(known_state.get("lease_expiration_ts"))
    if not problem and own_wish:
        problem = own_wish if isinstance(own_wish, str) else "Bot self-quarantined"
    return bots.BotHello(
        bot_id=_bot_id(valid),
        session=session,
        dimensions=tuple(sorted({"pool": (wire_rules.DEFAULT_POOL,), **valid}.items())),
        state=known_state,
        version=version if isinstance(version, str) else "",
        external_ip=external_ip,
        authenticated_as=authenticated_as,
        problem=problem,
    )


def _wrong_lease(until: object) -> str:
    """Return what is wrong with when a bot says it vanishes: what cannot be read would cost it its task."""
    if until is None or (isinstance(until, int | float) and not isinstance(until, bool)):
        return ""
    return f"state.lease_expiration_ts must be seconds since the epoch, not {str(until)[:100]!r}"


def _bot_id(dimensions: Mapping[str, tuple[str, ...]]) -> str:
    ids = dimensions.get("id", ())
    if len(ids) != 1:
        raise InvalidInput("dimensions must have exactly one valid 'id'")
    if not _NOT_IN_IDS.isdisjoint(ids[0]):  # it names folders on the bot and stands in addresses of pages
        raise InvalidInput(f"Invalid bot id {ids[0][:100]!r}: it may not hold any of {' '.join(sorted(_NOT_IN_IDS))}")
    return ids[0]


def _dimensions(said: Mapping[str, Any]) -> tuple[dict[str, tuple[str, ...]], str]:
    """Return the dimensions that are valid, and what is wrong with the others."""
    valid: dict[str, tuple[str, ...]] = {}
    problem = ""
    for key, values in said.items():
        right = isinstance(values, list) and all(
            isinstance(value, str) and wire_rules.is_dimension_value(value) for value in values
        )
        if not wire_rules.is_dimension_key(key):
            problem = problem or f"Invalid dimension key {key[:100]!r}"
        elif not right or not values or len(set(values)) != len(values):
            problem = problem or f"Dimension {key!r} must be a list of distinct, non-empty, unpadded strings"
        else:
            valid[key] = tuple(values)
    return valid, problem


def _wrong_keys(found: Collection[str], expected: Collection[str]) -> str:
    missing, extra = sorted(set(expected) - set(found)), sorted(set(found) - set(expected))
    texts = [f"missing: {', '.join(missing)}"] * bool(missing) + [f"superfluous: {', '.join(extra)}"] * bool(extra)
    return f"Unexpected keys {'; '.join(texts)}; did you make a typo?" if texts else ""


def is_restart_due(said: bots.BotHello, current: str = GROUP_VERSION) -> bool:
    """Whether the bot works with a configuration of its group that is not the current one."""
    version = said.state.get("bot_group_cfg_version")
    return version is not None and version != current


def event(said: Mapping[str, Any]) -> tuple[str, str]:
    """Return (type, message) of an event; raises InvalidInput."""
    kind, message = said.get("event"), said.get("message")
    if kind not in EVENTS:
        raise InvalidInput(f"Unsupported event type: {str(kind)[:100]}")
    return str(kind), message if isinstance(message, str) else ""


def update(said: UpdateMessage, own_servers: Collection[str]) -> bots.TaskUpdate:
    """Return the report of a bot; raises InvalidInput."""
    if (said.exit_code is None) != (said.duration is None) and not said.canceled:
        raise InvalidInput(
            f"had unexpected duration; expected iff a command completes: exit_code={said.exit_code}, "
            f"duration={said.duration}"
        )
    if min(said.duration or 0, said.cost_usd or 0, said.bot_overhead or 0, said.output_chunk_start or 0) < 0:
        raise InvalidInput("duration, cost_usd, bot_overhead and output_chunk_start cannot be negative")
    if not max(said.duration or 0, said.cost_usd or 0, said.bot_overhead or 0) <= MAX_FIGURE:
        raise InvalidInput(f"duration, cost_usd and bot_overhead cannot be more than {MAX_FIGURE}")
    if said.isolated_stats is not None and said.bot_overhead is None:
        raise InvalidInput("isolated_stats require bot_overhead")
    if said.bot_overhead is not None and said.duration is None:
        raise InvalidInput("bot_overhead is expected with duration only")
    if said.outputs_ref is not None:
        wire_files.check_files_ref(said.outputs_ref)
    stats = {
        "bot_overhead": said.bot_overhead,
        "isolated_stats": wire_stats.isolated(said.isolated_stats),
        "cipd_stats": wire_stats.fitting(said.cipd_stats),
    }
    return bots.TaskUpdate(
        output=_output(said.output),
        output_start=said.output_chunk_start or 0,
        exit_code=said.exit_code,
        duration_s=said.duration,
        hard_timeout=bool(said.hard_timeout),
        io_timeout=bool(said.io_timeout),
        canceled=bool(said.canceled),
        cost_usd=said.cost_usd,
        outputs=files_ref(said.outputs_ref, own_servers),
        stats={key: value for key, value in stats.items() if value is not None} or None,
        cipd_pins=wire_stats.fitting(said.cipd_pins),
    )


def decode_update(body: bytes) -> UpdateMessage:
    """Return a `task_update`; raises InvalidInput, also for a key that is none of its."""
    try:
        return wire.decode(body, UpdateMessage)
    except InvalidInput:
        extra = _wrong_keys(json_object(body).keys() - set(UpdateMessage.__struct_fields__), ())
        if extra:
            raise InvalidInput(extra) from None
        raise


def _output(text: str | None) -> bytes:
    if not text:
        return b""
    try:
        return base64.b64decode("".join(text.split()), validate=True)
    except (binascii.Error, ValueError):
        return text.encode("utf-8", "surrogatepass")  # kept as it came, as in 2020: a log is worth more than a rule


def command(given: bots.Command, *, server_url: str, authenticated_as: str) -> dict[str, Any]:
    """Return the reply to a poll."""
    match given:
        case bots.Run():
            return {"cmd": "run", "manifest": manifest(given, server_url, authenticated_as)}
        case bots.Terminate(run_id):
            return {"cmd": "terminate", "task_id": run_id}
        case bots.Restart(message):
            return {"cmd": "restart", "message": message}
        case bots.Sleep(duration_s, quarantined):
            return {"cmd": "sleep", "duration": duration_s, "quarantined": quarantined}


def manifest(given: bots.Run, server_url: str, authenticated_as: str) -> dict[str, Any]:
    """Return what a bot is to run; a bot of 2020 refuses a key more or less."""
    wanted, attempt = given.execution.properties, given.attempt
    return {
        "task_id": attempt.run_id,
        "bot_id": attempt.bot_id,
        "bot_authenticated_as": authenticated_as,
        "host": server_url,
        "command": list(wanted.command) or None,
        "extra_args": list(wanted.extra_args) or None,
        "relative_cwd": wanted.relative_cwd or None,
        "dimensions": _by_key(wanted.dimensions),
        "env": dict(wanted.env),
        "env_prefixes": {key: list(paths) for key, paths in wanted.env_prefixes} or None,
        "caches": [
            {"name": cache.name, "path": cache.path, "hint": str(given.cache_bytes.get(cache.name, UNKNOWN))}
            for cache in wanted.caches
        ],
        "cipd_input": None,
        "containment": {
            "lower_priority": wanted.containment.lower_priority,
            "containment_type": wanted.containment.containment_type,
            "limit_processes": wanted.containment.limit_processes,
            "limit_total_committed_memory": wanted.containment.limit_total_committed_memory,
        },
        "grace_period": wanted.grace_period_s,
        "hard_timeout": wanted.execution_timeout_s,
        "io_timeout": wanted.io_timeout_s,
        "isolated": _isolated(wanted.inputs, server_url, has_session=bool(attempt.session)),
        "cas_input_root": None,
        "outputs": list(wanted.outputs),
        "secret_bytes": None if given.secret is None else base64.b64encode(given.secret).decode(),
        "realm": {},
        "resultdb": None,
        "service_accounts": {"system": {"service_account": "none"}, "task": {"service_account": "none"}},
    }


def _isolated(inputs: model.FilesRef | None, server_url: str, *, has_session: bool) -> dict[str, Any]:
    # Without inputs it still says where outputs go, in a namespace that the bot knows.
    found = inputs or model.FilesRef(None)
    default = DEFAULT_NAMESPACE if has_session else "default-gzip"
    return {"input": found.isolated, "namespace": found.namespace or default, "server": found.server or server_url}


def _by_key(dimensions: model.Pairs) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for key, value in dimensions:
        found.setdefault(key, []).append(value)
    return found
