"""The transfer API as both sides see it: paths, media types, limits and JSON bodies.

Knows no HTTP library. A client writes what a server parses with the function beside it, so the two cannot differ.
Streams of records are `block.py`'s business.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Self

from isolate.cas.block import MAX_ENTRIES, MAX_PLAIN_BYTES
from isolate.cas.digest import Algorithm, Blob
from isolate.cas.store import MAX_BATCH, Written
from isolate.errors import InvalidDigest, InvalidInput, TooLarge

PREFIX = "/cas/v2"
FORMAT = 2  # of the calls and the records together; a server that speaks another one says so in `info`
RECORDS_TYPE = "application/x-isolate-records"
DIGESTS_TYPE = "application/x-isolate-digests"
JSON_TYPE = "application/json"
BLOB_TYPE = "application/octet-stream"  # of `blob/{hex}`

CHUNKED_ABOVE_BYTES = 4 << 20  # a larger blob travels as chunks and is composed
MAX_BLOB_BYTES = MAX_ENTRIES * (512 << 10)  # 32 GiB: whatever the content, its chunks fit one recipe
MAX_DIGESTS_BYTES = MAX_BATCH * 64
MAX_COMPOSE_BYTES = MAX_ENTRIES * 160  # JSON of one SHA-512 digest and a size is below 150 bytes


def call_path(namespace: str, call: str) -> str:
    """Return the path of a call: `info`, `missing`, `blocks`, `compose`, `read` or `blob/{hex}`."""
    return f"{PREFIX}/{namespace}/{call}"


def pack_digests(digests: Iterable[bytes], algorithm: Algorithm) -> bytes:
    """Return digests, concatenated; raises InvalidDigest when one is not of `algorithm`."""
    listed = list(digests)
    for digest in listed:
        if len(digest) != algorithm.digest_bytes:
            raise InvalidDigest(f"{digest.hex()!r} is not a {algorithm.name} digest")
    return b"".join(listed)


def parse_digests(body: bytes, algorithm: Algorithm) -> list[bytes]:
    """Return the digests of a body; raises InvalidDigest, TooLarge."""
    size = algorithm.digest_bytes
    if len(body) % size:
        raise InvalidDigest(f"{len(body)} bytes are no whole number of {algorithm.name} digests of {size} bytes")
    if len(body) > MAX_BATCH * size:
        raise TooLarge(f"{len(body) // size} digests in one call, limit {MAX_BATCH}")
    return [body[start : start + size] for start in range(0, len(body), size)]


def compose_body(blob: Blob, chunks: Sequence[Blob]) -> dict[str, Any]:
    """Return the body of `compose`."""
    return {
        "digest": blob.digest.hex(),
        "size": blob.size,
        "chunks": [[digest.hex(), size] for digest, size in chunks],
    }


def parse_compose(body: object, algorithm: Algorithm) -> tuple[Blob, tuple[Blob, ...]]:
    """Return the blob and its chunks; raises InvalidInput. Whether the sizes add up is the store's to say."""
    match body:
        case {"digest": str(text), "size": int(size), "chunks": [*rows]}:
            blob = _blob(text, size, algorithm)
        case _:
            raise InvalidInput('Expected {"digest": hex, "size": bytes, "chunks": [[hex, bytes], …]}')
    chunks = []
    for row in rows:
        match row:
            case [str(text), int(size)]:
                chunks.append(_blob(text, size, algorithm))
            case _:
                raise InvalidInput("Each chunk must be a pair of a digest and a size in bytes")
    return blob, tuple(chunks)


def written_body(written: Written) -> dict[str, int]:
    """Return the reply to `blocks`."""
    return {"stored": written.stored, "present": written.present, "bytes": written.size_bytes}


def parse_written(body: object) -> Written:
    """Return what a reply to `blocks` says; raises InvalidInput."""
    match body:
        case {"stored": int(stored), "present": int(present), "bytes": int(size_bytes)}:
            return Written(stored, present, size_bytes)
    raise InvalidInput("Reply to an upload has no counts")


@dataclass(frozen=True, slots=True)
class StoreInfo:
    """What `info` tells about a namespace of a server."""

    promised_s: float
    kept_s: float
    server_version: str
    format: int = FORMAT
    max_batch: int = MAX_BATCH
    max_blob_bytes: int = MAX_BLOB_BYTES
    max_block_bytes: int = MAX_PLAIN_BYTES

    def body(self) -> dict[str, Any]:
        """Return the reply to `info`."""
        return asdict(self)

    @classmethod
    def parse(cls, body: object) -> Self:
        """Return what a reply to `info` says; unknown keys are ignored; raises InvalidInput."""
        if not isinstance(body, Mapping):
            raise InvalidInput("Reply to `info` is not a JSON object")
        try:
            return cls(
                promised_s=_seconds(body["promised_s"]),
                kept_s=_seconds(body["kept_s"]),
                server_version=str(body["server_version"]),
                **{name: int(body[name]) for name in ("format", "max_batch", "max_blob_bytes", "max_block_bytes")},
            )
        except (KeyError, TypeError, ValueError) as error:
            raise InvalidInput(f"Reply to `info` is incomplete: {error}") from error


def _seconds(value: Any) -> float:
    seconds = float(value)
    if not math.isfinite(seconds):
        raise ValueError(value)
    return seconds


def _blob(text: str, size: int, algorithm: Algorithm) -> Blob:
    if isinstance(size, bool) or size < 0:
        raise InvalidInput(f"Size {size!r} is not a number of bytes")
    return Blob(algorithm.parse_hex(text), size)
