"""The rules a reference to a tree obeys, in the request of a client and in the report of a bot.

Knows no model and no store. What is wrong raises `InvalidTask`.
"""

from __future__ import annotations

from urllib.parse import urlsplit

from isolate.cas.digest import DEFAULT_NAMESPACE, Namespace
from isolate.errors import InvalidDigest, InvalidNamespace, InvalidTask
from swarming.wire_in import FilesRef

MAX_SERVER_CHARS = 1_024


def namespace_of(ref: FilesRef) -> str:
    """Return the namespace of a reference: as given, else by the length of its hash, else the default."""
    if ref.namespace:
        return ref.namespace
    return Namespace.of_hash(ref.isolated).name if ref.isolated else DEFAULT_NAMESPACE


def check_files_ref(ref: FilesRef) -> None:
    """Judge a reference to a tree."""
    try:
        namespace = Namespace.parse(namespace_of(ref))
        if ref.isolated:
            namespace.algorithm.parse_hex(ref.isolated)
    except (InvalidDigest, InvalidNamespace) as error:
        raise InvalidTask(f"Invalid inputs_ref: {error}") from error
    if ref.isolatedserver:
        _check_server(ref.isolatedserver)


def _check_server(url: str) -> None:
    if len(url) > MAX_SERVER_CHARS:
        raise InvalidTask(f"isolatedserver is longer than {MAX_SERVER_CHARS} characters")
    try:
        parts = urlsplit(url)
        local = parts.hostname in {"localhost", "127.0.0.1", "::1"} and parts.port != 0
    except ValueError:
        raise InvalidTask(f"isolatedserver {url!r} is not a URL") from None
    secure = parts.scheme == "https" and bool(parts.hostname)
    if not secure and not (parts.scheme == "http" and local):
        raise InvalidTask(f"isolatedserver {url!r} must be https, or http on localhost")
