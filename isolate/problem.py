"""What an error reply means: a status and a body become one of `isolate.errors`.

Knows no transport. The other direction, with the table of codes, is the server's.
"""

from __future__ import annotations

import json
from typing import Any

from isolate import errors


def error_of(status: int, body: bytes, url: str, retry_after_s: float | None = None) -> errors.IsolateError:
    """Return what a reply of `status` (400 and above, or a redirection) means for the caller."""
    problem = problem_of(body)
    message, code = problem.get("message"), problem.get("code")
    said = message if isinstance(message, str) and message else f"{url} answered {status}{_doubt(status, body)}"
    if status == 409:
        return errors.LeaseLost(said) if code == "lease_lost" else errors.Stale(said)
    if status == 410 and code == "output_lost":
        return errors.OutputLost(said)
    if status in _BY_STATUS and not (status == 400 and not problem):  # what is no error of ours blames no input
        return _BY_STATUS[status](said)
    if status == 429 or status >= 500:
        return errors.Unavailable(f"{url} answered {status}: {said}" if message else said, retry_after_s)
    return errors.Refused(said, status)


_BY_STATUS: dict[int, type[errors.IsolateError]] = {
    400: errors.Rejected,
    404: errors.NotFound,
    413: errors.TooLarge,
    507: errors.NoSpace,
}

_OVERLOADED = {429: "it gets too many requests", 503: "it is overloaded, or down for maintenance"}


def _doubt(status: int, body: bytes) -> str:
    """Return what to think of an answer without words: what it means, or that it is none of our servers'."""
    if status in _OVERLOADED:
        return f": {_OVERLOADED[status]}"
    is_ours = body.startswith(b"{")
    return "" if is_ours or status not in {301, 302, 307, 308, 400, 404, 405, 501} else ": is it the right server?"


def problem_of(body: bytes) -> dict[str, Any]:
    """Return the `error` of an error body as an object, whatever the kind of server."""
    try:
        parsed = json.loads(body)
    except (ValueError, RecursionError):
        return {}
    if not isinstance(parsed, dict):
        return {}
    match parsed:
        case {"error": dict(error)}:
            return error
        case {"error": str(message)} | {"text": str(message)}:
            return {"message": message, "code": parsed.get("code")}
    return {}
