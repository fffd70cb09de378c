"""The list of named caches as the tools of 2020 write it: `state.json`, version 3, least recently used first.

And `lent.json`, which is ours: the caches that are in a run. Pure: text to values and back. The invariant: a name or
directory that was read cannot lead out of the folder of the caches, and no two caches share a directory.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Sequence
from typing import Any, NamedTuple

from isolate.errors import IndexCorrupt, InvalidInput

VERSION = 3
_NAME = re.compile(r"[a-z0-9_]{1,4096}")
_DIRECTORY = re.compile(r"[a-zA-Z0-9]{1,32}")
_ALSO_THERE = {"named", "lock"}  # beside the directories


class Kept(NamedTuple):
    """One cache that is not in use."""

    directory: str
    size_bytes: int
    used_s: float


class Loan(NamedTuple):
    """One cache that a run has, and the absolute path where it is."""

    name: str
    place: str


State = dict[str, Kept]  # by name, least recently used first


def cache_name(text: str) -> str:
    """Return `text` if it can name a cache; raises InvalidInput."""
    if not _NAME.fullmatch(text):
        raise InvalidInput(f"{text!r} cannot name a cache: use a-z, 0-9 and _, at most 4096 of them")
    return text


def loads(text: str) -> State:
    """Return what a state file says; raises IndexCorrupt."""
    try:
        loaded = json.loads(text)
        if loaded["version"] != VERSION:
            raise IndexCorrupt(f"its version is {loaded['version']!r}")
        state = {cache_name(name): _kept(*value) for name, value in loaded["items"]}
    except (ValueError, TypeError, KeyError, RecursionError, InvalidInput) as error:
        raise IndexCorrupt(f"it is not a list of named caches: {error}") from error
    directories = {kept.directory for kept in state.values()}
    if len(state) != len(loaded["items"]) or len(directories) != len(state):
        raise IndexCorrupt("it has the same cache twice")
    return state


def dumps(state: State) -> str:
    """Return the state file for `state`."""
    items = [[name, [[kept.directory, kept.size_bytes], round(kept.used_s)]] for name, kept in state.items()]
    return json.dumps({"items": items, "version": VERSION}, sort_keys=True, separators=(",", ":"))


def loads_loans(text: str) -> list[Loan]:
    """Return what `dumps_loans` wrote; raises IndexCorrupt."""
    try:
        loans = [Loan(cache_name(name), os.path.normpath(place)) for name, place in json.loads(text)["lent"]]
    except (ValueError, TypeError, KeyError, RecursionError, InvalidInput) as error:
        raise IndexCorrupt(f"it is not a list of caches that are lent: {error}") from error
    if not all(os.path.isabs(loan.place) for loan in loans):
        raise IndexCorrupt("it names a place that is no absolute path")
    return loans


def dumps_loans(loans: Sequence[Loan]) -> str:
    """Return the file for `loans`, the earliest first."""
    return json.dumps({"lent": loans, "version": 1}, sort_keys=True, separators=(",", ":"))


def _kept(value: Any, used_s: Any) -> Kept:
    # Before sizes were kept, the value was the directory alone.
    directory, size_bytes = (value, 0) if isinstance(value, str) else value
    if not _DIRECTORY.fullmatch(directory) or directory in _ALSO_THERE:
        raise IndexCorrupt(f"{directory!r} is no directory of a cache")
    if not isinstance(size_bytes, int) or size_bytes < 0:
        raise IndexCorrupt(f"{size_bytes!r} is no size")
    return Kept(directory, size_bytes, float(used_s))
