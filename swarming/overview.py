"""What people ask about all of it: tags in use, queues, dimensions, why one waits, and cancelling by tags.

Knows no route. Answers that look at many things are kept for a moment, so that a page that many have open costs little.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable
from dataclasses import dataclass

import msgspec

from isolate.errors import NotFound
from swarming import matching, pending
from swarming.bots import BotCount, BotInfo, BotQuery
from swarming.ledger import Ledger
from swarming.model import Execution, Pairs
from swarming.paging import MAX_PAGE, Page, TaskQuery, decode_text_cursor, encode_text_cursor, fitting, listing_of
from swarming.states import State

RECENT_TASKS = 2 * MAX_PAGE  # whose tags are listed
MAX_TAG_VALUES = 128  # a key with so many is listed without them, as in 2020
TAGS_KEPT_S = 60.0
MAX_AHEAD = 10_000  # counted in a millisecond
KEPT_S_PER_BOT = 0.001  # an explanation of why a task waits looks at every bot
MAX_EXPLAINED = 1_000  # explanations kept at a time


@dataclass(frozen=True, slots=True)
class Aggregate:
    """Values by key, and when that was so."""

    values: tuple[tuple[str, tuple[str, ...]], ...]
    at: float


class Overview:
    """Looks at everything a ledger has."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._tags: tuple[float, Aggregate] | None = None  # with the monotonic time of it
        self._explained: dict[str, tuple[float, pending.Pending]] = {}
        self._limits = pending.Limits()

    def configure(self, limits: pending.Limits) -> None:
        """Explain by other settings from now on."""
        self._limits = limits
        self._explained.clear()

    async def tags(self) -> Aggregate:
        """Return the tags of recent tasks."""
        now_s = self._ledger.clock.monotonic()
        if self._tags is None or now_s - self._tags[0] >= TAGS_KEPT_S:
            self._tags = now_s, await self._recent_tags()
        return self._tags[1]

    async def _recent_tags(self) -> Aggregate:
        found: dict[str, set[str]] = {}
        cursor, left = None, RECENT_TASKS
        while left > 0:
            page = await self._ledger.store.search(TaskQuery(), cursor, min(left, MAX_PAGE))
            for record in page.items:
                for tag in record.task.request.tags:
                    key, _, value = tag.partition(":")
                    found.setdefault(key, set()).add(value)
            cursor, left = page.cursor, left - MAX_PAGE
            if cursor is None:
                break
        listed = {key: values if len(values) < MAX_TAG_VALUES else set[str]() for key, values in found.items()}
        return Aggregate(_sorted(listed.items()), self._ledger.clock.now())

    def dimensions(self, pool: str | None) -> Aggregate:
        """Return the dimensions of all bots, or those of one pool; raises NotFound where there are no bots."""
        found: dict[str, set[str]] = {}
        members = 0
        for seat in self._ledger.fleet:
            if pool is None or pool in seat.traits.get("pool", ()):
                members += 1
                for key, values in seat.info.dimensions:
                    found.setdefault(key, set()).update(values)
        if not members:
            raise NotFound("No bot has come yet" if pool is None else f"No bot is in pool {pool!r}")
        found.pop("id", None)
        return Aggregate(_sorted(found.items()), self._ledger.clock.now())

    def queues(self, cursor: str | None, limit: int) -> Page[Pairs]:
        """Return the dimensions of every queue in use, but not those of terminations."""
        keys = [one for one in self._ledger.fleet.queues() if [k for k, _ in matching.dimensions(one)] != ["id"]]
        start = 0 if cursor is None else bisect_right(keys, decode_text_cursor("queue", cursor))
        page = keys[start : start + max(1, min(limit, MAX_PAGE))]
        more = start + len(page) < len(keys)
        return Page(
            tuple(matching.dimensions(one) for one in page), encode_text_cursor("queue", page[-1]) if more else None
        )

    def bots(self, query: BotQuery, cursor: str | None, limit: int) -> Page[BotInfo]:
        """Return the bots that match, by id; raises InvalidInput for a cursor of something else."""
        found = [info for info in (seat.info for seat in self._ledger.fleet) if query.finds(info)]
        listing = listing_of("bot", query)
        after = None if cursor is None else decode_text_cursor(listing, cursor)
        start = 0 if after is None else bisect_right(found, after, key=lambda info: info.bot_id)
        wanted = found[start : start + max(1, min(limit, MAX_PAGE))]
        page = fitting(wanted, lambda info: len(msgspec.json.encode(info)))
        more = start + len(page) < len(found)
        return Page(tuple(page), encode_text_cursor(listing, page[-1].bot_id) if more else None)

    def count_bots(self, query: BotQuery) -> BotCount:
        """Return how many bots match, and what they are."""
        found = [info for info in (seat.info for seat in self._ledger.fleet) if query.finds(info)]
        return BotCount(
            total=len(found),
            quarantined=sum(bool(info.quarantined) for info in found),
            maintenance=sum(bool(info.maintenance) for info in found),
            dead=sum(info.is_dead for info in found),
            busy=sum(info.run_id is not None for info in found),
        )

    async def cancel(self, tags: tuple[str, ...], cursor: str | None, limit: int, *, kill_running: bool) -> Page[str]:
        """Cancel a page of the tasks that have all of `tags`; returns the ids of those that matched."""
        states = {State.PENDING, State.RUNNING} if kill_running else {State.PENDING}
        page = await self._ledger.store.search(TaskQuery(states=frozenset(states), tags=tags), cursor, limit)
        found = tuple(record.task.task_id for record in page.items)
        for task_id in found:
            await self._ledger.cancel(task_id, kill_running=kill_running)
        return Page(found, page.cursor)

    async def pending(self, execution: Execution) -> pending.Pending:
        """Return why an execution waits."""
        ledger = self._ledger
        now_s, key = ledger.clock.monotonic(), execution.execution_id
        kept_s = len(ledger.fleet) * KEPT_S_PER_BOT
        known = self._explained.get(key)
        if known is not None and now_s - known[0] < kept_s:
            return known[1]
        ahead = await ledger.store.ahead(execution, MAX_AHEAD)
        bots = ((seat.info, seat.traits) for seat in ledger.fleet)
        found = pending.explain(execution, bots, ledger.clock.now(), ahead, MAX_AHEAD, self._limits)
        self._explained.pop(key, None)
        self._explained[key] = now_s, found
        while len(self._explained) > MAX_EXPLAINED:
            del self._explained[next(iter(self._explained))]
        return found


def _sorted(items: Iterable[tuple[str, set[str]]]) -> tuple[tuple[str, tuple[str, ...]], ...]:
    return tuple((key, tuple(sorted(values))) for key, values in sorted(items))
