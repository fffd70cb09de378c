"""What the pages for people share: the document around them, the way to the others, and errors that are pages too.

Knows no store and no scheduler. The invariant: markup leaves this server only with a policy that says what it may do.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from aiohttp import web

from isolate.errors import IsolateError
from server.pages.html import Html, join, link, tag
from server.problem import status_of

PLACES = (("Home", "/"), ("Bots", "/botlist"), ("Tasks", "/tasklist"), ("Browse", "/browse"))

Page = Callable[[web.Request], Awaitable[web.StreamResponse]]


@dataclass(frozen=True, slots=True)
class Frame:
    """The frame of one part of the site: its name, the version of the server, what its pages may do."""

    name: str
    version: str
    policy: str

    def page(self, title: str, *content: object, status: int = 200) -> web.Response:
        """Return a whole page."""
        places = [link(text, path) for text, path in PLACES]
        header = tag("header", tag("strong", self.name), *places, tag("span", self.version, class_="soft"))
        body = document(title, header, tag("main", tag("h1", title), *content))
        return markup_reply(body, self.policy, status, {"Cache-Control": "no-store"})

    def shown(self, page: Page) -> Page:
        """Show errors as pages too: whoever asked is a person."""

        async def shown(request: web.Request) -> web.StreamResponse:
            try:
                return await page(request)
            except IsolateError as error:
                status = status_of(error)
                if status >= 500:
                    raise
                return self.page("Not found" if status == 404 else "Error", tag("p", str(error)), status=status)

        return shown


def document(title: str, *body: object) -> Html:
    """Return a document in the style of this site."""
    head = tag(
        "head",
        tag("meta", charset="utf-8"),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("title", title),
        tag("link", rel="stylesheet", href="/static/style.css"),
    )
    return join([Html("<!doctype html>"), tag("html", head, tag("body", *body), lang="en")])


def markup_reply(markup: Html, policy: str, status: int = 200, headers: dict[str, str] | None = None) -> web.Response:
    """Return a document as a reply; names that are no text are spelt out."""
    body = markup.encode("utf-8", "backslashreplace")
    safe = {"Content-Security-Policy": policy, "Referrer-Policy": "same-origin", "X-Frame-Options": "SAMEORIGIN"}
    return web.Response(
        body=body, status=status, content_type="text/html", charset="utf-8", headers={**safe, **(headers or {})}
    )
