"""Why a task is pending, or was until it was too late: what it asks for, set against the bots there are.

Pure. The invariant: a reason is given only where the facts that were passed in show it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from swarming.listing import dimensions_of, status_of

WAITED = {"PENDING", "NO_RESOURCE", "EXPIRED"}
MOST_NAMED = 5  # bots named in one line
Item = Mapping[str, Any]


def explain(result: Item, request: Item, bots: Sequence[Item]) -> Iterator[str]:
    """Yield lines for a user: the task, then what holds it up, slice by slice from the current one on.

    For a task that no bot took in time they are what would hold it up now.
    """
    state = result["state"]
    yield f"{result['task_id']} {result['name']}: {state}"
    if state not in WAITED:
        by = f": bot {result['bot_id']} took it" if result.get("bot_id") else ""
        yield f"  It is not pending{by}."
        return
    slices = request["task_slices"]
    current = int(result.get("current_task_slice", 0)) if state == "PENDING" else 0
    for number, piece in enumerate(slices[current:], current):
        wanted = [(pair["key"], pair["value"]) for pair in piece["properties"].get("dimensions", ())]
        name = f"Slice {number + 1} of {len(slices)}, " if len(slices) > 1 else ""
        waits = f"waits up to {piece['expiration_secs']} s"
        when = "wanted" if state != "PENDING" else f"{waits} for" if number == current else f"comes later, {waits} for"
        listed = " ".join(f"{key}={value}" for key, value in wanted)
        yield f"  {name}{when} a bot with {listed}:"
        yield f"    {_reason(wanted, bots)}"


def _reason(wanted: Sequence[tuple[str, str]], bots: Sequence[Item]) -> str:
    if not bots:
        return "the server knows no bot at all"
    matching = [bot for bot in bots if all(_has(bot, *wish) for wish in wanted)]
    if not matching:
        return _nobody(wanted, bots)
    idle = [bot for bot in matching if status_of(bot) == "idle"]
    if idle:
        return f"{_named(idle)} could take it and {'is' if len(idle) == 1 else 'are'} idle: any moment now"
    groups: dict[str, list[Item]] = {}
    for bot in matching:
        groups.setdefault(status_of(bot), []).append(bot)
    said = [f"{len(found)} {status} ({_named(found)})" for status, found in sorted(groups.items())]
    return f"{len(matching)} of {len(bots)} bots have all that, none is free: {', '.join(said)}"


def _nobody(wanted: Sequence[tuple[str, str]], bots: Sequence[Item]) -> str:
    lacking = [f"{key}={value}" for key, value in wanted if not any(_has(bot, key, value) for bot in bots)]
    if lacking:
        return f"no bot has {' nor '.join(lacking)} ({len(bots)} known)"
    best = max(bots, key=lambda bot: sum(_has(bot, *wish) for wish in wanted))
    misses = " ".join(f"{key}={value}" for key, value in wanted if not _has(best, key, value))
    return f"no bot has all of it at once ({len(bots)} known); {best['bot_id']} comes closest, it lacks {misses}"


def _has(bot: Item, key: str, value: str) -> bool:
    return not set(value.split("|")).isdisjoint(dimensions_of(bot).get(key, ()))


def _named(bots: Sequence[Item]) -> str:
    names = [f"{bot['bot_id']} with {bot['task_id']}" if bot.get("task_id") else bot["bot_id"] for bot in bots]
    more = len(names) - MOST_NAMED
    return ", ".join(names[:MOST_NAMED]) + (f" and {more} more" if more > 0 else "")
