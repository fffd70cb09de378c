"""Figures an administrator may change: how much must be free, how large the cache may be.

Pure. What `get_settings` of the hooks returns is laid over the defaults, which are those of 2020.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from isolate.errors import InvalidInput
from run_isolated.cgroups import NO_LIMITS, Limits
from run_isolated.ways import DEFAULT, WAYS

GIB, MIB = 1 << 30, 1 << 20
MAX_TEMP_FILES = 1024  # more of them are left behind by tasks that do not clean up; a full /tmp fails all others


@dataclass(frozen=True, slots=True, kw_only=True)
class FreeSpace:
    """How much of a file system must be free: at least a share of it, and a size unless that is too large a share."""

    size_bytes: int
    max_percent: float
    min_percent: float

    def required_bytes(self, total_bytes: int) -> int:
        """Return how much of a file system of this size must be free."""
        share = total_bytes / 100
        return int(max(self.min_percent * share, min(self.size_bytes, self.max_percent * share)))


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """All of them."""

    root: FreeSpace = field(default=FreeSpace(size_bytes=GIB, max_percent=10, min_percent=6))
    bot: FreeSpace = field(default=FreeSpace(size_bytes=4 * GIB, max_percent=15, min_percent=7))
    wiggle_bytes: int = 250 * MIB  # the cache is trimmed before the bot is out of service
    cache_bytes: int = 50 * GIB
    cache_items: int = 50 * 1024
    mapping: str = DEFAULT  # how inputs get into the tree of a task: one of WAYS
    max_temp_files: int = MAX_TEMP_FILES
    limits: Limits = NO_LIMITS  # of all processes of a task together, where the machine can enforce them

    @classmethod
    def of(cls, changes: Any) -> Settings:
        """Return the settings that `changes`, spelt as in 2020, make of the defaults; raises InvalidInput."""
        usual = cls()
        partition, cache = _part(changes, "free_partition"), _part(_part(changes, "caches"), "isolated")
        own, limits = _part(partition, "bot"), _part(changes, "limits")
        return cls(
            root=_free_space(_part(partition, "root"), usual.root),
            bot=_free_space(own, usual.bot),
            wiggle_bytes=int(_number(own, "wiggle", usual.wiggle_bytes)),
            cache_bytes=int(_number(cache, "size", usual.cache_bytes)),
            cache_items=int(_number(cache, "items", usual.cache_items)),
            mapping=_way(cache.get("map", usual.mapping)),
            max_temp_files=int(_number(_part(changes, "temp"), "max_files", usual.max_temp_files)),
            limits=Limits(
                memory_bytes=int(_number(limits, "memory", 0)),
                processes=int(_number(limits, "processes", 0)),
                cpu_cores=_number(limits, "cpu", 0),
            ),
        )


def _free_space(changes: Mapping[str, Any], usual: FreeSpace) -> FreeSpace:
    return FreeSpace(
        size_bytes=int(_number(changes, "size", usual.size_bytes)),
        max_percent=_number(changes, "max_percent", usual.max_percent),
        min_percent=_number(changes, "min_percent", usual.min_percent),
    )


def _way(name: Any) -> str:
    if name not in WAYS:
        raise InvalidInput(f"settings whose 'map' is not one of {', '.join(WAYS)}: {name!r}")
    return str(name)


def _part(changes: Any, key: str) -> Mapping[str, Any]:
    found = changes.get(key) if isinstance(changes, Mapping) else changes
    if found is None:
        return {}
    if not isinstance(found, Mapping):
        raise InvalidInput(f"settings whose {key!r} is not an object")
    return found


def _number(changes: Mapping[str, Any], key: str, usual: float) -> float:
    found = changes.get(key, usual)
    if isinstance(found, bool) or not isinstance(found, int | float) or not found >= 0:
        raise InvalidInput(f"settings whose {key!r} is not a number: {str(found)[:100]!r}")
    return found
