"""The web pages: what is in the scheduler, as plain HTML that needs no script.

Knows the scheduler's answers and no store. Every page is sent with a policy that forbids scripts, frames and anything
from elsewhere; what tasks and bots say of themselves is text (`html.py`).
"""

from __future__ import annotations

from collections.abc import Iterable
from importlib import resources
from urllib.parse import quote

from aiohttp import web

from isolate.clock import Clock
from isolate.errors import InvalidInput, OutputLost
from server.middleware import server_url
from server.pages import bot_page, spell, task_page
from server.pages.frame import Frame, Page
from server.pages.html import MISSING, Html, facts, join, link, table, tag
from swarming import wire, wire_query
from swarming.bots import BotQuery
from swarming.scheduler import Scheduler, TaskView

POLICY = "default-src 'none'; style-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
# Output of tasks is shown as it is, by itself: even a browser that takes it for a page gives it no rights.
RAW_POLICY = "default-src 'none'; sandbox"
RAW_STEP_BYTES = 1 << 20
STATES = ("ALL", "PENDING", "RUNNING", "COMPLETED_SUCCESS", "COMPLETED_FAILURE", "DEDUPED", "EXPIRED", "TIMED_OUT",
          "BOT_DIED", "CANCELED", "KILLED", "NO_RESOURCE")  # fmt: skip
STATUSES: dict[str, BotQuery] = {
    "all": BotQuery(),
    "alive": BotQuery(is_dead=False),
    "busy": BotQuery(is_busy=True, is_dead=False),
    "idle": BotQuery(is_busy=False, is_dead=False),
    "dead": BotQuery(is_dead=True),
    "quarantined": BotQuery(quarantined=True),
    "maintenance": BotQuery(in_maintenance=True),
}
PAGE_ITEMS = 100


