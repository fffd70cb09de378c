"""The client's side of the scheduler's REST API: calls, paging, and what a result says.

Knows no command line and no output directory. A `ShardResult` keeps the server's JSON as it came, because users' tools
read it, and answers the questions our own code asks of it; no other client module knows a field of a result.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from urllib.parse import quote

from isolate.errors import InternalFailure, InvalidInput, NotFound, Refused
from isolate.http import HttpClient

API = "/_ah/api/swarming/v1"
PAGE_ITEMS = 250  # §7.6: what the client of 2020 asked for at a time
STATES_PER_CALL = 100  # 100 ids of 16 digits: a 2.5 kB URL, accepted by every proxy
STDOUT_PAGE_BYTES = 16_000 * 1024  # §1.6: the most a server of 2020 returns at once
MAX_CUT_BYTES = 3  # a page may be shorter by as much as a character that does not fit
UNFINISHED = frozenset({"PENDING", "RUNNING"})

Query = Mapping[str, str | Sequence[str]]


@dataclass(frozen=True, slots=True)
class OutputsRef:
    """Where the outputs of a task are: the hash of their manifest, its namespace, and the server that holds it."""

    isolated: str
    namespace: str
    server: str


@dataclass(frozen=True, slots=True)
class ShardResult:
    """One task's result: `raw` is the TaskResult of the REST API, untouched."""

    raw: Mapping[str, Any]

    @property
    def task_id(self) -> str:
        return str(self.raw["task_id"])

    @property
    def state(self) -> str:
        return str(self.raw["state"])

    @property
    def is_final(self) -> bool:
        return self.state not in UNFINISHED

    @property
    def bot_id(self) -> str | None:
        return self.raw.get("bot_id")

    @property
    def exit_code(self) -> int | None:
        """The exit status of the command, None when no process ran or it is still running."""
        value = self.raw.get("exit_code")
        return None if value is None else int(value)

    @property
    def duration_s(self) -> float | None:
        return self.raw.get("duration")

    @property
    def deduped_from(self) -> str | None:
        return self.raw.get("deduped_from")

    @property
    def pending_s(self) -> float | None:
        """How long it waited for a bot; None while it waits, and for a deduplicated task, which never did."""
        end = self.raw.get("started_ts")
        if self.state in {"BOT_DIED", "CANCELED", "EXPIRED", "NO_RESOURCE"}:
            end = self.raw.get("abandoned_ts", end)
        if end is None or self.deduped_from:
            return None
        # A task that joined the run of an equal one may be younger than that run.
        return max(0.0, _seconds(end) - _seconds(self.raw["created_ts"]))

    def check(self) -> None:
        """Raise whatever an answer raises, if one of them cannot be given."""
        _ = self.task_id, self.state, self.exit_code, self.pending_s, self.outputs

    @property
    def outputs(self) -> OutputsRef | None:
        """Where the files are that the task left behind."""
        found = self.raw.get("outputs_ref")
        if not found or not found.get("isolated"):
            return None
        return OutputsRef(found["isolated"], found["namespace"], found["isolatedserver"])


@dataclass(frozen=True, slots=True)
class Output:
    """A part of what a task printed, where the next one begins, and the state of the task."""

    text: str
    next_offset: int
    state: str


@dataclass(frozen=True, slots=True)
class Triggered:
    """The server's answer to a new task."""

    task_id: str
    priority: int
    state: str


@dataclass(frozen=True, slots=True)
class Cancelled:
    """Whether a task is or will be cancelled, and whether it was running."""

    ok: bool
    was_running: bool


