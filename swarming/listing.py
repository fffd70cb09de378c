"""Commands that list: bots, tasks, and whatever else the REST API has.

Knows no flags and no terminal; lines go through a `Screen`. The invariant: a listing is complete up to its limit,
however many pages it comes in.
"""

from __future__ import annotations

import json
import re
import textwrap
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any
from urllib.parse import parse_qs, urlsplit

from isolate.errors import InvalidInput, IsolateError, NotFound
from swarming import ids
from swarming.actions import Screen
from swarming.client import PAGE_ITEMS, SwarmingClient

MOST_BOTS = 1_000_000
DISCOVERY = "/_ah/api/discovery/v1/apis"
DESCRIPTION_WIDTH = 78
GAP = "  "  # between columns
LEAST_CELL = 12  # what is squeezed is not squeezed further
_IN_TABLE = ("task_id", "state", "name", "user", "bot_id", "created_ts", "duration")
_ALWAYS_SET = ("id",)  # of every bot: its own column already
Item = Mapping[str, Any]


async def query(client: SwarmingClient, method: str, limit: int, tick: Callable[[], None]) -> dict[str, Any]:
    """Return the reply of a GET method, with the items of all its pages up to `limit`; `tick` is called for each."""
    if limit < 1:
        raise InvalidInput(f"--limit must be at least 1, not {limit}")
    parts = urlsplit(method)
    path, arguments = parts.path.strip("/"), parse_qs(parts.query, keep_blank_values=True)
    try:
        reply: dict[str, Any] = await client.get(path, {**arguments, "limit": str(min(limit, PAGE_ITEMS))})
        tick()
        items = reply.get("items")
        while items is not None and reply.get("cursor") and len(items) < limit:
            page = {**arguments, "limit": str(min(limit - len(items), PAGE_ITEMS)), "cursor": reply["cursor"]}
            more = await client.get(path, page)
            tick()
            items.extend(more.get("items", []))
            reply["cursor"] = more.get("cursor")
    except IsolateError as error:
        raise IsolateError(f"Failed to access {client.url(method)}: {error}") from error
    if items is not None:
        reply.pop("cursor", None)
    return reply


async def query_list(client: SwarmingClient) -> dict[str, Any]:
    """Return, for each API of the server, its description as the server gives it; raises NotFound."""
    try:
        directory = await client.discovery(DISCOVERY)
        found = {}
        for item in directory["items"]:
            if item["id"] != "discovery:v1":
                found[item["id"]] = await client.discovery(urlsplit(item["discoveryRestUrl"]).path)
    except (NotFound, KeyError, TypeError) as error:
        raise NotFound("The server does not describe its API") from error
    return found


def described(apis: Mapping[str, Any], explorer: str) -> Iterator[str]:
    """Yield the lines that `query-list` prints."""
    for name, api in sorted(apis.items()):
        yield name
        yield f"  {str(api.get('description', '')).strip()}"
        for resource, content in sorted(api.get("resources", {}).items()):
            for method, facts in sorted(content.get("methods", {}).items()):
                if facts.get("httpMethod") == "GET":
                    yield f"- {resource}.{method}: {facts['path']}"
                    text = str(facts.get("description", "No description"))
                    yield from textwrap.wrap(text, DESCRIPTION_WIDTH, initial_indent="  ", subsequent_indent="  ")
                    yield f"  {explorer}/{name.partition(':')[0]}.{resource}.{method}"


async def bots(client: SwarmingClient, wanted: Mapping[str, str | Sequence[str]]) -> list[Item]:
    """Return the bots that are wanted, by id, numbers in it in their order."""
    found = [bot async for bot in client.items("bots/list", wanted, MOST_BOTS)]
    return sorted(found, key=lambda bot: natural_key(bot["bot_id"]))


def show_bots(found: Sequence[Item], screen: Screen, *, bare: bool) -> None:
    """Print bots, each with its dimensions and its task unless `bare` (§7.6)."""
    for bot in found:
        screen.out(bot["bot_id"])
        if not bare:
            screen.out(f"  {json.dumps(dimensions_of(bot), sort_keys=True)}")
            if task_id := task_of(bot):
                screen.out(f"  task: {task_id}")


