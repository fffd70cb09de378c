"""What 2020's isolate server has for those who look after it: statistics, limits, a purge, and reports of crashes.

Knows what is counted, not where. The invariants: only administrators purge, and only with a token of this server, so
that no page of another site can; what a client reports of itself is bounded and shown as text.
"""

from __future__ import annotations

import json
import logging
import secrets
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from aiohttp import web

from isolate.cas.digest import Namespace
from isolate.errors import BlobsMissing, InvalidInput, NotFound, Refused
from server import isolate_wire as wire
from server.cas_intake import Intake
from server.middleware import IDENTITY, reply, server_url
from server.pages.browse import PAGE_POLICY
from server.pages.frame import Frame
from server.pages.html import facts, join, link, tag
from server.problem import error_body
from server.stores.budget import ByteBudget
from server.stores.shared import SharedBlobStores
from server.tickets import Purpose, Ticket, TicketOffice
from server.traffic import FIELDS, Resolution, Traffic

MAX_PAGE = 1_000  # intervals of one reply
MAX_REPORT_BYTES = 64 << 10
MAX_REPORTS = 100  # kept until the server stops
GRPC_CODE = "X-Prpc-Grpc-Code"
GRPC_OK, GRPC_INVALID_ARGUMENT = "0", "3"

log = logging.getLogger("server")


class IsolateAdmin:
    """Handlers over the blob stores and the counters of their API."""

    def __init__(
        self,
        stores: SharedBlobStores,
        office: TicketOffice,
        traffic: Traffic,
        version: str,
        new_id: Callable[[], str] = lambda: secrets.token_hex(8),
    ) -> None:
        self._stores, self._office, self._traffic, self._new_id = stores, office, traffic, new_id
        self._frame = Frame("Isolate", version, PAGE_POLICY)
        self._intake = Intake(ByteBudget(16 * MAX_REPORT_BYTES, "requests"))
        self._reports: dict[str, dict[str, Any]] = {}  # the oldest first

    def routes(self) -> list[web.RouteDef]:
        """Return every route."""
        return [
            web.post("/prpc/isolated.v1.Isolated/Stats", self.stats),
            web.post("/ereporter2/api/v1/on_error", self.on_error),
            web.get("/restricted/ereporter2/errors/{id}", self._frame.shown(self.report)),
            web.get("/restricted/config", self._frame.shown(self.config)),
            web.get("/restricted/purge", self._frame.shown(self.purge_form)),
            web.post("/restricted/purge", self._frame.shown(self.purge)),
        ]

    async def stats(self, request: web.Request) -> web.Response:
        try:
            async with self._intake.parsed(request, MAX_REPORT_BYTES, _stats_query) as (resolution, latest_s, limit):
                found = self._traffic.measurements(resolution, latest_s, limit)
        except InvalidInput as error:
            return reply(error_body(error), 400, {GRPC_CODE: GRPC_INVALID_ARGUMENT})
        measurements = [
            {"start_time": _time_text(start_s)} | {name: str(one) for name, one in zip(FIELDS, counters, strict=True)}
            for start_s, counters in found
        ]
        return reply({"measurements": measurements} if measurements else {}, headers={GRPC_CODE: GRPC_OK})

    async def on_error(self, request: web.Request) -> web.Response:
        async with self._intake.parsed(request, MAX_REPORT_BYTES, _report) as report:
            name = self._new_id()
            self._reports[name] = report
            if len(self._reports) > MAX_REPORTS:
                del self._reports[next(iter(self._reports))]
        log.warning("A client reports error %s: %s", name, repr(str(report.get("message", "")))[:300])
        return reply({"id": name, "url": f"{server_url(request)}/restricted/ereporter2/errors/{name}"})

    async def report(self, request: web.Request) -> web.Response:
        _check_admin(request)
        name = request.match_info["id"]
        if name not in self._reports:
            raise NotFound(f"There is no report {name!r}; the last {MAX_REPORTS} are kept until the server stops")
        text = json.dumps(self._reports[name], indent=2, sort_keys=True)
        return self._frame.page(f"Report {name}", tag("pre", text))

    async def config(self, request: web.Request) -> web.Response:
        _check_admin(request)
        limits = self._stores.limits
        shown = facts(
            [
                ("Unused blobs are kept", f"{limits.kept_s / 3600:g} hours"),
                ("Those of temporary namespaces", f"{limits.temporary_kept_s / 3600:g} hours"),
                ("Never deleted within", f"{limits.promised_s / 3600:g} hours"),
                ("Most bytes of all blobs", "no limit" if limits.max_bytes is None else limits.max_bytes),
                ("Bytes left free on the disk", limits.min_free_bytes),
                ("Most bytes of one blob", limits.max_blob_bytes),
            ]
        )
        how = tag("p", "Set by --keep, --max-size and --min-free of ", tag("code", "swarming-server serve"), ".")
        return self._frame.page("Limits", shown, how, tag("p", link("Purge a blob", "/restricted/purge")))

    async def purge_form(self, request: web.Request) -> web.Response:
        _check_admin(request)
        fields = [
            tag("input", name="namespace", value="default-gzip", aria_label="Namespace"),
            tag("input", name="digest", size="70", aria_label="Digest"),
            tag("input", name="xsrf_token", type="hidden", value=self._office.issue(_FORM, Purpose.PURGE)),
        ]
        form = tag("form", join([*fields, tag("button", "Purge")], " "), action="/restricted/purge", method="post")
        return self._frame.page("Purge a blob", form)

    async def purge(self, request: web.Request) -> web.Response:
        _check_admin(request)
        sent = await request.post()
        namespace_name, digest, token = (
            str(sent.get(key, "")).strip() for key in ("namespace", "digest", "xsrf_token")
        )
        try:
            self._office.redeem(token, Purpose.PURGE)
        except InvalidInput as error:
            raise Refused(f"Invalid xsrf_token: {error}") from error
        namespace = Namespace.parse(namespace_name)
        raw = namespace.algorithm.parse_hex(digest)
        if not await self._stores.purge(namespace, raw):
            raise BlobsMissing([raw])
        log.warning("Blob %s of %s was purged by %s", digest, namespace.name, request[IDENTITY].name)
        return self._frame.page("Purged", tag("p", f"Blob {digest} of {namespace.name} is missing from now on."))


