"""Runs of one bot, and bots that are gone: what of their past is asked for. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from swarming.bots import BotEvent, BotInfo
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
