"""Listings: which tasks are wanted, in which order, and where a page goes on.

Knows no store. A cursor is opaque to clients and says for which listing it was made, so that one of another is refused.
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from enum import Enum
from math import inf
from typing import Generic, TypeVar

from isolate.cas.digest import SHA256
from isolate.errors import InvalidInput
from swarming.states import State

T = TypeVar("T")
MAX_PAGE = 1000  # items of one answer
_MOST_SHOWN = 50  # characters of a cursor that is none
MAX_PAGE_BYTES = 8 << 20  # of their stored form: 1000 usual ones have 3 MiB


@dataclass(frozen=True, slots=True)
class Page(Generic[T]):
    """Some of the items, and the cursor of the following ones (None at the end)."""

    items: tuple[T, ...]
    cursor: str | None


def fitting(items: Iterable[T], size_of: Callable[[T], int]) -> list[T]:
    """Return the first of `items` that fit in one answer together, but at least one; takes no more than those."""
    found: list[T] = []
    left = MAX_PAGE_BYTES
    for item in items:
        left -= size_of(item)
        if found and left < 0:
            break
        found.append(item)
    return found


class Sort(Enum):
    """What is newest first."""

    CREATED = "created"
    MODIFIED = "modified"
    COMPLETED = "completed"
    ABANDONED = "abandoned"
    STARTED = "started"


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskQuery:
    """Which tasks; what is not said does not matter, what is said must all hold."""

    states: frozenset[State] = frozenset()
    failure: bool | None = None
    deduped: bool | None = None
    tags: tuple[str, ...] = ()  # exact `key:value`
    name: str | None = None
    created_from: float | None = None  # inclusive
    created_to: float | None = None  # inclusive
    sort: Sort = Sort.CREATED

    @property
    def listing(self) -> str:
        """The name of the listing of these tasks, for its cursors."""
        filters = (sorted(self.states), self.failure, self.deduped, sorted(self.tags), self.name)
        return listing_of(self.sort.value, (*filters, self.created_from, self.created_to))

    def listing_of_runs(self, bot_id: str) -> str:
        """Return the name of the listing of such runs of a bot."""
        return listing_of("run", (bot_id, self.listing))


def listing_of(kind: str, wish: object) -> str:
    """Return the name of a listing of what `wish` asks for: cursors of one wish are none of another."""
    return f"{kind}-{SHA256.digest(repr(wish).encode('utf-8', 'backslashreplace'))[:6].hex()}"


def encode_cursor(kind: str, time: float, number: int) -> str:
    """Return the cursor of an item in a listing called `kind`."""
    return base64.urlsafe_b64encode(f"{kind} {time!r} {number}".encode()).decode().rstrip("=")


def decode_cursor(kind: str, cursor: str | None) -> tuple[float, int]:
    """Return (time, number) of the item that the wanted page comes after; raises InvalidInput."""
    if cursor is None:
        return inf, 0
    try:
        text = base64.b64decode(cursor + "=" * (-len(cursor) % 4), altchars=b"-_", validate=True).decode("ascii")
        found, time, number = text.split(" ")
        place = float(time), int(number)
    except ValueError as error:
        raise InvalidInput(f"Invalid cursor {_shown(cursor)}") from error
    if found != kind or not -inf < place[0] < inf or not 0 <= place[1] < 2**63:
        raise InvalidInput(f"Invalid cursor {_shown(cursor)}")
    return place


def _shown(cursor: str) -> str:
    return repr(cursor if len(cursor) <= _MOST_SHOWN else f"{cursor[:_MOST_SHOWN]}…")


def encode_text_cursor(kind: str, text: str) -> str:
    """Return the cursor of an item that is found by its name in a listing called `kind`."""
    return base64.urlsafe_b64encode(f"{kind} {text}".encode()).decode().rstrip("=")


def decode_text_cursor(kind: str, cursor: str) -> str:
    """Return the name of the item that the wanted page comes after; raises InvalidInput."""
    try:
        found, _, text = (
            base64.b64decode(cursor + "=" * (-len(cursor) % 4), altchars=b"-_", validate=True).decode().partition(" ")
        )
    except ValueError as error:
        raise InvalidInput(f"Invalid cursor {_shown(cursor)}") from error
    if found != kind:
        raise InvalidInput(f"Invalid cursor {_shown(cursor)}")
    return text