_FORM = Ticket(Namespace.parse("default"), Namespace.parse("default").empty, is_isolated=False)  # of no blob


def _check_admin(request: web.Request) -> None:
    if not request[IDENTITY].is_admin:
        raise Refused("Only administrators may see this")


def _stats_query(body: bytes) -> tuple[Resolution, float | None, int]:
    """Return what statistics are asked for; raises InvalidInput."""
    fields = wire.decode(body)
    name, size = fields.get("resolution"), fields.get("page_size", fields.get("pageSize", 0))
    if not isinstance(name, str) or name not in Resolution.__members__:
        raise InvalidInput(f"resolution is {name!r}, not one of {', '.join(Resolution.__members__)}")
    if type(size) is not int or not 1 <= size <= MAX_PAGE:
        raise InvalidInput(f"Invalid page_size; must be between 1 and {MAX_PAGE}")
    return Resolution[name], _seconds(fields.get("latest_time", fields.get("latestTime"))), size


def _seconds(text: object) -> float | None:
    """Return a time of RFC 3339 in seconds since the epoch."""
    if text is None:
        return None
    try:
        found = datetime.fromisoformat(str(text))
        return (found if found.tzinfo else found.replace(tzinfo=UTC)).timestamp()
    except (ValueError, OverflowError) as error:
        raise InvalidInput(f"latest_time {text!r} is no time such as 2020-01-31T12:00:00Z") from error


def _time_text(epoch_s: int) -> str:
    return datetime.fromtimestamp(epoch_s, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _report(body: bytes) -> dict[str, Any]:
    """Return what a client reports; raises InvalidInput."""
    fields = wire.decode(body)
    if fields.get("v") != "1" or not isinstance(fields.get("r"), dict):
        raise InvalidInput('A report is {"v": "1", "r": {…}}')
    report: dict[str, Any] = fields["r"]
    return report
