"""How the pages spell times, durations, states and commands."""

from __future__ import annotations

import shlex
from collections.abc import Iterable
from datetime import UTC, datetime

from server.pages.html import MISSING, Html, join, link, tag
from swarming.bots import BotInfo
from swarming.model import FilesRef, Pairs, Task
from swarming.states import State

STATE_CLASSES = {
    State.PENDING: "warn",
    State.RUNNING: "warn",
    State.COMPLETED: "ok",
    State.CANCELED: "soft",
}


def when(epoch_s: float | None) -> Html | str:
    """Return a time, UTC; the exact one shows on hover."""
    if epoch_s is None:
        return MISSING
    exact = datetime.fromtimestamp(epoch_s, UTC)
    return tag("time", exact.strftime("%Y-%m-%d %H:%M:%S"), title=exact.isoformat(), datetime=exact.isoformat())


def lasting(duration_s: float | None) -> str:
    """Return a duration as `1h 3m 5s`; below a minute with a fraction."""
    if duration_s is None:
        return MISSING
    if duration_s < 60:
        return f"{duration_s:.1f}s"
    minutes, seconds = divmod(round(duration_s), 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    parts = ((days, "d"), (hours, "h"), (minutes, "m"), (seconds, "s"))
    return " ".join(f"{number}{unit}" for number, unit in parts if number)


def state(task: Task) -> Html:
    """Return the state of a task; a completed one says how."""
    text = task.state.name
    if task.state is State.COMPLETED:
        text += " (DEDUPED)" if task.deduped else " (FAILURE)" if task.failure else " (SUCCESS)"
    return tag("span", text, class_="bad" if task.failure else STATE_CLASSES.get(task.state, "bad"))


def bot_status(bot: BotInfo) -> Html:
    """Return whether a bot works, and if not, why."""
    if bot.is_dead:
        return tag("span", "dead", class_="bad")
    if bot.quarantined:
        return tag("span", f"quarantined: {bot.quarantined}", class_="bad")
    if bot.maintenance:
        return tag("span", f"maintenance: {bot.maintenance}", class_="warn")
    return tag("span", "busy" if bot.run_id else "idle", class_="ok")


def command_line(arguments: Iterable[str]) -> Html | str:
    """Return a command as one would type it."""
    text = shlex.join(arguments)
    return tag("code", text) if text else MISSING


def bot_link(bot_id: str | None) -> Html | str:
    """Return a link to the page of a bot."""
    return link(bot_id, "/bot", id=bot_id) if bot_id else MISSING


def task_link(task_id: str | None, text: str | None = None) -> Html | str:
    """Return a link to the page of a task or run."""
    return link(text or task_id, "/task", id=task_id) if task_id else MISSING


def dimensions(asked: Pairs) -> Html | str:
    """Return requested dimensions."""
    return join((tag("code", f"{key}:{value}") for key, value in asked), " ") if asked else MISSING


def tree(files: FilesRef | None) -> Html | str:
    """Return the name of a tree."""
    if files is None or files.isolated is None:
        return MISSING
    place = f" on {files.server}" if files.server else ""
    return join([tag("code", files.isolated), f" ({files.namespace}){place}"])
