"""Who may speak to this server, decided from the head of a request alone.

Knows no route and no body. The only mode so far is loopback: whoever reaches the socket is a user of this machine and
an administrator, as on the development server of 2020. What this module keeps out is the browser of that user: a web
page from elsewhere can make it send requests here, so a name that is not ours or a foreign origin is refused before
anything is looked up (guarantee 14).
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable
from dataclasses import dataclass

from multidict import CIMultiDictProxy

from isolate.errors import InvalidInput, Refused

LOOPBACK_NAMES = ("localhost", "127.0.0.1", "[::1]")
# `none` is the address bar or a bookmark; tools other than browsers send no such header at all.
OWN_FETCH_SITES = {"same-origin", "none"}


@dataclass(frozen=True, slots=True)
class Identity:
    """Who asks, as the REST API spells it."""

    name: str
    is_admin: bool


LOCAL_CALLER = Identity("bot:whitelisted-ip", is_admin=True)


def loopback_address(host: str) -> str:
    """Return the address to listen on for `host`; raises InvalidInput unless only this machine can reach it."""
    address = "127.0.0.1" if host == "localhost" else host.strip("[]")
    try:
        is_loopback = ipaddress.ip_address(address).is_loopback
    except ValueError:
        is_loopback = False
    if not is_loopback:
        raise InvalidInput(
            f"Refusing to listen on {host!r}: without authentication anyone who reaches it could run commands on the "
            "bots; use 127.0.0.1, ::1 or localhost, for example behind an SSH tunnel"
        )
    return address


def url_host(address: str) -> str:
    """Return `address` as it stands in a URL."""
    return f"[{address}]" if ":" in address else address


class LoopbackGuard:
    """Refuses what a web page from elsewhere, or a name rebound to this machine, makes a browser send."""

    def __init__(self, address: str, ports: Iterable[int]) -> None:
        names = {*LOOPBACK_NAMES, url_host(address)}
        self._hosts = {f"{name}:{port}" for name in names for port in ports}
        if 80 in ports:
            self._hosts |= names
        self.origins = frozenset(f"http://{host}" for host in self._hosts)

    def identify(self, headers: CIMultiDictProxy[str]) -> Identity:
        """Return who sent a request with these headers; raises Refused."""
        for host in headers.getall("Host", [""]):
            if host.lower() not in self._hosts:
                raise Refused(
                    f"Host {host!r} is not a name of this server; use one of {', '.join(sorted(self._hosts))}"
                )
        for origin in headers.getall("Origin", ()):
            if origin.lower() not in self.origins:
                raise Refused(f"Requests from pages of {origin!r} are not accepted")
        for site in headers.getall("Sec-Fetch-Site", ()):
            if site.lower() not in OWN_FETCH_SITES:
                raise Refused(f"Requests that a page of another site started ({site}) are not accepted")
        return LOCAL_CALLER
