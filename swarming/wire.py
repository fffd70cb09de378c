"""Scalars of the REST API: how JSON bodies and query values spell integers, times, booleans and enums.

Knows no message: those are in `wire_in` (what clients send), `wire_out` (what they get back) and `wire_bot` (what bots
say). Whatever is malformed raises `InvalidInput` with a message for the sender.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, TypeVar

import msgspec

from isolate.errors import InvalidInput, InvalidTask

Message = TypeVar("Message", bound=msgspec.Struct)
Query = Sequence[tuple[str, str]]

MAX_LIMIT = 1000
DEFAULT_LIMIT = 200

# Numbers are accepted wherever a name is: the web pages of 2020 send `pool_task_template: 3`.
STATE_QUERIES = (
    "PENDING", "RUNNING", "PENDING_RUNNING", "COMPLETED", "COMPLETED_SUCCESS", "COMPLETED_FAILURE", "EXPIRED",
    "TIMED_OUT", "BOT_DIED", "CANCELED", "ALL", "DEDUPED", "KILLED", "NO_RESOURCE",
)  # fmt: skip
SORTS = ("CREATED_TS", "MODIFIED_TS", "COMPLETED_TS", "ABANDONED_TS", "STARTED_TS")
THREE_STATES: dict[str, bool | None] = {"FALSE": False, "1": False, "TRUE": True, "2": True, "NONE": None, "3": None}
CONTAINMENTS = ("NOT_SPECIFIED", "NONE", "AUTO", "JOB_OBJECT")


def decode(body: bytes, kind: type[Message]) -> Message:
    """Return the JSON object `body` as a `kind`; no body is `{}`, unknown keys are ignored, numbers may be strings.

    Null is unset, so every field of a message is optional. Raises InvalidTask naming what is wrong and where.
    """
    try:
        return msgspec.json.decode(body or b"{}", type=kind, strict=False)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError, OverflowError) as error:
        raise InvalidTask(f"Invalid JSON body: {_reason(body, error)}") from error


def _reason(body: bytes, error: Exception) -> str:
    """Return what is wrong with a body: the decoder takes half of a surrogate pair for an end that is missing."""
    if "truncated" not in str(error):
        return str(error)
    try:
        json.loads(body)
    except (ValueError, RecursionError):
        return str(error)
    return "a text has half of a surrogate pair, such as \\ud800, which is no character"


def ts(epoch_s: float | None) -> str | None:
    """Return a time as replies have it: UTC without zone, a fraction only where there is one."""
    return None if epoch_s is None else datetime.fromtimestamp(epoch_s, UTC).replace(tzinfo=None).isoformat()


def str64(number: int | None) -> str | None:
    """Return a 64-bit integer as replies have it."""
    return None if number is None else str(number)


def compact(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Return `fields` without the unset ones: None and empty lists; false, zero and "" stay."""
    return {key: value for key, value in fields.items() if value is not None and value != []}


def pairs(mapping: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return a dictionary as `[{key, value}]`, sorted by key."""
    return [{"key": key, "value": _plain(mapping[key])} for key in sorted(mapping)]


def _plain(value: Any) -> Any:
    return value if isinstance(value, str) else list(value)


def first(query: Query, key: str) -> str | None:
    """Return the last value of `key` in a query string, None when it is absent or empty."""
    found = None
    for name, value in query:
        if name == key:
            found = value
    return found or None


def every(query: Query, key: str) -> list[str]:
    """Return all values of a repeated key."""
    return [value for name, value in query if name == key]


def boolean(query: Query, key: str) -> bool:
    """Return a flag; raises InvalidInput unless it is `true` or `false` in any case."""
    text = first(query, key)
    if text is None:
        return False
    if text.lower() not in {"true", "false"}:
        raise InvalidInput(f"Invalid value {text!r} of {key}: expected true or false")
    return text.lower() == "true"


def integer(query: Query, key: str, default: int, low: int, high: int) -> int:
    """Return a number between `low` and `high`; raises InvalidInput."""
    text = first(query, key)
    if text is None:
        return default
    if not text.lstrip("-").isascii() or not text.lstrip("-").isdigit() or len(text) > 19:
        raise InvalidInput(f"Invalid value {text!r} of {key}: expected a number")
    if not low <= int(text) <= high:
        raise InvalidInput(f"Invalid value {text} of {key}: expected {low} to {high}")
    return int(text)


def limit(query: Query) -> int:
    """Return how many items a listing may have."""
    return integer(query, "limit", DEFAULT_LIMIT, 1, MAX_LIMIT)


def epoch_s(query: Query, key: str) -> float | None:
    """Return a time given as seconds since the epoch; raises InvalidInput."""
    text = first(query, key)
    if text is None:
        return None
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not math.isfinite(seconds):
        raise InvalidInput(f"Invalid value {text!r} of {key}: expected seconds since the epoch")
    return seconds


def choice(text: str | int | None, names: Sequence[str], what: str, default: str) -> str:
    """Return one of `names`, given by name or by position; raises InvalidInput."""
    if text is None:
        return default
    if text in names:
        return str(text)
    if str(text).isascii() and str(text).isdigit() and int(text) < len(names):
        return names[int(text)]
    raise InvalidInput(f"Invalid value {text!r} of {what}: expected one of {', '.join(names)}")


def three_state(query: Query, key: str) -> bool | None:
    """Return TRUE, FALSE or "does not matter" (None); raises InvalidInput."""
    text = first(query, key)
    if text is None:
        return None
    if text.upper() not in THREE_STATES:
        raise InvalidInput(f"Invalid value {text!r} of {key}: expected TRUE, FALSE or NONE")
    return THREE_STATES[text.upper()]


def dimension_filter(values: Iterable[str]) -> tuple[tuple[str, str], ...]:
    """Return `k:v` filters as pairs; raises InvalidInput."""
    parted = [text.partition(":") for text in values]
    if not all(key and value for key, _, value in parted):
        raise InvalidInput("Invalid dimensions")
    return tuple((key, value) for key, _, value in parted)
