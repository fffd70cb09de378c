"""A page of a listing looks at a bounded number of rows, whatever the filters leave of them."""

from __future__ import annotations

from pathlib import Path

import pytest

from server.stores import sqlite_history
from server.stores.sqlite_tasks import SqliteTaskStore
from swarming.paging import Sort, TaskQuery
from swarming.states import State
from tests.tasks import NOW, request, submission


@pytest.mark.parametrize(
    ("query", "pages"),
    [
        (TaskQuery(name="rare"), 1),  # its own index finds it at once
        (TaskQuery(tags=("a:rare", "pool:common")), 4),
        (TaskQuery(tags=("pool:common",), states=frozenset({State.RUNNING})), 4),
        (TaskQuery(states=frozenset({State.RUNNING, State.KILLED})), 4),
        (TaskQuery(states=frozenset({State.RUNNING, State.KILLED}), created_from=NOW + 6), 2),
        (TaskQuery(sort=Sort.MODIFIED, failure=True), 4),
    ],
)
async def test_a_search_goes_on_in_steps(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, query: TaskQuery, pages: int
) -> None:
    monkeypatch.setattr(sqlite_history, "SCANNED", 3)
    store = SqliteTaskStore(tmp_path / "tasks.sqlite")
    try:
        for serial in range(10):
            tags = ("pool:common", "a:rare") if serial == 0 else ("pool:common",)
            wanted = request("common" if serial else "rare", tags=tags)
            await store.submit(submission(serial, wanted, NOW + serial))
        found, cursor, count = [], None, 0
        while count == 0 or cursor is not None:
            page = await store.search(query, cursor, 2)
            found += [record.task.request.name for record in page.items]
            cursor, count = page.cursor, count + 1
        assert count == pages
        assert len(found) == await store.count(query)
        assert found in ([], ["rare"])
    finally:
        await store.close()
