"""Bots and their events in the database of the task store."""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping, Sequence
from math import inf

import msgspec
from msgspec.structs import replace

from isolate.errors import NotFound
from server.stores.task_rows import SQL
from server.stores.writer import Database
from swarming.bots import BotEvent, BotInfo
from swarming.paging import MAX_PAGE, Page, decode_cursor, encode_cursor, fitting, listing_of

_encode = msgspec.json.Encoder().encode
_bot = msgspec.json.Decoder(BotInfo)
_event = msgspec.json.Decoder(BotEvent)


class SqliteBots:
    """Implements `swarming.store.BotStore` on the database of `SqliteTaskStore`."""

    _database: Database

    async def bots(self) -> list[BotInfo]:
        rows = await self._database.read(lambda db: db.execute(SQL["get_bots"]).fetchall())
        return [replace(_bot.decode(body), last_seen_at=seen_at) for seen_at, body in rows]

    async def save_bots(self, bots: Sequence[BotInfo], events: Sequence[BotEvent] = ()) -> None:
        def write(db: sqlite3.Connection) -> None:
            db.executemany(SQL["save_bot"], [(bot.bot_id, bot.last_seen_at, _encode(bot)) for bot in bots])
            db.executemany(SQL["insert_event"], [(event.bot_id, event.at, _encode(event)) for event in events])

        await self._database.write(write)

    async def heard(self, seen_at: Mapping[str, float]) -> None:
        rows = [(at, bot_id) for bot_id, at in seen_at.items()]
        await self._database.write(lambda db: db.executemany(SQL["hear_bot"], rows) and None)

    async def forget_bot(self, bot_id: str) -> None:
        def write(db: sqlite3.Connection) -> None:
            if not db.execute(SQL["forget_bot"], (bot_id,)).rowcount:
                raise NotFound(f"Bot {bot_id!r} is not known")

        await self._database.write(write)

    async def events(
        self, bot_id: str, start: float | None, end: float | None, cursor: str | None, limit: int
    ) -> Page[BotEvent]:
        limit = max(1, min(limit, MAX_PAGE))
        listing = listing_of("event", (bot_id, start, end))
        time, number = decode_cursor(listing, cursor)
        wish = {
            "bot_id": bot_id,
            "start": -inf if start is None else start,
            "end": inf if end is None else end,
            "time": time,
            "number": number,
            "limit": limit + 1,
        }
        rows = await self._database.read(lambda db: db.execute(SQL["events"], wish).fetchall())
        page = fitting(rows[:limit], lambda row: len(row[2]))
        more = encode_cursor(listing, page[-1][1], page[-1][0]) if len(rows) > len(page) else None
        return Page(tuple(_event.decode(body) for _, _, body in page), more)
