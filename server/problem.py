"""What an error is called outside: its HTTP status, its code and its JSON body.

Knows no route and raises nothing. The invariant: an error that is not in the table is ours, so it answers 500 and its
text stays in the log; only messages written for users (`isolate.errors`) leave the process.
"""

from __future__ import annotations

import math
from typing import Any

from isolate import errors

# The first match wins, so a class stands before its bases.
TABLE: tuple[tuple[type[Exception], int, str], ...] = (
    (errors.TooLarge, 413, "too_large"),
    (errors.InvalidRecord, 400, "invalid_record"),
    (errors.InvalidDigest, 400, "invalid_digest"),
    (errors.InvalidNamespace, 400, "invalid_namespace"),
    (errors.InvalidInput, 400, "invalid"),
    (errors.UploadCorrupt, 400, "digest_mismatch"),
    (errors.StoredCorrupt, 500, "stored_corrupt"),
    (errors.ChunksMissing, 409, "chunks_missing"),
    (errors.BlobsMissing, 404, "blobs_missing"),
    (errors.NotFound, 404, "not_found"),
    (errors.OutputLost, 410, "output_lost"),  # asking again does not help, and the clients of 2020 do not
    (errors.LeaseLost, 409, "lease_lost"),
    (errors.Stale, 409, "stale"),
    (errors.NoSpace, 507, "no_space"),
    (errors.Unavailable, 503, "unavailable"),
    (errors.Busy, 503, "busy"),
)
DEFAULT_RETRY_AFTER_S = 1.0  # most of what is refused for load is over by then; clients add their own jitter


def status_of(error: BaseException) -> int:
    """Return the HTTP status that `error` answers with."""
    return error.status if isinstance(error, errors.Refused) else _row(error)[0]


def code_of(error: BaseException) -> str:
    """Return the word a program may decide by."""
    return "refused" if isinstance(error, errors.Refused) else _row(error)[1]


def error_body(error: BaseException) -> dict[str, Any]:
    """Return the JSON body of the answer: `{"error": {"code", "message", …}}`."""
    code = code_of(error)
    known = isinstance(error, errors.IsolateError)
    body: dict[str, Any] = {"code": code, "message": str(error) if known else "Internal error of the server"}
    if isinstance(error, errors.UploadCorrupt):
        body |= {"digest": error.blob.digest.hex(), "found": error.found.hex()}
    elif isinstance(error, errors.BlobsMissing):
        body["missing"] = [digest.hex() for digest in error.digests]
    return {"error": body}


def error_headers(error: BaseException) -> dict[str, str]:
    """Return the headers that tell a client how to go on."""
    if status_of(error) != 503:
        return {}
    wait_s = getattr(error, "retry_after_s", None)
    return {"Retry-After": str(max(1, math.ceil(DEFAULT_RETRY_AFTER_S if wait_s is None else wait_s)))}


def _row(error: BaseException) -> tuple[int, str]:
    for kind, status, code in TABLE:
        if isinstance(error, kind):
            return status, code
    return 500, "internal"
