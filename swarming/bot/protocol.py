"""The bot API as a bot sees it: five calls, what they carry and what the answers mean.

The only module of the bot that knows keys, paths and headers. Knows no time and never retries: each call is made once
and raises what `isolate.http` raises, LeaseLost included. Answers become values that need no further checking.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

from isolate.errors import InvalidInput, Refused
from run_isolated.cgroups import NO_LIMITS, Limits

BASE = "/swarming/api/v1/bot/"
SESSION_HEADER = "X-Isolate-Session"  # our additions to the protocol of 2020: fencing,
WAIT_HEADER = "X-Isolate-Wait"  # and long polls
LONG_POLL_S = 28  # a server holds a poll for at most 30 s
CALL_TIMEOUT_S = 30.0
EVENTS = ("bot_error", "bot_log", "bot_rebooting", "bot_shutdown")
MAX_UPDATE_EVERY_S = 30.0  # whatever a server asks for: well below the 60 s after which a silent bot is dead

# Keys of a run manifest that this bot knows. The set is compared exactly, as in 2020: a key this bot has never heard of
# may be a condition it would break.
MANIFEST_KEYS = frozenset(
    {"task_id", "bot_id", "bot_authenticated_as", "host", "dimensions", "service_accounts", "realm", "resultdb"}
    | {"command", "extra_args", "relative_cwd", "env", "env_prefixes", "outputs", "secret_bytes", "containment"}
    | {"grace_period", "hard_timeout", "io_timeout", "isolated", "cas_input_root", "cipd_input", "caches"}
)
# What a task may ask for and this bot does not have. Running such a task without it would be a lie.
UNSUPPORTED = {
    "cipd_input": "CIPD packages",
    "cas_input_root": "inputs on a remote execution store",
    "resultdb": "ResultDB",
}


class Http(Protocol):
    """What is needed of `isolate.http.HttpClient`."""

    async def json(
        self,
        method: str,
        path: str,
        *,
        body: object = None,
        headers: Mapping[str, str] | None = None,
        timeout_s: float = 60,
        attempts: int | None = None,
    ) -> Any: ...


@dataclass(frozen=True, slots=True)
class Hello:
    """What a bot says of itself with every handshake, poll and event."""

    dimensions: Mapping[str, list[str]]
    state: Mapping[str, object]
    version: str

    def to_json(self) -> dict[str, object]:
        return {"dimensions": self.dimensions, "state": self.state, "version": self.version}


@dataclass(frozen=True, slots=True)
class Greeting:
    """The answer to a handshake."""

    server_version: str
    dimensions: Mapping[str, list[str]]  # imposed by the server
    group_version: str | None  # to be repeated in the state, so that the server sees when it is stale
    script: str | None = None  # the hooks of the administrator
    group_script: str | None = None  # and those for the group of this bot


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """One task to run. 0 for a time means no limit."""

    task_id: str
    command: tuple[str, ...]
    is_raw: bool  # `command` is the whole command; otherwise arguments for the command of the isolated tree
    relative_cwd: str
    env: Mapping[str, str]
    env_prefixes: Mapping[str, list[str]]
    isolated: str | None
    isolate_server: str | None
    namespace: str | None
    outputs: tuple[str, ...]
    secret_bytes: str | None  # base64
    hard_timeout_s: float
    io_timeout_s: float
    grace_period_s: float
    dimensions: Mapping[str, list[str]]  # that were asked for
    caches: tuple[tuple[str, str, int], ...] = ()  # name, path, and how large it will be, -1 when nobody knows
    lower_priority: bool = False
    limits: Limits = NO_LIMITS
    realm: str = ""


@dataclass(frozen=True, slots=True)
class Sleep:
    """Nothing to do: ask again after a while."""

    NAME: ClassVar = "sleep"
    duration_s: float
    quarantined: bool


@dataclass(frozen=True, slots=True)
class Run:
    """An offer of a task; it is ours once the first update was answered."""

    NAME: ClassVar = "run"
    manifest: Manifest


@dataclass(frozen=True, slots=True)
class Unfit:
    """An offer of a task that this bot cannot run."""

    NAME: ClassVar = "run"
    task_id: str
    reason: str


@dataclass(frozen=True, slots=True)
class Terminate:
    """Acknowledge this task and end."""

    NAME: ClassVar = "terminate"
    task_id: str


@dataclass(frozen=True, slots=True)
class Restart:
    """Start this program anew."""

    NAME: ClassVar = "bot_restart"
    message: str


@dataclass(frozen=True, slots=True)
class Reboot:
    """Restart the machine."""

    NAME: ClassVar = "host_reboot"
    message: str


@dataclass(frozen=True, slots=True)
class Update:
    """Become this version of the program."""

    NAME: ClassVar = "update"
    version: str


Command = Sleep | Run | Unfit | Terminate | Restart | Reboot | Update


@dataclass(frozen=True, slots=True)
class Updated:
    """The answer to an update: the lease is still ours."""

    must_stop: bool
    update_every_s: float | None  # None: the server leaves it to the bot


class BotApi:
    """The five calls, for one bot and one session of it; `credentials` are headers that may change with time."""

    def __init__(self, http: Http, bot_id: str, session: str, credentials: Mapping[str, str] | None = None) -> None:
        self._http, self._bot_id = http, bot_id
        self._credentials: Mapping[str, str] = {} if credentials is None else credentials
        self._headers = {SESSION_HEADER: session, "X-Luci-Swarming-Bot-ID": bot_id}

    async def handshake(self, hello: Hello) -> Greeting:
        """Introduce this bot; from here on it is capacity."""
        reply = _object(await self._call("handshake", hello.to_json()))
        group = _object(reply.get("bot_group_cfg") or {})
        imposed = _object(group.get("dimensions") or {})
        return Greeting(
            server_version=str(reply.get("server_version", "")),
            dimensions={str(key): [str(v) for v in values] for key, values in imposed.items()},
            group_version=reply.get("bot_group_cfg_version"),
            script=reply.get("bot_config") or None,
            group_script=reply.get("group_bot_config") or None,
        )

    async def poll(self, hello: Hello) -> Command:
        """Ask for something to do; the answer may take LONG_POLL_S."""
        waiting = {WAIT_HEADER: str(LONG_POLL_S)}
        return parse_command(await self._call("poll", hello.to_json(), LONG_POLL_S + CALL_TIMEOUT_S, waiting))

    async def event(self, hello: Hello, kind: str, message: str) -> None:
        """Tell something about the bot itself; `kind` is one of EVENTS."""
        await self._call("event", hello.to_json() | {"event": kind, "message": message})

    async def update(self, task_id: str, fields: Mapping[str, object]) -> Updated:
        """Tell how a task gets on. Repeating a call with the same fields changes nothing."""
        body = {"id": self._bot_id, "task_id": task_id, **fields}
        reply = _object(await self._call(f"task_update/{task_id}", body))
        every = reply.get("update_every_s")
        return Updated(
            must_stop=bool(reply.get("must_stop")),
            update_every_s=None if every is None else min(max(0.1, float(every)), MAX_UPDATE_EVERY_S),
        )

    async def fail(self, task_id: str, message: str) -> None:
        """Tell that a task could not be run for a reason that is not its own."""
        body = {"id": self._bot_id, "task_id": task_id, "message": message}
        await self._call(f"task_error/{task_id}", body)

    async def _call(
        self, name: str, body: object, timeout_s: float = CALL_TIMEOUT_S, extra: Mapping[str, str] | None = None
    ) -> Any:
        headers = {**self._credentials, **self._headers, **(extra or {})}
        return await self._http.json("POST", BASE + name, body=body, headers=headers, timeout_s=timeout_s, attempts=1)


def parse_command(reply: object) -> Command:
    """Return what a reply to a poll tells to do; raises Refused when it is none of the commands of the protocol."""
    fields = _object(reply)
    match fields.get("cmd"):
        case "sleep":
            return Sleep(max(0.0, float(fields.get("duration") or 0)), bool(fields.get("quarantined")))
        case "run":
            data = _object(fields.get("manifest"))
            try:
                return Run(parse_manifest(data))
            except InvalidInput as error:
                return Unfit(str(data.get("task_id", "")), str(error))
        case "terminate":
            return Terminate(str(fields.get("task_id", "")))
        case "bot_restart":
            return Restart(str(fields.get("message", "")))
        case "update":
            return Update(str(fields.get("version", "")))
        case "restart" | "host_reboot":
            return Reboot(str(fields.get("message", "")))
        case other:
            raise Refused(f"The server asks this bot for {other!r}, which it cannot do")


def parse_manifest(data: Mapping[str, Any]) -> Manifest:
    """Return the task a manifest describes; raises InvalidInput when this bot cannot do what it asks."""
    difference = sorted(MANIFEST_KEYS.symmetric_difference(data))
    if difference:
        raise InvalidInput(f"The manifest of the task has other keys than this bot knows: {', '.join(difference)}")
    for key, what in UNSUPPORTED.items():
        if data[key]:
            raise InvalidInput(f"This bot has no support for {what}")
    isolated, containment = data["isolated"] or {}, data["containment"] or {}
    return Manifest(
        task_id=str(data["task_id"]),
        command=tuple(data["command"] or data["extra_args"] or ()),
        is_raw=bool(data["command"]),
        relative_cwd=data["relative_cwd"] or "",
        env=dict(data["env"] or {}),
        env_prefixes=dict(data["env_prefixes"] or {}),
        isolated=isolated.get("input"),
        isolate_server=isolated.get("server"),
        namespace=isolated.get("namespace"),
        outputs=tuple(data["outputs"] or ()),
        secret_bytes="".join(data["secret_bytes"].split()) if data["secret_bytes"] else None,  # 2020 broke the lines
        hard_timeout_s=float(data["hard_timeout"] or 0),
        io_timeout_s=float(data["io_timeout"] or 0),
        grace_period_s=float(data["grace_period"] or 0),
        dimensions=dict(data["dimensions"] or {}),
        caches=tuple(_cache(cache) for cache in data["caches"] or ()),
        lower_priority=bool(containment.get("lower_priority")),
        limits=Limits(
            memory_bytes=int(containment.get("limit_total_committed_memory") or 0),
            processes=int(containment.get("limit_processes") or 0),
        ),
        realm=str((data["realm"] or {}).get("name") or ""),
    )


def _cache(entry: Mapping[str, Any]) -> tuple[str, str, int]:
    try:
        return str(entry["name"]), str(entry["path"]), int(entry.get("hint") or -1)
    except (KeyError, ValueError) as error:
        raise InvalidInput(f"{entry!r} is no named cache") from error


def _object(reply: object) -> dict[str, Any]:
    if not isinstance(reply, dict):
        raise Refused(f"The server answered {str(reply)[:80]!r} instead of an object: is this the address of a server?")
    return reply
