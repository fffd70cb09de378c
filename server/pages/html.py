"""HTML from values, escaped by construction: text is text unless it is an `Html`.

Knows no page. The invariant: an `Html` can only come from `tag` and `join`, which escape everything else, so a name
that a task or a bot chose for itself never becomes markup.
"""

from __future__ import annotations

from collections.abc import Iterable
from html import escape
from urllib.parse import quote, urlsplit

MISSING = "--"  # where something is not known
VOID = frozenset({"br", "hr", "input", "link", "meta"})


class Html(str):
    """Markup that is safe to send."""

    __slots__ = ()


def tag(name: str, /, *children: object, **attributes: object) -> Html:
    """Return an element; an attribute that is None is left out, `class_` and `for_` lose their underscore."""
    head = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{escape(str(value))}"'
        for key, value in attributes.items()
        if value is not None
    )
    return Html(f"<{name}{head}>" if name in VOID else f"<{name}{head}>{join(children)}</{name}>")


def join(children: Iterable[object], between: str = "") -> Html:
    """Return children one after the other; None is nothing, other values are escaped text."""
    found = [child if isinstance(child, Html) else escape(str(child)) for child in children if child is not None]
    return Html(escape(between).join(found))


def link(text: object, path: str, /, **query: str) -> Html:
    """Return a link within this server."""
    suffix = "&".join(f"{key}={quote(value, safe='')}" for key, value in query.items())
    return tag("a", text, href=f"{path}?{suffix}" if suffix else path)


def outside_link(text: str, url: str) -> Html:
    """Return a link to elsewhere; a URL of any scheme but http and https stays text, because it could be a script."""
    try:
        is_web = urlsplit(url).scheme in {"http", "https"}
    except ValueError:
        is_web = False
    return tag("a", text, href=url, rel="noreferrer noopener") if is_web else join([text])


def table(head: Iterable[object], rows: Iterable[tuple[str | None, Iterable[object]]], empty: str) -> Html:
    """Return a table of (row class, cells); `empty` stands for it when there are no rows."""
    body = [tag("tr", *(tag("td", cell) for cell in cells), class_=row_class) for row_class, cells in rows]
    if not body:
        return tag("p", empty, class_="empty")
    titles = tag("tr", *(tag("th", title) for title in head))
    return tag("div", tag("table", tag("thead", titles), tag("tbody", *body)), class_="scroll")


def facts(items: Iterable[tuple[str, object]]) -> Html:
    """Return names and values as a two-column table; what is not known (None, "" or "--") is left out."""
    rows = (tag("tr", tag("th", name), tag("td", value)) for name, value in items if value not in {None, "", MISSING})
    return tag("table", tag("tbody", *rows), class_="facts")
