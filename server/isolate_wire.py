"""Bodies of the isolate API of 2020: JSON in, values out; the quirks of its spelling live here.

Knows no store and no route. Integers may be strings, bytes are base64 of either alphabet with or without padding,
unknown fields are ignored, null is the same as absent.
"""

from __future__ import annotations

import base64
import binascii
import re
from dataclasses import dataclass
from typing import Any

import msgspec

from isolate.cas.digest import Blob, Namespace
from isolate.errors import InvalidInput, InvalidNamespace

MAX_ITEMS = 1_000  # the protocol answers 400 to a longer look-up
MIN_BULK_BYTES = 501  # what is smaller travels within the JSON
MAX_INLINE_ISOLATED_BYTES = 512_000  # an .isolated of up to this size as well
_INTEGER = re.compile(r"\s*[-+]?[0-9]{1,20}\s*")


@dataclass(frozen=True, slots=True)
class Item:
    """One item of a look-up."""

    blob: Blob
    is_isolated: bool

    @property
    def goes_in_bulk(self) -> bool:
        """Whether its bytes travel by a URL of their own."""
        small = self.is_isolated and self.blob.size <= MAX_INLINE_ISOLATED_BYTES
        return self.blob.size >= MIN_BULK_BYTES and not small


@dataclass(frozen=True, slots=True)
class Retrieval:
    """What `retrieve` asks for."""

    namespace: Namespace
    digest: bytes
    offset: int


def decode(body: bytes) -> dict[str, Any]:
    """Return the object that a body is, an empty one for an empty body; raises InvalidInput."""
    try:
        decoded = msgspec.json.decode(body) if body.strip() else {}
    except (ValueError, RecursionError) as error:  # bad JSON, and bad UTF-8 within it
        raise InvalidInput(f"Body is not JSON: {error}") from error
    if not isinstance(decoded, dict):
        raise InvalidInput("Body is not a JSON object")
    return {key: value for key, value in decoded.items() if value is not None}


def lookup(body: dict[str, Any], max_blob_bytes: int) -> tuple[Namespace, list[Item]]:
    """Return what `preupload` asks for; raises InvalidInput."""
    items = body.get("items", [])
    if not isinstance(items, list):
        raise InvalidInput("items is not a list")
    if len(items) > MAX_ITEMS:
        raise InvalidInput(f"Only up to {MAX_ITEMS} items can be looked up at once")
    if "namespace" not in body:
        raise InvalidInput("namespace is required")
    namespace = _namespace(body["namespace"])
    return namespace, [_item(item, namespace, max_blob_bytes) for item in items]


def retrieval(body: dict[str, Any]) -> Retrieval:
    """Return what `retrieve` asks for; raises InvalidInput."""
    digest = _text(body, "digest")
    if not digest:
        raise InvalidInput("digest is required")
    namespace = _namespace(body.get("namespace", {}))
    offset = _integer(body.get("offset", 0), "offset")
    return Retrieval(namespace, namespace.algorithm.parse_hex(digest), offset)


def ticket_text(body: dict[str, Any]) -> str:
    """Return the ticket of a body; raises InvalidInput."""
    text = _text(body, "upload_ticket")
    if not text:
        raise InvalidInput("Upload ticket was empty or not provided.")
    return text


def content(body: dict[str, Any]) -> bytes:
    """Return the bytes of `content`, none when there is no such field; raises InvalidInput."""
    text = _text(body, "content")
    urlsafe = text.replace("+", "-").replace("/", "_").rstrip("=")
    try:
        return base64.b64decode(urlsafe + "=" * (-len(urlsafe) % 4), altchars=b"-_", validate=True)
    except (ValueError, binascii.Error) as error:
        raise InvalidInput(f"content is not base64: {error}") from error


def known_namespace(name: str) -> Namespace:
    """Return a namespace of 2020; raises InvalidNamespace, also for ours."""
    namespace = Namespace.parse(name)
    if namespace.is_ours:
        raise InvalidNamespace(f"Namespace {name!r} is not served by this API: use /cas/v2/{name}/")
    return namespace


def _namespace(value: object) -> Namespace:
    if not isinstance(value, dict):
        raise InvalidInput("namespace is not an object")
    name = value.get("namespace")
    if name is None:
        name = "default"
    if not isinstance(name, str):
        raise InvalidInput("namespace.namespace is not a string")
    return known_namespace(name)


def _item(value: object, namespace: Namespace, max_blob_bytes: int) -> Item:
    if not isinstance(value, dict):
        raise InvalidInput("An item is not an object")
    size = _integer(value.get("size") or 0, "size")
    if not 0 <= size <= max_blob_bytes:
        raise InvalidInput(f"Invalid size {size}: expected 0 to {max_blob_bytes} bytes")
    is_isolated = value.get("is_isolated") or False
    if not isinstance(is_isolated, bool):
        raise InvalidInput("is_isolated is not a boolean")
    digest = namespace.algorithm.parse_hex(_text(value, "digest"))
    return Item(Blob(digest, size), is_isolated)


def _text(body: dict[str, Any], key: str) -> str:
    value = body.get(key)
    if value is None:
        return ""
    if not isinstance(value, str):
        raise InvalidInput(f"{key} is not a string")
    return value


def _integer(value: object, name: str) -> int:
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    if isinstance(value, str) and _INTEGER.fullmatch(value):
        return int(value)
    raise InvalidInput(f"{name} is not an integer")
