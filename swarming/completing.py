"""What a shell is offered for task names, task ids and bot ids: those the server has.

The invariant: a completion never fails and never takes long; without an answer there is nothing to offer.
"""

from __future__ import annotations

from collections.abc import Iterable

import click

TIMEOUT_S = 2.0
NEWEST = 100  # tasks: what one is likely to type the name of


def tasks(ctx: click.Context, _parameter: click.Parameter, incomplete: str) -> list[str]:
    """Return names (without the part that counts shards) and ids of the newest tasks."""
    found: dict[str, None] = {}
    for item in _items(ctx, "tasks/list", NEWEST):
        name = str(item.get("name", ""))
        base, index, total = (*name.rsplit(":", 2), "", "")[:3]
        found[base if index.isdecimal() and total.isdecimal() else name] = None
        found[str(item.get("task_id", ""))] = None
    return _matching(found, incomplete)


def task_ids(ctx: click.Context, _parameter: click.Parameter, incomplete: str) -> list[str]:
    """Return ids of the newest tasks."""
    return _matching((str(item.get("task_id", "")) for item in _items(ctx, "tasks/list", NEWEST)), incomplete)


def bots(ctx: click.Context, _parameter: click.Parameter, incomplete: str) -> list[str]:
    """Return ids of bots."""
    return _matching((str(item.get("bot_id", "")) for item in _items(ctx, "bots/list", 1000)), incomplete)


def _matching(words: Iterable[str], incomplete: str) -> list[str]:
    return [word for word in words if word.startswith(incomplete) and word.isprintable()]  # shells read line by line


def _items(ctx: click.Context, method: str, limit: int) -> list[dict[str, object]]:
    import asyncio

    from isolate.http import HttpClient, RetryPolicy
    from swarming.client import API

    async def ask(server: str) -> list[dict[str, object]]:
        async with HttpClient(server, user_agent="completion", policy=RetryPolicy(attempts=1)) as http:
            reply = await http.json("GET", f"{API}/{method}", params={"limit": limit}, timeout_s=TIMEOUT_S)
            found: list[dict[str, object]] = reply.get("items", [])
            return found

    server = ctx.params.get("swarming")
    try:
        return asyncio.run(ask(server)) if server else []
    except Exception:  # noqa: BLE001 - whatever it is, a shell that waits for words has no use for it
        return []
