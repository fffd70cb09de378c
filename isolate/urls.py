"""URLs of servers, as users type them.

Knows no transport. The invariant: what `normalize_url` returns has a scheme and a host, and takes a path at its end.
"""

from __future__ import annotations

from ipaddress import ip_address
from urllib.parse import SplitResult, urlsplit

from isolate.errors import InvalidInput


def normalize_url(text: str) -> str:
    """Return the URL of a server as typed by a user: `localhost:8080/` is `http://localhost:8080`.

    Without a scheme a loopback host is spoken to in plain HTTP, any other by HTTPS. Raises InvalidInput.
    """
    stripped = text.strip()
    if "@" in stripped:  # not repeated in the message: it may hold a password
        raise InvalidInput("The URL of a server must not name a user")
    parts = _split(text, stripped if "://" in stripped else f"//{stripped}")
    host = parts.hostname or ""
    scheme = parts.scheme or ("http" if is_loopback(host) else "https")
    if scheme not in {"http", "https"}:
        raise InvalidInput(f"{text!r} is not the URL of a server: its scheme must be http or https")
    if not host or any(character.isspace() or not character.isprintable() for character in stripped):
        raise InvalidInput(f"{text!r} is not the URL of a server")
    if "?" in stripped or "#" in stripped:
        raise InvalidInput(f"{text!r} is not the URL of a server: it must not have a query or fragment")
    return f"{scheme}://{parts.netloc.lower()}{parts.path.rstrip('/')}"


def is_loopback(host: str) -> bool:
    """Say whether `host`, a name or an address, means this machine and nothing else."""
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False


def _split(text: str, url: str) -> SplitResult:
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError as error:
        raise InvalidInput(f"{text!r} is not the URL of a server: {error}") from error
    return parts
