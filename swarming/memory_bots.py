"""Bots and their events in memory: the part of the reference store that knows no task."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import msgspec
from msgspec.structs import replace

from isolate.errors import NotFound
from swarming.bots import BotEvent, BotInfo
from swarming.paging import MAX_PAGE, Page, T, decode_cursor, encode_cursor, fitting, listing_of


class MemoryBots:
    """Implements `store.BotStore`."""

    def __init__(self) -> None:
        self._bots: dict[str, BotInfo] = {}
        self._events: list[BotEvent] = []

    async def forget_events(self, before: float, limit: int) -> int:
        old = [event for event in self._events if event.at < before][:limit]
        self._events = [event for event in self._events if event not in old]
        return len(old)

    async def bots(self) -> list[BotInfo]:
        return [self._bots[bot_id] for bot_id in sorted(self._bots)]

    async def save_bots(self, bots: Sequence[BotInfo], events: Sequence[BotEvent] = ()) -> None:
        self._bots.update((bot.bot_id, bot) for bot in bots)
        self._events.extend(events)

    async def heard(self, seen_at: Mapping[str, float]) -> None:
        for bot_id in seen_at.keys() & self._bots.keys():
            self._bots[bot_id] = replace(self._bots[bot_id], last_seen_at=seen_at[bot_id])

    async def forget_bot(self, bot_id: str) -> None:
        if self._bots.pop(bot_id, None) is None:
            raise NotFound(f"Bot {bot_id!r} is not known")

    async def events(
        self, bot_id: str, start: float | None, end: float | None, cursor: str | None, limit: int
    ) -> Page[BotEvent]:
        found = [
            ((event.at, number), event)
            for number, event in enumerate(self._events, start=1)
            if event.bot_id == bot_id and (start is None or event.at >= start) and (end is None or event.at < end)
        ]
        listing = listing_of("event", (bot_id, start, end))
        return page_of(found, listing, cursor, limit, lambda event: len(msgspec.json.encode(event)))


def page_of(
    found: list[tuple[tuple[float, int], T]],
    kind: str,
    cursor: str | None,
    limit: int,
    size_of: Callable[[T], int] = lambda _: 0,
) -> Page[T]:
    """Return the items after `cursor`, highest key first, as many as fit."""
    place = decode_cursor(kind, cursor)
    limit = max(1, min(limit, MAX_PAGE))
    items = sorted((one for one in found if one[0] < place), key=lambda one: one[0], reverse=True)
    page = fitting(items[:limit], lambda one: size_of(one[1]))
    more = encode_cursor(kind, *page[-1][0]) if len(items) > len(page) else None
    return Page(tuple(item for _, item in page), more)
