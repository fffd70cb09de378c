"""The look-ups of the task store in SQLite that serve people and recovery."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Collection
from math import inf
from typing import Any

from server.stores.task_rows import SQL, find_repeated, get_execution, get_task, to_execution
from server.stores.writer import Database
from swarming import ids
from swarming.model import Execution, Task
from swarming.paging import MAX_PAGE, Page, Sort, TaskQuery, decode_cursor, encode_cursor, fitting
from swarming.store import Record, RunRecord, Submitted, stored_bytes

_LAST = 2**63 - 1  # no id is higher
SCANNED = 10_000  # rows one page looks at: ~20 ms, whatever the filters leave of them
_SEARCHES = {
    Sort.CREATED: "search_by_created",
    Sort.MODIFIED: "search_by_modified",
    Sort.COMPLETED: "search_by_completed",
    Sort.ABANDONED: "search_by_abandoned",
    Sort.STARTED: "search_by_started",
}


class SqliteHistory:
    """Implements `swarming.store.TaskHistory` on the database of `SqliteTaskStore`."""

    _database: Database

    async def record(self, task_id: str) -> Record:
        key = ids.unpack(task_id)[0]
        return await self._database.read(lambda db: _record(db, get_task(db, key)))

    async def record_of_run(self, execution_id: str) -> Record:
        key = ids.unpack(execution_id)[0]

        def read(db: sqlite3.Connection) -> Record:
            execution = get_execution(db, key)
            return Record(_sharer(db, key), execution, _children(db, execution))

        return await self._database.read(read)

    async def repeated(self, identity: str, request_uuid: str, since: float) -> Submitted | None:
        return await self._database.read(lambda db: find_repeated(db, identity, request_uuid, since))

    async def reusable(self, task_hash: str, since: float) -> Execution | None:
        return await self._execution("find_reusable", (task_hash, since))

    async def live(self, task_hash: str) -> Execution | None:
        return await self._execution("find_live", (task_hash,))

    async def taken(self) -> list[Execution]:
        return await self._database.read(lambda db: [to_execution(row) for row in db.execute(SQL["taken"])])

    async def queues(self) -> list[str]:
        return await self._database.read(lambda db: [queue for (queue,) in db.execute(SQL["queues"])])

    async def parents(self) -> list[str]:
        return await self._database.read(lambda db: [parent for (parent,) in db.execute(SQL["parents"])])

    async def children(self, run_ids: Collection[str]) -> list[Task]:
        return await self._tasks("children", (json.dumps(list(run_ids)),))

    async def search(self, query: TaskQuery, cursor: str | None, limit: int) -> Page[Record]:
        kind, limit = query.listing, max(1, min(limit, MAX_PAGE))
        name, wish = _search(query)
        place = decode_cursor(kind, cursor)
        if query.sort is Sort.CREATED:
            place = min(place, (wish["created_to"], _LAST))
        wish |= {"time": place[0], "number": place[1], "limit": limit + 1, "scan": SCANNED - 1}

        def read(db: sqlite3.Connection) -> Page[Record]:
            last: tuple[float, int] | None = db.execute(SQL[name.replace("search", "floor")], wish).fetchone()
            if last is not None and last >= (wish["floor_time"], wish["floor_number"]):
                wish["floor_time"], wish["floor_number"] = last
            else:
                last = None
            found = db.execute(SQL[name], wish).fetchall()
            records = fitting((_record(db, get_task(db, key)) for _, key in found[:limit]), stored_bytes)
            if len(found) > len(records):
                last = found[len(records) - 1]
            return Page(tuple(records), None if last is None else encode_cursor(kind, *last))

        return await self._database.read(read)

    async def count(self, query: TaskQuery) -> int:
        name, wish = _search(query)
        time = wish["created_to"] if query.sort is Sort.CREATED else inf
        wish |= {"time": time, "number": _LAST, "limit": -1}
        return await self._database.read(lambda db: sum(1 for _ in db.execute(SQL[name], wish)))

    async def ahead(self, execution: Execution, limit: int) -> int:
        key = ids.unpack(execution.execution_id)[0]
        place = (execution.queue, execution.priority, execution.rank, key, limit)
        return await self._database.read(lambda db: int(db.execute(SQL["ahead"], place).fetchone()[0]))

    async def runs_of(self, bot_id: str, query: TaskQuery, cursor: str | None, limit: int) -> Page[RunRecord]:
        kind, limit = query.listing_of_runs(bot_id), max(1, min(limit, MAX_PAGE))
        place = decode_cursor(kind, cursor)
        if query.created_to is not None:
            place = min(place, (query.created_to, _LAST))

        def read(db: sqlite3.Connection) -> Page[RunRecord]:
            found = db.execute(SQL["runs_of"], (bot_id, *place, limit + 1)).fetchall()
            records = fitting((_run(db, bot_id, key) for _, key in found[:limit]), stored_bytes)
            more = len(found) > len(records)
            return Page(tuple(records), encode_cursor(kind, *found[len(records) - 1]) if more else None)

        return await self._database.read(read)

    async def _tasks(self, name: str, values: tuple[Any, ...]) -> list[Task]:
        """Return the tasks whose ids a statement finds."""
        return await self._database.read(
            lambda db: [get_task(db, key) for (key,) in db.execute(SQL[name], values).fetchall()]
        )

    async def _execution(self, name: str, values: tuple[Any, ...]) -> Execution | None:
        row = await self._database.read(lambda db: db.execute(SQL[name], values).fetchone())
        return None if row is None else to_execution(row)


def _search(query: TaskQuery) -> tuple[str, dict[str, Any]]:
    """Return the statement that looks at the fewest tasks, and its values."""
    name = _SEARCHES[query.sort]
    wish: dict[str, Any] = {
        "states": json.dumps(sorted(query.states)) if query.states else None,
        "failure": query.failure,
        "deduped": query.deduped,
        "name": query.name,
        "tags": json.dumps(list(query.tags)),
        "created_from": -inf if query.created_from is None else query.created_from,
        "created_to": inf if query.created_to is None else query.created_to,
        "floor_time": -inf,
        "floor_number": 0,
    }
    if query.sort is Sort.CREATED:
        wish["floor_time"] = wish["created_from"]  # one end for the index, not two
    if query.sort is Sort.CREATED and query.name is not None:
        name = "search_by_name"
    elif query.sort is Sort.CREATED and query.tags:
        # A tag with a value of its own (user:, name:) finds fewer than one that everybody has.
        name, wish["tag"] = "search_by_tag", max(query.tags, key=len)
    elif query.sort is Sort.CREATED and len(query.states) == 1:
        name, wish["state"] = "search_by_state", next(iter(query.states))
    return name, wish


def _record(db: sqlite3.Connection, task: Task) -> Record:
    if task.execution_id is None:
        return Record(task, None)
    execution = get_execution(db, ids.unpack(task.execution_id)[0])
    return Record(task, execution, _children(db, execution))


def _run(db: sqlite3.Connection, bot_id: str, execution_key: int) -> RunRecord:
    execution = get_execution(db, execution_key)
    attempt = next(one for one in execution.attempts if one.bot_id == bot_id)
    return RunRecord(_sharer(db, execution_key), execution, attempt)


def _children(db: sqlite3.Connection, execution: Execution) -> tuple[str, ...]:
    runs = [attempt.run_id for attempt in execution.attempts]
    if not runs:
        return ()
    return tuple(ids.pack(key) for (key,) in db.execute(SQL["children"], (json.dumps(runs),)))


def _sharer(db: sqlite3.Connection, execution_key: int) -> Task:
    """Return the oldest task attached to an execution, else the task of its own id."""
    row = db.execute(SQL["attached"], (execution_key,)).fetchone()
    return get_task(db, execution_key if row is None else row[0])
