"""What a reader of one blob wants, from the headers of its request: which part, in which encoding, or nothing new.

Pure: knows no store and no connection. A blob never changes, so its digest is its tag.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self

from isolate.cas.wire import BLOB_TYPE

_RANGE = re.compile(r"bytes=(?:(\d+)-(\d*)|-(\d+))", re.IGNORECASE | re.ASCII)


@dataclass(frozen=True, slots=True)
class Wish:
    """A decided request; `stop < start` means that the wanted part does not exist."""

    start: int
    stop: int
    status: int
    zstd: bool
    is_known: bool
    headers: dict[str, str]

    @classmethod
    def of(cls, headers: Mapping[str, str], digest: bytes, size: int, *, is_get: bool) -> Self:
        """Return what is wanted of a blob of `size` bytes."""
        tags = {f'"{digest.hex()}"', f'"{digest.hex()}-zstd"'}
        start, stop, status = 0, size, 200
        if is_get and headers.get("If-Range", '"') in {'"', *tags}:
            part = _part(headers.get("Range", ""), size)
            if part is not None:
                (start, stop), status = part, 206
        zstd = status == 200 and size > 0 and _takes_zstd(headers.get("Accept-Encoding", ""))
        reply = {
            "Content-Type": BLOB_TYPE,
            "Accept-Ranges": "bytes",
            "ETag": f'"{digest.hex()}-zstd"' if zstd else f'"{digest.hex()}"',
            "Vary": "Accept-Encoding",
            "X-Content-Type-Options": "nosniff",
            "Content-Security-Policy": "sandbox",  # stored bytes must never act as a page of this server
        }
        if zstd:
            reply["Content-Encoding"] = "zstd"
        else:
            reply["Content-Length"] = str(max(0, stop - start))
        if status == 206:
            reply["Content-Range"] = f"bytes {start}-{stop - 1}/{size}"
        known = {tag.strip().removeprefix("W/") for tag in headers.get("If-None-Match", "").split(",")}
        return cls(start, stop, status, zstd, not known.isdisjoint({"*", *tags}), reply)


def _part(text: str, size: int) -> tuple[int, int] | None:
    """Return the wanted part: None for all of it, which is also the answer to what cannot be understood."""
    match = _RANGE.fullmatch(text.strip())
    if match is None:
        return None
    first, last, suffix = match.groups()
    if suffix is not None:
        return (max(0, size - int(suffix)), size) if int(suffix) and size else (1, 0)
    start = int(first)
    stop = min(size, int(last) + 1) if last else size
    if last and int(last) < start:
        return None
    return (start, stop) if start < size else (1, 0)


def _takes_zstd(text: str) -> bool:
    for token in text.lower().split(","):
        name, *parameters = (part.strip() for part in token.split(";"))
        if name == "zstd":
            return not any(re.fullmatch(r"q=0(\.0*)?", parameter) for parameter in parameters)
    return False
