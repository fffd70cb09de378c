"""Who may speak to the server: guarantee 14, decided from the head of a request."""

from __future__ import annotations

import pytest
from multidict import CIMultiDict, CIMultiDictProxy

from isolate.errors import InvalidInput, Refused
from server.auth import LOCAL_CALLER, LoopbackGuard, loopback_address, url_host

PORT = 8080
GUARD = LoopbackGuard("127.0.0.1", {PORT})


def headers(*pairs: tuple[str, str]) -> CIMultiDictProxy[str]:
    return CIMultiDictProxy(CIMultiDict(pairs))


@pytest.mark.parametrize("host", ["localhost:8080", "127.0.0.1:8080", "[::1]:8080", "LocalHost:8080"])
def test_our_names_are_accepted(host: str) -> None:
    assert GUARD.identify(headers(("Host", host))) is LOCAL_CALLER
    assert LOCAL_CALLER.name == "bot:whitelisted-ip"


@pytest.mark.parametrize(
    "host",
    [
        "evil.example:8080",
        "localhost",
        "localhost:8081",
        "localhost.evil.example:8080",
        "127.0.0.1.nip.io:8080",
        "localhost:8080@evil.example",
        "",
        "user@localhost:8080",
        "0.0.0.0:8080",
        "127.0.0.2:8080",
    ],
)
def test_other_names_are_refused(host: str) -> None:
    with pytest.raises(Refused, match="not a name of this server"):
        GUARD.identify(headers(("Host", host)))


def test_no_host_and_two_hosts_are_refused() -> None:
    for given in (headers(), headers(("Host", "localhost:8080"), ("Host", "evil.example"))):
        with pytest.raises(Refused):
            GUARD.identify(given)


@pytest.mark.parametrize("origin", ["http://localhost:8080", "http://127.0.0.1:8080", "http://[::1]:8080"])
def test_our_own_pages_are_accepted(origin: str) -> None:
    found = GUARD.identify(headers(("Host", "localhost:8080"), ("Origin", origin), ("Sec-Fetch-Site", "same-origin")))
    assert found.is_admin


@pytest.mark.parametrize(
    "origin", ["http://evil.example", "null", "http://localhost:3000", "https://localhost:8080", "file://", ""]
)
def test_pages_from_elsewhere_are_refused(origin: str) -> None:
    with pytest.raises(Refused, match="pages of"):
        GUARD.identify(headers(("Host", "localhost:8080"), ("Origin", origin)))


@pytest.mark.parametrize(
    ("site", "fine"), [("none", True), ("same-origin", True), ("same-site", False), ("cross-site", False)]
)
def test_what_a_browser_says_of_the_page(site: str, fine: bool) -> None:
    given = headers(("Host", "localhost:8080"), ("Sec-Fetch-Site", site))
    if fine:
        assert GUARD.identify(given) is LOCAL_CALLER
    else:
        with pytest.raises(Refused, match="another site"):
            GUARD.identify(given)


def test_port_80_may_be_left_out() -> None:
    assert LoopbackGuard("127.0.0.1", {80}).identify(headers(("Host", "localhost"))) is LOCAL_CALLER


@pytest.mark.parametrize(
    ("host", "address"), [("localhost", "127.0.0.1"), ("127.0.0.3", "127.0.0.3"), ("[::1]", "::1")]
)
def test_loopback_addresses(host: str, address: str) -> None:
    assert loopback_address(host) == address


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.2", "example.com", "", "127.1"])
def test_anything_else_is_refused_with_the_reason(host: str) -> None:
    with pytest.raises(InvalidInput, match="without authentication"):
        loopback_address(host)


def test_addresses_in_urls() -> None:
    assert (url_host("::1"), url_host("127.0.0.1")) == ("[::1]", "127.0.0.1")
