"""The REST API for clients as data: every call with its parameters and messages, in the words of 2020.

Knows no handler and no format of description: routes, discovery, OpenAPI and the fuzz test are made from this table, so
that none of them can tell a different story.
"""

from __future__ import annotations

from dataclasses import dataclass

from server.api_messages import ENUMS

PATH = "path"
QUERY = "query"


@dataclass(frozen=True, slots=True)
class Parameter:
    """A parameter: `kind` is string, bool, int64, float or the name of an enum."""

    name: str
    kind: str = "string"
    repeated: bool = False
    required: bool = False
    place: str = QUERY


@dataclass(frozen=True, slots=True)
class Call:
    """One call: `name` is `<resource>.<method>`, `path` is relative to the base of the API."""

    name: str
    method: str
    path: str
    summary: str
    parameters: tuple[Parameter, ...] = ()
    body: str | None = None
    reply: str = "Anything"

    @property
    def resource(self) -> str:
        """What the call is about."""
        return self.name.partition(".")[0]

    @property
    def all_parameters(self) -> tuple[Parameter, ...]:
        """Those of the path, then those of the query string."""
        names = [part[1:-1] for part in self.path.split("/") if part.startswith("{")]
        return (*(Parameter(name, required=True, place=PATH) for name in names), *self.parameters)


def _query(*declared: str) -> tuple[Parameter, ...]:
    """Return parameters from `name`, `name:kind`, `name:kind*` (repeated) and `name:kind!` (required)."""
    found = []
    for text in declared:
        name, _, kind = text.partition(":")
        found.append(
            Parameter(name, kind.rstrip("*!") or "string", repeated=kind.endswith("*"), required=kind.endswith("!"))
        )
    return tuple(found)


_PAGE = ("cursor", "limit:int64")
_TIMES = ("start:float", "end:float")
_FILTER = ("state:TaskStateQuery", "tags:string*")
_STATS = "include_performance_stats:bool"
_TASKS = _query(*_PAGE, *_TIMES, *_FILTER, "sort:TaskSort", _STATS)
_DIMENSIONS = "dimensions:string*"

CALLS = (
    Call("server.details", "GET", "server/details", "Versions and defaults of the server.", (), None, "ServerDetails"),
    Call(
        "server.permissions",
        "GET",
        "server/permissions",
        "What the caller may do.",
        _query("bot_id", "task_id", "tags:string*"),
        None,
        "ClientPermissions",
    ),
    Call("tasks.new", "POST", "tasks/new", "Make a task.", (), "NewTaskRequest", "TaskRequestMetadata"),
    Call("tasks.list", "GET", "tasks/list", "Results of tasks, newest first.", _TASKS, None, "TaskList"),
    Call("tasks.requests", "GET", "tasks/requests", "Requests of tasks, newest first.", _TASKS, None, "TaskRequests"),
    Call(
        "tasks.count",
        "GET",
        "tasks/count",
        "How many tasks match.",
        _query("start:float!", "end:float", *_FILTER),
        None,
        "TasksCount",
    ),
    Call(
        "tasks.get_states",
        "GET",
        "tasks/get_states",
        "States of tasks, in the order asked for.",
        _query("task_id:string*"),
        None,
        "TaskStates",
    ),
    Call(
        "tasks.cancel",
        "POST",
        "tasks/cancel",
        "Cancel the tasks that have all of some tags, a page at a time.",
        _query(*_PAGE, "kill_running:bool", "tags:string*"),
        "TasksCancelRequest",
        "TasksCancelResponse",
    ),
    Call("tasks.tags", "GET", "tasks/tags", "Tags of recent tasks.", (), None, "TasksTags"),
    Call(
        "task.result",
        "GET",
        "task/{task_id}/result",
        "Where a task or run stands; of one that waits also why.",
        _query(_STATS),
        None,
        "TaskResult",
    ),
    Call("task.request", "GET", "task/{task_id}/request", "What was asked for.", (), None, "TaskRequest"),
    Call(
        "task.stdout",
        "GET",
        "task/{task_id}/stdout",
        "What a task printed.",
        _query("offset:int64", "length:int64"),
        None,
        "TaskOutput",
    ),
    Call(
        "task.cancel",
        "POST",
        "task/{task_id}/cancel",
        "Cancel a task, or kill it; with the id of a run that is going on, for all tasks that share it.",
        _query("kill_running:bool"),
        "TaskCancelRequest",
        "CancelResponse",
    ),
    Call("queues.list", "GET", "queues/list", "Queues in use.", _query(*_PAGE), None, "TaskQueueList"),
    Call(
        "bots.list",
        "GET",
        "bots/list",
        "Bots by id.",
        _query(
            *_PAGE,
            _DIMENSIONS,
            "quarantined:ThreeStateBool",
            "in_maintenance:ThreeStateBool",
            "is_dead:ThreeStateBool",
            "is_busy:ThreeStateBool",
            "is_mp:ThreeStateBool",
        ),
        None,
        "BotList",
    ),
    Call("bots.count", "GET", "bots/count", "How many bots match.", _query(_DIMENSIONS), None, "BotsCount"),
    Call(
        "bots.dimensions",
        "GET",
        "bots/dimensions",
        "Every dimension of the bots, or of those of one pool.",
        _query("pool"),
        None,
        "BotsDimensions",
    ),
    Call("bot.get", "GET", "bot/{bot_id}/get", "What is known of a bot.", (), None, "BotInfo"),
    Call(
        "bot.tasks",
        "GET",
        "bot/{bot_id}/tasks",
        "Runs of a bot, newest first.",
        _query(*_PAGE, *_TIMES, "state:TaskStateQuery", "sort:TaskSort", _STATS),
        None,
        "TaskList",
    ),
    Call(
        "bot.events",
        "GET",
        "bot/{bot_id}/events",
        "What happened to a bot, newest first.",
        _query(*_PAGE, *_TIMES),
        None,
        "BotEvents",
    ),
    Call("bot.terminate", "POST", "bot/{bot_id}/terminate", "Ask a bot to leave.", (), None, "TerminateResponse"),
    Call("bot.delete", "POST", "bot/{bot_id}/delete", "Forget a bot.", (), None, "DeletedResponse"),
)

BOOTSTRAP_CALLS = (
    Call("server.token", "POST", "server/token", "What opens the bootstrap script.", (), None, "BootstrapToken"),
    Call(
        "server.get_bootstrap",
        "GET",
        "server/get_bootstrap",
        "The script that fetches and starts a bot.",
        (),
        None,
        "FileContent",
    ),
)

CONFIG_CALLS = (
    Call(
        "server.get_bot_config",
        "GET",
        "server/get_bot_config",
        "The hooks of all bots, or with `name` the script of a group.",
        _query("name"),
        None,
        "FileContent",
    ),
    Call(
        "server.put_bot_config",
        "POST",
        "server/put_bot_config",
        "Give bots other hooks.",
        (),
        "FileContentRequest",
        "FileContent",
    ),
)

ALL_CALLS = (*CALLS, *BOOTSTRAP_CALLS, *CONFIG_CALLS)

assert all(
    one.kind in {"string", "bool", "int64", "float", *ENUMS} for call in ALL_CALLS for one in call.all_parameters
)
