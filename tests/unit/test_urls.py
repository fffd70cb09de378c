"""URLs of servers as people type them."""

from __future__ import annotations

import pytest

from isolate.errors import InvalidInput
from isolate.urls import is_loopback, normalize_url


@pytest.mark.parametrize(("text", "url"), [
    ("localhost", "http://localhost"),
    ("localhost:8080/", "http://localhost:8080"),
    ("127.0.0.1:80", "http://127.0.0.1:80"),
    ("127.8.9.1", "http://127.8.9.1"),
    ("[::1]:8080", "http://[::1]:8080"),
    ("dev.localhost", "http://dev.localhost"),
    ("isolate.example.com", "https://isolate.example.com"),
    ("Isolate.Example.COM:444/base//", "https://isolate.example.com:444/base"),
    ("http://isolate.example.com/", "http://isolate.example.com"),
    ("HTTPS://localhost:1/x/y", "https://localhost:1/x/y"),
    ("  http://h  ", "http://h"),
    ("localhost.example.com", "https://localhost.example.com"),
])  # fmt: skip
def test_urls(text: str, url: str) -> None:
    assert normalize_url(text) == url
    assert normalize_url(url) == url


@pytest.mark.parametrize("text", [
    "", "  ", "/", "http://", "https:///path", "ftp://host", "file:///etc/passwd", "host:port", "host:65536",
    "http://[::1",
    "http://host?query", "http://host/#fragment", "http://host?", "a b", "a\nb", "host\0", "://host",
])  # fmt: skip
def test_what_is_no_url_of_a_server(text: str) -> None:
    with pytest.raises(InvalidInput, match="is not the URL of a server"):
        normalize_url(text)


def test_secrets_typed_into_a_url_are_not_repeated() -> None:
    with pytest.raises(InvalidInput, match="must not name a user") as caught:
        normalize_url("http://user:secret@host")
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(("host", "loopback"), [
    ("localhost", True), ("127.0.0.1", True), ("127.255.255.254", True), ("::1", True), ("a.localhost", True),
    ("127.example.com", False), ("127.0.0.1.example.com", False), ("localhost.example.com", False),
    ("128.0.0.1", False), ("::2", False),
    ("", False), ("0.0.0.0", False),
])  # fmt: skip
def test_what_is_loopback(host: str, loopback: bool) -> None:
    assert is_loopback(host) is loopback