def bots_table(found: Sequence[Item], width: int | None = None) -> list[str]:
    """Return bots as lines of a table, which wraps their dimensions where a screen has only `width` columns."""
    rows = [("BOT", "STATUS", "TASK", "DIMENSIONS")]
    for bot in found:
        listed = dimensions_of(bot).items()
        words = (f"{key}={','.join(values)}" for key, values in sorted(listed) if key not in _ALWAYS_SET)
        rows.append((bot["bot_id"], status_of(bot), task_of(bot), " ".join(words)))
    return _wrapped(rows, width) if width else columns(rows)


def tasks_table(found: Sequence[Item], width: int | None = None) -> list[str]:
    """Return tasks as lines of a table, with shorter names where a screen has only `width` columns."""
    rows = [("TASK", "STATE", "NAME", "USER", "BOT", "CREATED (UTC)", "SECONDS")]
    for task in found:
        cells = [str(task.get(key, "")) for key in _IN_TABLE]
        if task["state"] == "COMPLETED":
            cells[1] = "DEDUPED" if task.get("deduped_from") else f"EXIT {task.get('exit_code', '?')}"
        cells[5] = cells[5].partition(".")[0].replace("T", " ")
        cells[6] = f"{task['duration']:.1f}" if "duration" in task else ""
        rows.append(tuple(cells))  # type: ignore[arg-type]
    return columns(_shortened(rows, width) if width else rows)


def _wrapped(rows: Sequence[Sequence[str]], width: int) -> list[str]:
    """Return rows as lines, the last cell of each continued below itself."""
    taken = sum(max(map(len, column)) + len(GAP) for column in list(zip(*rows, strict=True))[:-1])
    continued: list[Sequence[str]] = []
    for *cells, last in rows:
        first, *rest = textwrap.wrap(last, max(width - taken, LEAST_CELL), break_long_words=False) or [""]
        continued.append((*cells, first))
        continued += [(*("" for _ in cells), more) for more in rest]
    return columns(continued)


def _shortened(rows: Sequence[Sequence[str]], width: int) -> list[Sequence[str]]:
    """Return rows whose names, in their third cells, leave room for the rest."""
    over = sum(max(map(len, column)) + len(GAP) for column in zip(*rows, strict=True)) - len(GAP) - width
    room = max(max(len(row[2]) for row in rows) - max(over, 0), LEAST_CELL)
    return [(*row[:2], row[2] if len(row[2]) <= room else f"{row[2][: room - 1]}…", *row[3:]) for row in rows]


def columns(rows: Sequence[Sequence[str]]) -> list[str]:
    """Return rows as lines, their cells below each other; what would not stay in its cell is shown as U+FFFD."""
    shown = [["".join(one if one.isprintable() else "\ufffd" for one in cell) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*shown, strict=True)]
    return [GAP.join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in shown]


def status_of(bot: Item) -> str:
    """Return in a word what a bot is."""
    if bot.get("is_dead"):
        return "dead"
    if bot.get("quarantined"):
        return "quarantined"
    if bot.get("maintenance_msg"):
        return "maintenance"
    return "busy" if bot.get("task_id") else "idle"


def task_of(bot: Item) -> str:
    """Return the id of the task a bot runs, as `trigger` printed it, or nothing; the bot itself has that of the run."""
    run_id = str(bot.get("task_id") or "")
    try:
        return ids.task_id(run_id)
    except InvalidInput:
        return run_id


def dimensions_of(bot: Item) -> dict[str, list[str]]:
    """Return a bot's dimensions."""
    return {pair["key"]: pair.get("value", []) for pair in bot.get("dimensions", ())}


def natural_key(text: str) -> list[tuple[int, str]]:
    """Return a key that sorts `bot10` after `bot9`."""
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in re.split(r"(\d+)", text)]
