"""Deletion of old tasks, executions and events in the database of the task store.

Knows no policy: what is old is said by the caller. Every call is one small job, so that a claim never waits behind it.
"""

from __future__ import annotations

import sqlite3

import msgspec

from server.stores.task_rows import SQL, to_execution
from server.stores.writer import Database
from swarming import ids
from swarming.model import TaskRequest

_request = msgspec.json.Decoder(TaskRequest)


class SqliteRetention:
    """Implements `swarming.store.Retention` on the database of `SqliteTaskStore`."""

    _database: Database

    async def forget_tasks(self, before: float, limit: int) -> int:
        def write(db: sqlite3.Connection) -> int:
            old = db.execute(SQL["old_tasks"], (before, limit)).fetchall()
            for key, created_at, body in old:
                tags = dict.fromkeys(_request.decode(body).tags)
                db.executemany(SQL["delete_tag"], [(tag, created_at, key) for tag in tags])
                db.execute(SQL["delete_request"], (key,))
                db.execute(SQL["delete_task"], (key,))
            unused = db.execute(SQL["old_results"], (ids.number(before, 0), limit)).fetchall()
            for key, body in unused:
                execution = to_execution((body,))
                runs = [(attempt.bot_id, execution.created_at, key) for attempt in execution.attempts]
                db.executemany(SQL["delete_run"], runs)
                db.execute(SQL["delete_result"], (key,))
            return len(old) + len(unused)

        return await self._database.write(write)

    async def forget_events(self, before: float, limit: int) -> int:
        return await self._database.write(lambda db: db.execute(SQL["delete_old_events"], (before, limit)).rowcount)
