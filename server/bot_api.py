"""The API for bots, as of 2020: `/swarming/api/v1/bot/…`, with a session, long polls and an update interval on top.

Knows routes and headers. The additions cannot be seen by a bot of 2020: it sends no `X-Isolate-Session` and no
`X-Isolate-Wait`, and gets exactly the replies it knows.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable, Callable
from typing import Any

from aiohttp import web

from isolate.clock import Clock
from isolate.errors import InvalidInput, LeaseLost, NotFound, Refused
from server.bot_config import FILE, BotCode
from server.bot_groups import BotGroup
from server.middleware import IDENTITY, own_servers, reply, server_url
from server.settings import Settings
from swarming import wire, wire_bot
from swarming.bots import BotHello, Command, Sleep
from swarming.scheduler import Scheduler
from swarming.states import State

BASE = "/swarming/api/v1/bot"
SESSION_HEADER = "X-Isolate-Session"
WAIT_HEADER = "X-Isolate-Wait"
MAX_SESSION_CHARS = 64
MAX_DESCRIPTION_BYTES = 1 << 20
MAX_ERROR_CHARS = 64 << 10  # of what a bot says of its failure: a traceback
MAX_WAIT_S = 30.0  # below the idle time-outs of proxies
PAUSE_S = 60.0  # between polls while no bot gets work
RELEASED = Sleep(1.0)  # what a poll gets that was ended early
STALE = "Restarting to pick up new bots.cfg config"

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class WaitingPolls:
    """The long polls in progress: ended together when the server drains, and one by one when their bot is gone."""

    def __init__(self) -> None:
        self._requests: dict[asyncio.Task[Any], web.Request] = {}
        self._ended: set[asyncio.Task[Any]] = set()
        self._closed = False

    def release(self) -> None:
        """End all of them, and every later one at once."""
        self._closed = True
        for task in self._requests:
            self._end(task)

    def renew(self) -> None:
        """Let all of them ask again: something they should hear has changed."""
        for task in self._requests:
            self._end(task)

    async def drop_gone(self) -> None:
        """End those whose connection is closed, so that no task is offered to nobody."""
        for task, request in self._requests.items():
            if request.transport is None or request.transport.is_closing():
                self._end(task)

    async def wait(self, request: web.Request, poll: Callable[[], Awaitable[Command]]) -> Command:
        """Return what `poll` gives, or RELEASED."""
        task = asyncio.current_task()
        if self._closed or task is None:
            return RELEASED
        self._requests[task] = request
        try:
            return await poll()
        except asyncio.CancelledError:
            if task not in self._ended:
                raise
            task.uncancel()  # it was only the waiting that ended, and the bot shall hear so
            return RELEASED
        finally:
            del self._requests[task]
            self._ended.discard(task)

    def _end(self, task: asyncio.Task[Any]) -> None:
        if task not in self._ended:
            self._ended.add(task)
            task.cancel()


class BotApi:
    """Handlers over one scheduler; `code` returns the hooks of a group's bots, `update` the version a bot is to be."""

    def __init__(
        self,
        scheduler: Scheduler,
        clock: Clock,
        version: str,
        polls: WaitingPolls,
        code: Callable[[BotGroup], BotCode] = lambda _: BotCode(),
        settings: Callable[[], Settings] = Settings,
        *,
        update: Callable[[BotHello, BotGroup], str | None] = lambda *_: None,
    ) -> None:
        self._scheduler, self._clock, self._version, self._polls = scheduler, clock, version, polls
        self._update = update
        self._code, self._settings = code, settings

    def routes(self) -> list[web.RouteDef]:
        """Return every route of this API."""
        calls: dict[str, Handler] = {
            "handshake": self.handshake,
            "poll": self.poll,
            "event": self.event,
            "task_update": self.task_update,
            "task_update/{task_id}": self.task_update,
            "task_error": self.task_error,
            "task_error/{task_id}": self.task_error,
            "oauth_token": self.oauth_token,
        }
        posts = [web.post(f"{BASE}/{path}", handler) for path, handler in calls.items()]
        return [web.get(f"{BASE}/server_ping", self.ping), *posts]

    async def ping(self, _: web.Request) -> web.Response:
        return web.Response(text="Server up")

    async def handshake(self, request: web.Request) -> web.Response:
        hello = await self._hello(request)
        await self._scheduler.handshake(hello)
        group = self._group(hello.bot_id)
        code = self._code(group)
        body: dict[str, Any] = {
            # A bot of 2020 replaces itself by what it can download as this version: its own, unless its group has one.
            "bot_version": (not hello.session and await self._newer(hello, group)) or hello.version,
            "server_version": self._version,
            "bot_group_cfg_version": _version(group, code),
            "bot_group_cfg": {"dimensions": {key: list(values) for key, values in group.dimensions.items()}},
        }
        # A bot of 2020 has hooks of its own, on which it puts those that come here: the nearest ones.
        first = code.for_all if hello.session or code.of_group.content is None else code.of_group
        if first.content is not None:
            name = FILE if first is code.for_all else group.script
            body |= {"bot_config": first.content, "bot_config_rev": first.version, "bot_config_name": name}
        if hello.session and code.of_group.content is not None:
            body["group_bot_config"] = code.of_group.content
        return reply(body)

    async def poll(self, request: web.Request) -> web.Response:
        if self._settings().pause_bots:  # before anything is looked at, as in 2020
            return reply({"cmd": "sleep", "duration": PAUSE_S, "quarantined": True})
        hello = await self._hello(request)
        group = self._group(hello.bot_id)
        newer = await self._newer(hello, group)
        if newer is not None:
            await self._scheduler.event(hello, "request_update", newer)
            return reply({"cmd": "update", "version": newer})
        if wire_bot.is_restart_due(hello, _version(group, self._code(group))):
            await self._scheduler.event(hello, "request_restart", STALE)
            return reply({"cmd": "bot_restart", "message": STALE})
        wait_s = _wait_s(request)
        if wait_s:
            until = self._clock.monotonic() + wait_s
            command = await self._polls.wait(request, lambda: self._scheduler.poll(hello, until))
        else:
            command = await self._scheduler.poll(hello, None)
        identity = request[IDENTITY].name
        return reply(wire_bot.command(command, server_url=server_url(request), authenticated_as=identity))

    async def event(self, request: web.Request) -> web.Response:
        said = wire_bot.json_object(await _description(request))
        kind, message = wire_bot.event(said)
        await self._scheduler.event(self._hello_of(request, said, also=("event", "message")), kind, message)
        return reply({})

    async def task_update(self, request: web.Request) -> web.Response:
        said = wire_bot.decode_update(await _json_body(request))
        bot_id, run_id = _who(request, said.id, said.task_id)
        session = _session(request)
        done = await self._scheduler.update(bot_id, session, run_id, wire_bot.update(said, own_servers(request)))
        body: dict[str, Any] = {"must_stop": done.must_stop, "ok": True}
        return reply(body | {"update_every_s": done.update_every_s} if session else body)

    async def task_error(self, request: web.Request) -> web.Response:
        said = wire.decode(await _json_body(request), wire_bot.ErrorMessage)
        bot_id, run_id = _who(request, said.id, said.task_id)
        session = _session(request)
        try:
            await self._scheduler.fail(bot_id, session, run_id, (said.message or "")[:MAX_ERROR_CHARS])
        except LeaseLost as error:
            if session:
                raise
            raise InvalidInput(str(error)) from error  # a bot of 2020 knows nothing of leases
        return reply({})  # a bot of 2020 breaks on anything else

    async def oauth_token(self, request: web.Request) -> web.Response:
        """Say that there is no token: without authentication no bot and no task has an account."""
        bot_id, run_id = wire_bot.token_request(await _json_body(request))
        if run_id is not None:
            try:
                view = await self._scheduler.view(run_id)
            except NotFound:
                view = None
            attempt = view.attempt if view is not None and view.is_run else None
            if attempt is None or (attempt.bot_id, attempt.state) != (bot_id, State.RUNNING):
                raise InvalidInput(f"Bot {bot_id} is not running task {run_id}")
        return reply({"service_account": "none"})

    async def _newer(self, hello: BotHello, group: BotGroup) -> str | None:
        """Return the version that a bot is to become, if any; most cannot be told."""
        may_be_told = "bot_archive" in hello.state if hello.session else group.archive
        return await asyncio.to_thread(self._update, hello, group) if may_be_told else None

    async def _hello(self, request: web.Request) -> BotHello:
        return self._hello_of(request, wire_bot.json_object(await _description(request)))

    def _hello_of(self, request: web.Request, said: dict[str, Any], also: tuple[str, ...] = ()) -> BotHello:
        hello = wire_bot.hello(
            said,
            session=_session(request),
            external_ip=request.remote or "",
            authenticated_as=request[IDENTITY].name,
            also=also,
        )
        return self._group(hello.bot_id).told(hello)

    def _group(self, bot_id: str) -> BotGroup:
        group = self._settings().groups.of(bot_id)
        if group is None:
            raise Refused(f"Bot {bot_id!r} is in no group of bots.toml")
        return group


