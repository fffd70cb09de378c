"""Query strings: from the parameters of the REST API to the queries of the scheduler.

Knows no route. A POST endpoint may have its parameters in the body or in the query; the body wins.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from isolate.errors import InvalidInput
from swarming import wire, wire_in
from swarming.bots import BotQuery
from swarming.paging import Sort, TaskQuery
from swarming.states import State

MAX_STDOUT_BYTES = 16_000 * 1024
MAX_STATES = 1_000  # ids of one get_states: more do not fit in a request line
CANCELED_AT_ONCE = 100  # tasks of one call; a client follows the cursor
_FAR = 2**62

_SORTS = {
    "CREATED_TS": Sort.CREATED,
    "MODIFIED_TS": Sort.MODIFIED,
    "COMPLETED_TS": Sort.COMPLETED,
    "ABANDONED_TS": Sort.ABANDONED,
    "STARTED_TS": Sort.STARTED,
}
# What a state of a query means beyond the state of that name.
_STATES: dict[str, dict[str, Any]] = {
    "ALL": {},
    "PENDING_RUNNING": {"states": frozenset({State.PENDING, State.RUNNING})},
    "COMPLETED_SUCCESS": {"states": frozenset({State.COMPLETED}), "failure": False},
    "COMPLETED_FAILURE": {"states": frozenset({State.COMPLETED}), "failure": True},
    "DEDUPED": {"states": frozenset({State.COMPLETED}), "deduped": True},
}


def task_query(query: wire.Query) -> TaskQuery:
    """Return which tasks are meant; raises InvalidInput."""
    state = wire.choice(wire.first(query, "state"), wire.STATE_QUERIES, "state", "ALL")
    sort = wire.choice(wire.first(query, "sort"), wire.SORTS, "sort", "CREATED_TS")
    start, end = wire.epoch_s(query, "start"), wire.epoch_s(query, "end")
    tags = tuple(wire.every(query, "tags"))
    if sort != "CREATED_TS" and (start is not None or end is not None or tags):
        raise InvalidInput("sort cannot be used with start, end or tags, except for CREATED_TS")
    check_tags(tags)
    meant = _STATES[state] if state in _STATES else {"states": frozenset({State[state]})}
    return TaskQuery(tags=tags, created_from=start, created_to=end, sort=_SORTS[sort], **meant)


def run_query(query: wire.Query) -> TaskQuery:
    """Return which runs of a bot are meant; raises InvalidInput. They have one order: a bot runs one after another."""
    return task_query([(key, value) for key, value in query if key != "tags"])


def check_tags(tags: Sequence[str]) -> None:
    """Raise InvalidInput for what is no tag."""
    for tag in tags:
        if ":" not in tag:
            raise InvalidInput(f"tags must be in key:value form, not {tag}")


def count_query(query: wire.Query) -> TaskQuery:
    """Return which tasks are to be counted; raises InvalidInput."""
    if wire.first(query, "start") is None:
        raise InvalidInput("start (as epoch) is required")
    return task_query(query)


def bot_query(query: wire.Query) -> BotQuery:
    """Return which bots are meant; raises InvalidInput. `is_mp` is accepted and ignored, as in 2020."""
    wire.three_state(query, "is_mp")
    return BotQuery(
        dimensions=wire.dimension_filter(wire.every(query, "dimensions")),
        quarantined=wire.three_state(query, "quarantined"),
        in_maintenance=wire.three_state(query, "in_maintenance"),
        is_dead=wire.three_state(query, "is_dead"),
        is_busy=wire.three_state(query, "is_busy"),
    )


def stdout_range(query: wire.Query) -> tuple[int, int]:
    """Return (offset, length) in bytes of the output asked for; raises InvalidInput."""
    offset = wire.integer(query, "offset", 0, 0, _FAR)
    length = wire.integer(query, "length", 0, 0, _FAR)
    return offset, min(length or MAX_STDOUT_BYTES, MAX_STDOUT_BYTES)


def cancel_request(body: bytes, query: wire.Query) -> bool:
    """Return whether one that runs is to be killed, which the body or the query says; raises InvalidInput."""
    asked = wire.decode(body, wire_in.CancelRequest)
    return wire.boolean(query, "kill_running") if asked.kill_running is None else asked.kill_running


def tasks_cancel_request(body: bytes, query: wire.Query) -> wire_in.TasksCancelRequest:
    """Return which tasks are to be cancelled; what the body does not say, the query may. Raises InvalidInput."""
    asked = wire.decode(body, wire_in.TasksCancelRequest)
    tags = asked.tags or wire.every(query, "tags")
    if not tags:
        raise InvalidInput("You must specify tags when cancelling multiple tasks.")
    check_tags(tags)
    limit = asked.limit
    if limit is None:
        limit = wire.integer(query, "limit", CANCELED_AT_ONCE, 1, wire.MAX_LIMIT)
    if not 1 <= limit <= wire.MAX_LIMIT:
        raise InvalidInput(f"Invalid value {limit} of limit: expected 1 to {wire.MAX_LIMIT}")
    kill_running = wire.boolean(query, "kill_running") if asked.kill_running is None else asked.kill_running
    return wire_in.TasksCancelRequest(asked.cursor or cursor(query), kill_running, limit, tags)


def cursor(query: wire.Query) -> str | None:
    """Return where a listing goes on."""
    return wire.first(query, "cursor")