class Pages:
    """Handlers over one scheduler."""

    def __init__(self, scheduler: Scheduler, clock: Clock, version: str) -> None:
        self._scheduler, self._clock, self._version = scheduler, clock, version
        self._frame = Frame("Swarming", version, POLICY)
        self._style = resources.files("server.pages").joinpath("style.css").read_bytes()

    def routes(self) -> list[web.RouteDef]:
        """Return every route of the pages."""
        pages: dict[str, Page] = {
            "/": self.index,
            "/botlist": self.bots,
            "/tasklist": self.tasks,
            "/bot": self.bot,
            "/task": self.task,
            "/task/output": self.output,
        }
        return [
            *(web.get(path, self._frame.shown(page)) for path, page in pages.items()),
            web.get("/static/style.css", self.style),
            *(web.get(path, _redirect("/task")) for path in ("/user/task/{id}", "/tasks/{id}")),
            web.get("/restricted/bot/{id}", _redirect("/bot")),
            web.get("/restricted/bots", _redirect("/botlist")),
            web.get("/user/tasks", _redirect("/tasklist")),
        ]

    async def style(self, _: web.Request) -> web.Response:
        return web.Response(body=self._style, content_type="text/css", headers={"Cache-Control": "max-age=600"})

    async def index(self, request: web.Request) -> web.Response:
        url = server_url(request)
        found = await self._scheduler.count_bots(BotQuery())
        alive = found.total - found.dead
        recent = await self._scheduler.search(wire_query.task_query([]), None, 10)
        return self._frame.page(
            "Swarming server",
            facts(
                [
                    ("Version", self._version),
                    ("Bots", link(f"{alive} alive, {found.busy} busy, {found.dead} dead", "/botlist")),
                    ("Tasks", link("list", "/tasklist")),
                ]
            ),
            tag("h2", "Newest tasks"),
            _task_table(recent.items),
            tag("h2", "Add a bot"),
            tag("pre", f"swarming-bot --server {url}"),
            tag("h2", "Run a command"),
            tag(
                "pre",
                f"isolate archive -I {url} DIRECTORY\nswarming run -S {url} -I {url} -d pool default HASH -- ARGS",
            ),
        )

    async def bots(self, request: web.Request) -> web.Response:
        status = request.query.get("status", "all")
        if status not in STATUSES:
            raise InvalidInput(f"Invalid value {status!r} of status: expected one of {', '.join(STATUSES)}")
        page = await self._scheduler.bots(STATUSES[status], request.query.get("cursor") or None, PAGE_ITEMS)
        rows = (
            (
                None,
                (
                    spell.bot_link(bot.bot_id),
                    spell.bot_status(bot),
                    spell.task_link(bot.run_id, bot.task_name or None),
                    ", ".join(dict(bot.dimensions).get("os", ())) or MISSING,
                    ", ".join(dict(bot.dimensions).get("pool", ())) or MISSING,
                    spell.when(bot.last_seen_at),
                ),
            )
            for bot in page.items
        )
        shown = table(("Bot", "Status", "Task", "OS", "Pool", "Last seen (UTC)"), rows, "No bots.")
        return self._frame.page(
            "Bots", _filters("/botlist", "status", STATUSES, status), shown, _more(request, page.cursor)
        )

    async def tasks(self, request: web.Request) -> web.Response:
        query = list(request.query.items())
        page = await self._scheduler.search(wire_query.task_query(query), wire_query.cursor(query), PAGE_ITEMS)
        state = request.query.get("state", "ALL")
        tags = [tag("p", "Only with tag ", tag("code", text)) for text in wire.every(query, "tags")]
        filters = _filters("/tasklist", "state", STATES, state)
        return self._frame.page("Tasks", filters, *tags, _task_table(page.items), _more(request, page.cursor))

    async def task(self, request: web.Request) -> web.Response:
        task_id = request.query.get("id", "").strip()
        if not task_id:
            return self._frame.page("Task", _ask("/task", "Enter a Task ID to get started."))
        view = await self._scheduler.view(task_id)
        output: bytes | OutputLost
        try:
            output, _ = await self._scheduler.stdout(task_id, 0, task_page.SHOWN_BYTES)
        except OutputLost as error:
            output = error
        why = await self._scheduler.why_pending(view)
        return self._frame.page(
            f"Task {view.task.request.name}", *task_page.body(view, output, server_url(request), why)
        )

    async def output(self, request: web.Request) -> web.StreamResponse:
        task_id = request.query.get("id", "")
        piece, _ = await self._scheduler.stdout(task_id, 0, RAW_STEP_BYTES)
        response = web.StreamResponse(headers={"Content-Security-Policy": RAW_POLICY})
        response.content_type, response.charset = "text/plain", "utf-8"
        await response.prepare(request)
        sent = 0
        while piece:
            await response.write(piece)
            sent += len(piece)
            piece, _ = await self._scheduler.stdout(task_id, sent, RAW_STEP_BYTES)
        await response.write_eof()
        return response

    async def bot(self, request: web.Request) -> web.Response:
        bot_id = request.query.get("id", "").strip()
        if not bot_id:
            return self._frame.page("Bot", _ask("/bot", "Enter a Bot ID to get started."))
        info = await self._scheduler.bot(bot_id)
        runs = await self._scheduler.bot_runs(bot_id, None, 30)
        events = await self._scheduler.bot_events(bot_id, None, None, None, 50)
        return self._frame.page(f"Bot {bot_id}", *bot_page.body(info, runs.items, events.items))


def _redirect(path: str) -> Page:
    """Answer an address of 2020, which tools print."""

    async def redirect(request: web.Request) -> web.StreamResponse:
        found = request.match_info.get("id")
        raise web.HTTPFound(f"{path}?id={quote(found, safe='')}" if found else path)

    return redirect


def _task_table(views: Iterable[TaskView]) -> Html:
    rows = (
        (
            None,
            (
                spell.task_link(view.task.task_id, view.task.request.name),
                spell.state(view.task),
                spell.bot_link(view.attempt.bot_id if view.attempt is not None else None),
                spell.when(view.task.created_at),
                spell.lasting(view.attempt.duration_s if view.attempt is not None else None),
                view.task.request.user or MISSING,
            ),
        )
        for view in views
    )
    return table(("Name", "State", "Bot", "Created (UTC)", "Duration", "User"), rows, "No tasks.")


def _filters(path: str, key: str, choices: Iterable[str], chosen: str) -> Html:
    links = (
        tag("span", name, aria_current="true") if name == chosen else link(name, path, **{key: name})
        for name in choices
    )
    return tag("nav", *links, class_="filters")


def _more(request: web.Request, cursor: str | None) -> Html | None:
    if cursor is None:
        return None
    return tag("p", tag("a", "Older", href=str(request.rel_url.update_query(cursor=cursor))))


def _ask(path: str, text: str) -> Html:
    field = tag("input", name="id", aria_label=text, autofocus="")
    return join([tag("p", text), tag("form", field, " ", tag("button", "Show"), action=path)])