def _version(group: BotGroup, code: BotCode) -> str:
    """Return the version of all that a bot is told at its start; another one lets it start again."""
    parts = [one for one in (group.version, code.version) if one != wire_bot.GROUP_VERSION]
    return "+".join(parts) or wire_bot.GROUP_VERSION


async def _json_body(request: web.Request) -> bytes:
    if request.content_type != "application/json":
        raise InvalidInput(f"Expecting JSON body, not {request.content_type}")
    return await request.read()


async def _description(request: web.Request) -> bytes:
    """Return what a bot says of itself, which is kept in memory as long as the bot is known."""
    body = await _json_body(request)
    if len(body) > MAX_DESCRIPTION_BYTES:
        raise InvalidInput(f"dimensions, state and message have more than {MAX_DESCRIPTION_BYTES} bytes")
    return body


def _session(request: web.Request) -> str:
    session = request.headers.get(SESSION_HEADER, "")
    if len(session) > MAX_SESSION_CHARS:
        raise InvalidInput(f"{SESSION_HEADER} is longer than {MAX_SESSION_CHARS} characters")
    return session


def _wait_s(request: web.Request) -> float:
    text = request.headers.get(WAIT_HEADER, "0")
    try:
        wait_s = float(text)
    except ValueError:
        wait_s = math.nan
    if not 0 <= wait_s < math.inf:
        raise InvalidInput(f"{WAIT_HEADER} {text!r} is not a number of seconds")
    return min(wait_s, MAX_WAIT_S)


def _who(request: web.Request, bot_id: str | None, task_id: str | None) -> tuple[str, str]:
    """Return (bot id, run id) of a message about a task; the URL may repeat the task."""
    named = request.match_info.get("task_id", task_id)
    if not bot_id or not task_id:
        raise InvalidInput("id and task_id are required")
    if named != task_id:
        raise InvalidInput(f"task_id {task_id} is not the one of the URL")
    return bot_id, task_id
