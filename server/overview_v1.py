"""The calls of the REST API about many things at once: cancelling by tags, tags, queues, dimensions.

Knows routes and nothing of policy.
"""

from __future__ import annotations

from aiohttp import web

from isolate.clock import Clock
from server.api_routes import Handler
from server.middleware import reply
from swarming import wire, wire_out, wire_query
from swarming.overview import Aggregate
from swarming.scheduler import Scheduler


class OverviewApi:
    """Handlers over one scheduler."""

    def __init__(self, scheduler: Scheduler, clock: Clock) -> None:
        self._scheduler, self._clock = scheduler, clock

    def handlers(self) -> dict[str, Handler]:
        """Return the handlers by the name of the call."""
        return {
            "tasks.cancel": self.cancel,
            "tasks.count": self.count,
            "tasks.tags": self.tags,
            "queues.list": self.queues,
            "bots.dimensions": self.dimensions,
        }

    async def cancel(self, request: web.Request) -> web.Response:
        asked = wire_query.tasks_cancel_request(await request.read(), list(request.query.items()))
        page = await self._scheduler.cancel_tagged(
            tuple(asked.tags or ()), asked.cursor, asked.limit or 1, kill_running=bool(asked.kill_running)
        )
        body = {"cursor": page.cursor, "matched": wire.str64(len(page.items)), "now": wire.ts(self._clock.now())}
        return reply(wire.compact(body))

    async def count(self, request: web.Request) -> web.Response:
        number = await self._scheduler.count(wire_query.count_query(list(request.query.items())))
        return reply({"count": wire.str64(number), "now": wire.ts(self._clock.now())})

    async def tags(self, _: web.Request) -> web.Response:
        return reply(_aggregate("tasks_tags", await self._scheduler.tags()))

    async def queues(self, request: web.Request) -> web.Response:
        query = list(request.query.items())
        now = self._clock.now()
        page = await self._scheduler.queues(wire_query.cursor(query), wire.limit(query))
        items = [wire_out.queue(dimensions, now) for dimensions in page.items]
        return reply(wire_out.page(items, page.cursor, now))

    async def dimensions(self, request: web.Request) -> web.Response:
        pool = wire.first(list(request.query.items()), "pool")
        return reply(_aggregate("bots_dimensions", await self._scheduler.dimensions(pool)))


def _aggregate(name: str, found: Aggregate) -> dict[str, object]:
    items = [wire.compact({"key": key, "value": list(values)}) for key, values in found.values]
    return wire.compact({name: items, "ts": wire.ts(found.at)})
