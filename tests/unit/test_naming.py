"""Which tasks a name stands for."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from typing import Any

import pytest

from swarming.naming import Named, newest, shard_of


async def listed(*names: str, read: list[str] | None = None) -> AsyncIterator[Mapping[str, Any]]:
    """Yield tasks, newest first, each `name` or `name@time`; ids are `0`, `1`, …, times differ unless given."""
    for number, name in enumerate(names):
        if read is not None:
            read.append(name)
        text, _, time = name.partition("@")
        yield {"task_id": f"{number}", "name": text, "created_ts": time or f"{-number}"}


@pytest.mark.parametrize(
    ("names", "task_ids", "total"),
    [
        (["other", "unit"], "1", 0),
        (["unit", "unit:1:2", "unit:0:2"], "0", 0),
        (["unit:1:2", "unit:0:2", "unit"], "10", 2),
        (["unit:2:3", "unit:1:3", "x:1:3", "unit:0:3", "unit:2:3"], "310", 3),
        (["unit:0:2", "unit:1:2", "unit:0:2"], "0", 2),  # stopped after its first shard: not filled up from before
        (["unit:1:3", "unit:0:3", "unit:2:3", "unit:1:3", "unit:0:3"], "10", 3),
        (["unit:0:1000", "unit:1:2", "unit:0:2"], "0", 1000),
        (["unit:1:2", "unit"], "0", 2),
        (["unit:0:3@a", "unit:1:3@a", "unit:2:3@a"], "012", 3),  # of one moment: in any order
        (["unit:1:3@a", "unit:2:3@a", "unit:0:3@b"], "201", 3),
    ],
)
async def test_the_newest_run_and_nothing_else(names: list[str], task_ids: str, total: int) -> None:
    found = await newest(listed(*names), "unit")
    assert found is not None
    assert (found.task_ids, found.total) == (tuple(task_ids), total)
    assert found.is_whole == (len(task_ids) == max(1, total))


async def test_no_more_is_read_than_needed() -> None:
    read: list[str] = []
    await newest(listed("unit:1:2", "unit:0:2", "unit:1:2", read=read), "unit")
    assert read == ["unit:1:2", "unit:0:2"]
    assert await newest(listed("other", "unit:x:2", "unit:2:2"), "unit") is None


async def test_one_shard_may_be_meant() -> None:
    assert await newest(listed("unit:1:2", "unit:0:2"), "unit:0:2") == Named(("1",), 0, "-1")


def test_what_a_shard_is_called() -> None:
    assert shard_of("a:b:1:3") == ("a:b", 1, 3)
    assert shard_of("a:3:3") == ("a:3:3", 0, 0)
    assert shard_of("a") == ("a", 0, 0)
