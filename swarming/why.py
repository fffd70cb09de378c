"""Why a task is pending, as the server says; what one that was pending too long asked for, set against the bots.

Pure. The invariant: whether a bot may take a task is the server's to say, and nothing here decides it again.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from swarming.listing import dimensions_of, status_of

GAVE_UP = {"NO_RESOURCE", "EXPIRED"}
MOST_NAMED = 5  # bots named in one line
Item = Mapping[str, Any]


def explain(result: Item, request: Item, bots: Sequence[Item]) -> Iterator[str]:
    """Yield lines for a user: the task, then slice by slice from the current one on what holds it up.

    For a task that no bot took in time they are which of the bots there are now have what it asked for.
    """
    state = result["state"]
    yield f"{result['task_id']} {result['name']}: {state}"
    if state != "PENDING" and state not in GAVE_UP:
        by = f": bot {result['bot_id']} took it" if result.get("bot_id") else ""
        yield f"  It is not pending{by}."
        return
    slices = request["task_slices"]
    current = int(result.get("current_task_slice", 0)) if state == "PENDING" else 0
    for number, piece in enumerate(slices[current:], current):
        wanted = [(pair["key"], pair["value"]) for pair in piece["properties"].get("dimensions", ())]
        name = f"Slice {number + 1} of {len(slices)}, " if len(slices) > 1 else ""
        waits = f"waits up to {piece['expiration_secs']} s"
        when = "wanted" if state in GAVE_UP else f"{waits} for" if number == current else f"comes later, {waits} for"
        listed = " ".join(f"{key}={value}" for key, value in wanted)
        if state in GAVE_UP:
            yield f"  {name}{when} a bot with {listed}:"
            yield f"    {_those_with(wanted, bots)}"
        elif number == current:
            yield f"  {name}{when} a bot with {listed}:"
            yield from _told(result.get("pending"))
        else:
            yield f"  {name}{when} a bot with {listed}"


def _told(pending: Item | None) -> Iterator[str]:
    """Yield what the server says."""
    if pending is None:
        yield "    the server does not say why"
        return
    yield f"    {pending['summary']}"
    named: dict[str, list[str]] = {}
    for bot in pending.get("bots", ()):
        named.setdefault(bot["reason"], []).append(bot["bot_id"])
    for reason in pending.get("reasons", ()):
        text = reason["reason"]
        yield f"    {reason['bots']} {text}{_named(named.get(text, []), int(reason['bots']))}"


def _those_with(wanted: Sequence[tuple[str, str]], bots: Sequence[Item]) -> str:
    if not bots:
        return "the server knows no bot at all"
    matching = [bot for bot in bots if all(_has(bot, *wish) for wish in wanted)]
    if not matching:
        return _nobody(wanted, bots)
    groups: dict[str, list[str]] = {}
    for bot in matching:
        groups.setdefault(status_of(bot), []).append(bot["bot_id"])
    said = [f"{len(found)} {status}{_named(found, len(found))}" for status, found in sorted(groups.items())]
    return f"{len(matching)} of {len(bots)} bots have all that now: {', '.join(said)}"


def _nobody(wanted: Sequence[tuple[str, str]], bots: Sequence[Item]) -> str:
    lacking = [f"{key}={value}" for key, value in wanted if not any(_has(bot, key, value) for bot in bots)]
    if lacking:
        return f"no bot has {' nor '.join(lacking)} ({len(bots)} known)"
    best = max(bots, key=lambda bot: sum(_has(bot, *wish) for wish in wanted))
    misses = " ".join(f"{key}={value}" for key, value in wanted if not _has(best, key, value))
    return f"no bot has all of it at once ({len(bots)} known); {best['bot_id']} comes closest, it lacks {misses}"


def _has(bot: Item, key: str, value: str) -> bool:
    return not set(value.split("|")).isdisjoint(dimensions_of(bot).get(key, ()))


def _named(bot_ids: Sequence[str], count: int) -> str:
    """Return the first of `count` bots in parentheses; not all of them need to be known."""
    few = bot_ids[:MOST_NAMED]
    more = f" and {count - len(few)} more" if count > len(few) else ""
    return f" ({', '.join(few)}{more})" if few else ""