class SwarmingClient:
    """Calls the scheduler of one server."""

    def __init__(self, http: HttpClient) -> None:
        self._http = http

    def url(self, method: str) -> str:
        """Return where a method is."""
        return f"{self._http.base_url}{API}/{method}"

    async def get(self, method: str, query: Query | None = None) -> Any:
        """GET one method, such as `bots/list`; returns the parsed reply.

        Raises Refused for what the server calls senseless: what a user typed was found good before.
        """
        try:
            return await self._call("GET", method, query=query)
        except InvalidInput as error:
            raise Refused(str(error), 400) from error

    async def new_task(self, body: Mapping[str, Any]) -> Triggered:
        """Create a task; safe to repeat, because the body carries its `request_uuid`."""
        reply = await self._call("POST", "tasks/new", body)
        return Triggered(reply["task_id"], int(reply["request"]["priority"]), reply["task_result"]["state"])

    async def cancel(self, task_id: str, *, kill_running: bool) -> Cancelled:
        """Cancel a task, one that runs only with `kill_running`."""
        reply = await self._call("POST", f"task/{_quoted(task_id)}/cancel", {"kill_running": kill_running})
        return Cancelled(bool(reply.get("ok")), bool(reply.get("was_running")))

    async def result(self, task_id: str, *, performance: bool = False) -> ShardResult:
        """Return a task's result; raises InternalFailure when the reply is none."""
        query = {"include_performance_stats": "true"} if performance else None
        method = f"task/{_quoted(task_id)}/result"
        result = ShardResult(await self.get(method, query))
        with _understood(method):
            result.check()
        return result

    async def request(self, task_id: str) -> dict[str, Any]:
        """Return what was asked for, as the server sends it."""
        reply: dict[str, Any] = await self.get(f"task/{_quoted(task_id)}/request")
        return reply

    async def stdout(self, task_id: str) -> str:
        """Return everything the task has printed so far; invalid UTF-8 is replaced by the server."""
        pieces: list[str] = []
        offset = 0
        while True:
            piece = await self.output(task_id, offset)
            pieces.append(piece.text)
            read_bytes, offset = piece.next_offset - offset, piece.next_offset
            if read_bytes < STDOUT_PAGE_BYTES - MAX_CUT_BYTES:
                return "".join(pieces)

    async def output(self, task_id: str, offset: int) -> Output:
        """Return what the task has printed from byte `offset` on, as much of it as the server gives at once."""
        query = {"offset": str(offset), "length": str(STDOUT_PAGE_BYTES)}
        method = f"task/{_quoted(task_id)}/stdout"
        reply = await self.get(method, query)
        with _understood(method):
            text = reply.get("output", "")
            after = offset + len(text.encode("utf-8", "surrogatepass"))  # right where nothing had to be replaced
            return Output(text, int(reply.get("next_offset", after)), str(reply["state"]))

    async def terminate(self, bot_id: str) -> str:
        """Ask a bot to end when it is idle; returns the id of the task that does it."""
        reply = await self._call("POST", f"bot/{_quoted(bot_id)}/terminate", {})
        return str(reply["task_id"])

    async def delete_bot(self, bot_id: str) -> bool:
        """Make the server forget a bot; returns whether it did."""
        reply = await self._call("POST", f"bot/{_quoted(bot_id)}/delete", {})
        return bool(reply.get("deleted"))

    async def post(self, method: str, body: bytes) -> bytes:
        """POST a text to one method, such as `tasks/new`; returns the reply as it comes."""
        headers = {"Content-Type": "application/json"}
        async with self._http.request("POST", f"{API}/{method}", data=body, headers=headers) as reply:
            return await reply.read()

    async def discovery(self, path: str) -> Any:
        """GET a description of the API, `path` being a whole one on this server."""
        return await self._http.json("GET", path)

    async def states(self, task_ids: Sequence[str]) -> dict[str, str]:
        """Return the state of each task that the server knows."""
        found: dict[str, str] = {}
        batches = [task_ids[start : start + STATES_PER_CALL] for start in range(0, len(task_ids), STATES_PER_CALL)]
        while batches:
            batch = batches.pop()
            try:
                reply = await self.get("tasks/get_states", {"task_id": batch})
            except NotFound:  # one of them is not known: the others are in the halves
                middle = len(batch) // 2
                batches += [batch[:middle], batch[middle:]] if middle else []
            else:
                with _understood("tasks/get_states"):
                    found.update(zip(batch, reply["states"], strict=True))
        return found

    async def items(self, method: str, query: Query, limit: int) -> AsyncIterator[dict[str, Any]]:
        """Yield up to `limit` items of a listing, following its cursor."""
        cursor: str | None = None
        while limit > 0:
            page = dict(query) | {"limit": str(min(limit, PAGE_ITEMS))}
            reply = await self.get(method, page | ({"cursor": cursor} if cursor else {}))
            for item in reply.get("items", ())[:limit]:
                limit -= 1
                yield item
            cursor = reply.get("cursor")
            if not cursor:
                return

    async def _call(self, verb: str, method: str, body: object = None, query: Query | None = None) -> Any:
        parameters = [
            (key, value)
            for key, values in (query or {}).items()
            for value in ([values] if isinstance(values, str) else values)
        ]
        reply = await self._http.json(verb, f"{API}/{method}", params=parameters, body=body)
        if not isinstance(reply, dict):
            raise InternalFailure(f"The server's reply to {method} is no JSON object")
        return reply


@contextmanager
def _understood(method: str) -> Iterator[None]:
    """Turn what comes of a reply without what we need into an error that names the method."""
    try:
        yield
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise InternalFailure(f"The server's reply to {method} lacks something: {error!r}") from error


def _quoted(text: str) -> str:
    """Return a word for a path; what is no UTF-8 comes as its bytes, for the server to refuse."""
    return quote(text, safe="", errors="surrogateescape")


def _seconds(timestamp: str) -> float:
    """Return a timestamp of the REST API (§1.2: UTC, no zone) in seconds since the epoch."""
    return datetime.fromisoformat(timestamp).replace(tzinfo=UTC).timestamp()
