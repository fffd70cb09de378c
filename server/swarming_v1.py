"""The REST API for clients, as of 2020: `/_ah/api/swarming/v1/…`, also without `/_ah`.

Knows routes, status codes and nothing of policy: each handler parses with `swarming.wire*`, asks the scheduler one
question and spells the answer.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from typing import Any

from aiohttp import web

from isolate.cas.digest import DEFAULT_NAMESPACE
from isolate.clock import Clock
from isolate.errors import InvalidInput, NotFound
from server.api_routes import BASES, Handler, call_routes
from server.api_table import CALLS
from server.middleware import IDENTITY, own_servers, reply, server_url
from server.overview_v1 import OverviewApi
from server.performance import performance_stats
from server.settings import Settings
from swarming import wire, wire_new, wire_out, wire_query
from swarming.scheduler import Scheduler, TaskView
from swarming.states import State

UNFINISHED = {State.PENDING, State.RUNNING}
PERMISSIONS = ("cancel_task", "cancel_tasks", "delete_bot", "get_bootstrap_token", "get_configs", "put_configs",
               "terminate_bot")  # fmt: skip


class ClientApi:
    """Handlers over one scheduler."""

    def __init__(
        self,
        scheduler: Scheduler,
        clock: Clock,
        version: str,
        settings: Callable[[], Settings] = Settings,
        bot_version: Callable[[], str] = str,
        rng: random.Random | None = None,
    ) -> None:
        self._scheduler, self._clock, self._version, self._settings = scheduler, clock, version, settings
        self._bot_version = bot_version  # of bots that are as this server would have them
        self._rng = rng or random.Random()  # for who gets a canary; nothing here is a secret

    def routes(self) -> list[web.RouteDef]:
        """Return every route of this API."""
        handlers: dict[str, Handler] = {
            "server.details": self.details,
            "server.permissions": self.permissions,
            "tasks.new": self.new,
            "tasks.list": self.tasks,
            "tasks.requests": self.requests,
            "tasks.get_states": self.states,
            "task.result": self.result,
            "task.request": self.request,
            "task.stdout": self.stdout,
            "task.cancel": self.cancel,
            "bots.list": self.bots,
            "bots.count": self.count_bots,
            "bot.get": self.bot,
            "bot.tasks": self.bot_tasks,
            "bot.events": self.bot_events,
            "bot.terminate": self.terminate,
            "bot.delete": self.delete_bot,
        }
        handlers |= OverviewApi(self._scheduler, self._clock).handlers()
        return call_routes(CALLS, handlers, BASES)

    # Tasks

    async def new(self, request: web.Request) -> web.Response:
        settings, out = self._settings(), self._outbox(request)
        who, own = request[IDENTITY].name, own_servers(request)
        asked = wire_new.new_task(await request.read(), who, own, settings.least_time_s)
        admitted = settings.pools.admit(asked.request, asked.template, self._rng.randrange)
        if asked.evaluate_only:
            evaluated = await self._scheduler.evaluate(admitted)
            return reply({"request": out.request(evaluated, now=self._clock.now())})
        view = await self._scheduler.submit(admitted, asked.secret)
        task = view.task
        body = {"request": out.request(task.request, task), "task_id": task.task_id, "task_result": out.result(view)}
        return reply(body)

    async def result(self, request: web.Request) -> web.Response:
        view = await self._scheduler.view(request.match_info["task_id"])
        body = self._outbox(request).result(view)
        why = await self._scheduler.why_pending(view)
        return reply(body if why is None else {**body, "pending": wire_out.why_pending(why)})

    async def request(self, request: web.Request) -> web.Response:
        task = (await self._scheduler.view(request.match_info["task_id"])).task
        return reply(self._outbox(request).request(task.request, task))

    async def stdout(self, request: web.Request) -> web.Response:
        offset, length = wire_query.stdout_range(_query(request))
        output, state = await self._scheduler.stdout(request.match_info["task_id"], offset, length)
        if len(output) == length or state in UNFINISHED:  # more may follow
            output = wire_out.whole_characters(output)
        text = output.decode("utf-8", "replace") or None
        next_offset = wire.str64(offset + len(output))  # beyond 2020: U+FFFD hides how many bytes a text had
        return reply(wire.compact({"output": text, "state": state.name, "next_offset": next_offset}))

    async def cancel(self, request: web.Request) -> web.Response:
        kill_running = wire_query.cancel_request(await request.read(), _query(request))
        done = await self._scheduler.cancel(request.match_info["task_id"], kill_running)
        return reply({"ok": done.ok, "was_running": done.was_running})

    async def tasks(self, request: web.Request) -> web.Response:
        return await self._task_page(request, self._outbox(request).result)

    async def requests(self, request: web.Request) -> web.Response:
        if wire.boolean(_query(request), "include_performance_stats"):
            raise InvalidInput("Can't set include_performance_stats for tasks/requests")
        out = self._outbox(request)
        return await self._task_page(request, lambda view: out.request(view.task.request, view.task))

    async def _task_page(self, request: web.Request, spell: Callable[[TaskView], dict[str, Any]]) -> web.Response:
        query = _query(request)
        page = await self._scheduler.search(wire_query.task_query(query), wire_query.cursor(query), wire.limit(query))
        return reply(wire_out.page([spell(view) for view in page.items], page.cursor, self._clock.now()))

    async def states(self, request: web.Request) -> web.Response:
        task_ids = wire.every(_query(request), "task_id")
        if not task_ids or len(task_ids) > wire_query.MAX_STATES:
            raise InvalidInput(f"task_id is required, at most {wire_query.MAX_STATES} times")
        states = [(await self._scheduler.view(task_id)).state.name for task_id in task_ids]
        return reply({"states": states})

    # Bots

    async def bots(self, request: web.Request) -> web.Response:
        query = _query(request)
        page = await self._scheduler.bots(wire_query.bot_query(query), wire_query.cursor(query), wire.limit(query))
        items = [wire_out.bot_info(bot) for bot in page.items]
        body = wire_out.page(items, page.cursor, self._clock.now())
        return reply(body | {"death_timeout": wire.str64(int(self._scheduler.bot_death_s))})

    async def count_bots(self, request: web.Request) -> web.Response:
        found = await self._scheduler.count_bots(wire_query.bot_query(_query(request)))
        return reply(wire_out.bot_count(found, self._clock.now()))

    async def bot(self, request: web.Request) -> web.Response:
        bot_id = request.match_info["bot_id"]
        try:
            return reply(wire_out.bot_info(await self._scheduler.bot(bot_id)))
        except NotFound:
            return reply(wire_out.bot_info(await self._scheduler.past_bot(bot_id)) | {"deleted": True})

    async def bot_tasks(self, request: web.Request) -> web.Response:
        query = _query(request)
        bot_id = request.match_info["bot_id"]
        page = await self._scheduler.bot_runs(
            bot_id, wire_query.cursor(query), wire.limit(query), wire_query.run_query(query)
        )
        out = self._outbox(request)
        return reply(wire_out.page([out.result(view) for view in page.items], page.cursor, self._clock.now()))

    async def bot_events(self, request: web.Request) -> web.Response:
        query = _query(request)
        start, end = wire.epoch_s(query, "start"), wire.epoch_s(query, "end")
        page = await self._scheduler.bot_events(
            request.match_info["bot_id"], start, end, wire_query.cursor(query), wire.limit(query)
        )
        return reply(wire_out.page([wire_out.bot_event(event) for event in page.items], page.cursor, self._clock.now()))

    async def terminate(self, request: web.Request) -> web.Response:
        view = await self._scheduler.terminate(request.match_info["bot_id"], "", request[IDENTITY].name)
        return reply({"task_id": view.task.task_id})

    async def delete_bot(self, request: web.Request) -> web.Response:
        await self._scheduler.forget_bot(request.match_info["bot_id"])
        return reply({"deleted": True})

    # The server

    async def details(self, request: web.Request) -> web.Response:
        return reply(
            {
                "server_version": self._version,
                "bot_version": await asyncio.to_thread(self._bot_version),
                "default_isolate_server": server_url(request),
                "default_isolate_namespace": DEFAULT_NAMESPACE,
                "display_server_url_template": self._settings().display_server_url_template,
            }
        )

    async def permissions(self, request: web.Request) -> web.Response:
        task_id = wire.first(_query(request), "task_id")
        if task_id is not None:
            await self._scheduler.view(task_id)
        admin, pools = request[IDENTITY].is_admin, sorted(self._settings().pools.by_name or ())
        lists = {"list_bots": pools, "list_tasks": pools} if admin else {}
        return reply(wire.compact({**dict.fromkeys(PERMISSIONS, admin), **lists}))

    def _outbox(self, request: web.Request) -> wire_out.Outbox:
        wanted = wire.boolean(_query(request), "include_performance_stats")
        performance, tolerance_s = performance_stats if wanted else None, self._settings().policy.ping_tolerance_s
        return wire_out.Outbox(server_url(request), self._version, performance, tolerance_s)


def _query(request: web.Request) -> wire.Query:
    return list(request.query.items())
