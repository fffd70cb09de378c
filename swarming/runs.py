"""Runs of one bot, runs that a task left, and bots that are gone: what of their past is asked for. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from msgspec.structs import replace

from swarming.bots import BotEvent, BotInfo
from swarming.model import Attempt, Execution, Task
from swarming.paging import TaskQuery
from swarming.states import State
from swarming.store import RunRecord


def is_wanted_run(run: RunRecord, query: TaskQuery) -> bool:
    """Whether a run is one of those asked for; an offer is none."""
    made_at, state = run.execution.created_at, run.attempt.state
    return (
        (not query.states or state in query.states)
        and (query.failure is None or run.attempt.failure is query.failure)
        and not query.deduped  # a run is a run
        and (query.created_from is None or made_at >= query.created_from)
        and (query.created_to is None or made_at <= query.created_to)
        and state is not State.PENDING
    )


def is_before(run: RunRecord, query: TaskQuery) -> bool:
    """Whether a run is older than all that was asked for."""
    return query.created_from is not None and run.execution.created_at < query.created_from


def as_left(task: Task, execution: Execution | None) -> Execution | None:
    """Return an execution as `task` has it: with the tries until the task left it, for one that did.

    A try that went on for others is as it was then: without an ending and what it made. Its costs are theirs.
    """
    left_at = task.completed_at
    if execution is None or task.attached or task.deduped or left_at is None:
        return execution
    begun = (one for one in execution.attempts if one.started_at is not None and one.started_at <= left_at)
    return replace(execution, attempts=tuple(_until(one, left_at) for one in begun))


def _until(attempt: Attempt, left_at: float) -> Attempt:
    if attempt.completed_at is not None and attempt.completed_at <= left_at:
        return attempt
    return Attempt(
        run_id=attempt.run_id,
        try_number=attempt.try_number,
        bot_id=attempt.bot_id,
        session=attempt.session,
        bot_version=attempt.bot_version,
        bot_dimensions=attempt.bot_dimensions,
        state=State.RUNNING,
        offered_at=attempt.offered_at,
        started_at=attempt.started_at,
    )


def as_it_was(events: Sequence[BotEvent]) -> BotInfo:
    """Return a bot that is not known any more, as its last events have it, the newest first."""
    event = events[0]
    described = next((one for one in events if one.dimensions), event)  # those about tasks are kept small
    return BotInfo(
        bot_id=event.bot_id,
        dimensions=described.dimensions,
        state=described.state,
        version=event.version,
        external_ip=event.external_ip,
        authenticated_as=event.authenticated_as,
        first_seen_at=events[-1].at,
        last_seen_at=event.at,
        quarantined=event.quarantined,
        maintenance=event.maintenance,
        is_dead=True,
    )
