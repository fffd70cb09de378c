"""The REST API as a page for people, made from its table of calls. Needs no script and nothing from elsewhere."""

from __future__ import annotations

from collections.abc import Iterable

from server.api_messages import ENUMS, MESSAGES, SIMPLE
from server.api_table import ALL_CALLS, Call
from server.pages.html import Html, join, table, tag

POLICY = "default-src 'none'; style-src 'self'; base-uri 'none'; frame-ancestors 'none'"


def render(version: str, base: str) -> str:
    """Return the page."""
    about = (
        "64-bit integers are strings in replies and either in requests; unset fields and empty lists are left out; "
        "unknown fields and parameters are ignored; times are UTC. Every call takes fields= to select parts of a reply."
    )
    body = [
        tag("h1", f"REST API, version {version}"),
        tag("p", about, " For programs: ", tag("a", "openapi.json", href="/api/openapi.json")),
        tag("h2", "Calls"),
        tag("p", join((tag("a", call.name, href=f"#{call.name}") for call in ALL_CALLS), " · ")),
        *(part for call in ALL_CALLS for part in _call(call, base)),
        tag("h2", "Messages"),
        *(part for name, fields in MESSAGES.items() for part in (tag("h3", name, id=name), _fields(fields.items()))),
        tag("h2", "Words"),
        *(part for name, words in ENUMS.items() for part in (tag("h3", name, id=name), tag("p", " ".join(words)))),
    ]
    head = tag(
        "head",
        tag("meta", charset="utf-8"),
        tag("title", "REST API"),
        tag("link", rel="stylesheet", href="/static/style.css"),
    )
    header = tag("header", tag("strong", "Swarming"), tag("a", "Home", href="/"))
    return "<!DOCTYPE html>\n" + tag("html", head, tag("body", header, tag("main", *body)), lang="en")


def _call(call: Call, base: str) -> Iterable[Html]:
    yield tag("h3", call.name, id=call.name)
    yield tag("p", tag("code", f"{call.method} {base}/{call.path}"))
    body = join([" Body: ", _kind(call.body), "."]) if call.body else None
    yield tag("p", call.summary, " Reply: ", _kind(call.reply), ".", body)
    if call.all_parameters:
        rows = [
            (
                None,
                (
                    tag("code", one.name),
                    join([_kind(one.kind), ", repeated" * one.repeated, ", required" * one.required]),
                ),
            )
            for one in call.all_parameters
        ]
        yield table(("Parameter", "Kind"), rows, "")


def _fields(fields: Iterable[tuple[str, str]]) -> Html:
    return table(("Field", "Kind"), [(None, (tag("code", name), _kind(kind))) for name, kind in fields], "No fields")


def _kind(kind: str) -> Html:
    bare = kind.removesuffix("[]")
    return join(["list of " if bare != kind else None, bare if bare in SIMPLE else tag("a", bare, href=f"#{bare}")])
