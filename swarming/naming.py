"""Which tasks a name stands for: the newest task called so, or the newest run of its shards.

Pure: it is given a listing, newest first, and reads no more of it than it needs. The invariant: shards of two runs are
never put together. `trigger` makes the shards of a run in their order, so, going back in time, an index that rises or
comes again, or another number of shards, belongs to a run before.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Named:
    """The tasks of one run, in the order of their shards; `total` is 0 for a task without shards."""

    task_ids: tuple[str, ...]
    total: int
    created_ts: str  # of the first shard, as the server wrote it

    @property
    def is_whole(self) -> bool:
        """Whether every shard is there."""
        return len(self.task_ids) == max(1, self.total)


async def newest(items: AsyncIterator[Mapping[str, Any]], name: str) -> Named | None:
    """Return what `name` stands for; None when nothing in the listing is called so."""
    shards: dict[int, str] = {}
    total, lowest, created_ts = 0, 0, ""
    async for item in items:
        task_id, item_ts = str(item["task_id"]), str(item.get("created_ts", ""))
        base, index, count = shard_of(str(item["name"]))
        if item["name"] == name and not shards:
            return Named((task_id,), 0, item_ts)
        if base != name and item["name"] != name:
            continue
        is_earlier_run = count != total or index in shards or (index > lowest and item_ts != created_ts)
        if shards and is_earlier_run:
            break
        shards[index], total, lowest, created_ts = task_id, count, index, item_ts
        if len(shards) == total:
            break
    return Named(tuple(task_id for _, task_id in sorted(shards.items())), total, created_ts) if shards else None


def shard_of(name: str) -> tuple[str, int, int]:
    """Split `name:<index>:<count>`; the count is 0 for a task that is no shard."""
    base, _, rest = name.rpartition(":")
    base, _, index = base.rpartition(":")
    if index.isdecimal() and rest.isdecimal() and int(index) < int(rest):
        return base, int(index), int(rest)
    return name, 0, 0
