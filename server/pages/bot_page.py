"""The page of one bot."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence

from server.pages import spell
from server.pages.html import MISSING, facts, join, table, tag
from swarming.bots import BotEvent, BotInfo
from swarming.model import Attempt
from swarming.scheduler import TaskView


def body(bot: BotInfo, runs: Sequence[TaskView], events: Sequence[BotEvent]) -> Iterator[object]:
    """Yield the parts of the page."""
    yield facts(
        [
            ("Status", spell.bot_status(bot)),
            ("Task", spell.task_link(bot.run_id, bot.task_name or None)),
            ("Last seen (UTC)", spell.when(bot.last_seen_at)),
            ("First seen (UTC)", spell.when(bot.first_seen_at)),
            ("Version", bot.version),
            ("Address", bot.external_ip),
            ("Authenticated as", bot.authenticated_as),
        ]
    )
    yield tag("h2", "Dimensions")
    yield facts((key, join((tag("code", value) for value in values), " ")) for key, values in bot.dimensions)
    yield tag("h2", "Tasks")
    yield table(
        ("Task", "State", "Started (UTC)", "Duration", "Exit code"),
        ((None, _ran(view, view.attempt)) for view in runs if view.attempt is not None),
        "None yet.",
    )
    yield tag("h2", "Events")
    yield table(
        ("Time (UTC)", "Event", "Message", "Task"),
        (
            (None, (spell.when(event.at), event.event_type, event.message, spell.task_link(event.run_id)))
            for event in events
        ),
        "None yet.",
    )
    yield tag("h2", "State")
    yield tag("pre", json.dumps(bot.state, indent=2, sort_keys=True))


def _ran(view: TaskView, run: Attempt) -> tuple[object, ...]:
    return (
        spell.task_link(run.run_id, view.execution.task_name if view.execution is not None else None),
        run.state.name,
        spell.when(run.started_at),
        spell.lasting(run.duration_s),
        MISSING if run.exit_code is None else run.exit_code,
    )
