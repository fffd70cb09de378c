"""The task store in SQLite: tasks, executions and bots in one file with one writer thread.

Knows no policy and no clock: what the store must decide by itself is in the shared rules of `swarming.sharing`, and
statements are in `sql/tasks*.sql`. Each operation is one job of the writer, so it is atomic, and durable when it
returns.
"""

from __future__ import annotations

import base64
import json
import sqlite3
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from msgspec.structs import replace

from isolate.clock import Clock
from isolate.errors import Stale
from isolate.monitor import Monitor
from server.stores.sqlite_bots import SqliteBots
from server.stores.sqlite_history import SqliteHistory
from server.stores.sqlite_retention import SqliteRetention
from server.stores.task_rows import (
    SQL,
    execution_row,
    find_repeated,
    get_execution,
    get_task,
    insert_task,
    number,
    result_row,
    standing_row,
    to_execution,
)
from server.stores.writer import Database, DatabasePolicy
from swarming import ids, sharing
from swarming.model import Attempt, Execution, Task
from swarming.states import LIVE
from swarming.store import Change, How, Offer, Submission, Submitted

MIGRATIONS = (SQL["schema_1"], SQL["schema_2"], SQL["schema_3"], SQL["schema_4"])
# Jobs are tiny, and who sent one waits for the commit before it sends the next: a group that goes on collecting makes
# them all wait. Measured with 80 callers: 5 ms gives a fifth more tasks a second than 30 ms, 2 ms a fifth less.
POLICY = DatabasePolicy(group_s=0.005)


class SqliteTaskStore(SqliteHistory, SqliteBots, SqliteRetention):
    """Implements `swarming.store.Store`."""

    def __init__(self, path: Path, *, clock: Clock | None = None, monitor: Monitor | None = None) -> None:
        self._database = Database(path, MIGRATIONS, policy=POLICY, clock=clock, monitor=monitor)

    @property
    def database(self) -> Database:
        """The file, for those who keep what belongs to tasks."""
        return self._database

    async def close(self) -> None:
        """Finish what was asked for and close the file."""
        await self._database.close()

    async def submit(self, submission: Submission) -> Submitted:
        return await self._database.write(lambda db: _submit(db, submission))

    async def claim(self, queues: Sequence[str], offer: Offer) -> Execution | None:
        return await self._database.write(lambda db: _claim(db, queues, offer))

    async def replace(self, changes: Sequence[Change], tasks: Sequence[Task] = ()) -> list[Execution]:
        return await self._database.write(lambda db: _replace(db, changes, tasks))

    async def task(self, task_id: str) -> Task:
        key = ids.unpack(task_id)[0]
        return await self._database.read(lambda db: get_task(db, key))

    async def execution(self, execution_id: str) -> Execution:
        key = ids.unpack(execution_id)[0]
        return await self._database.read(lambda db: get_execution(db, key))

    async def secret(self, execution_id: str) -> bytes | None:
        key = number(execution_id)
        row = await self._database.read(lambda db: db.execute(SQL["find_secret"], (key,)).fetchone())
        return None if row is None else base64.b64decode(row[0])

    async def attached(self, execution_id: str) -> list[Task]:
        return await self._tasks("attached", (number(execution_id),))

    async def overdue(self, now: float, limit: int) -> list[Task]:
        return await self._tasks("overdue", (now, limit))


def _submit(db: sqlite3.Connection, submission: Submission) -> Submitted:
    """Answer a submission; the steps are those of the contract."""
    task, execution = submission.task, submission.execution
    asked = task.request
    earlier = find_repeated(db, asked.authenticated, asked.request_uuid, submission.repeat_since)
    if earlier is not None:
        return earlier
    if db.execute(SQL["is_taken"], (number(task.task_id),)).fetchone()[0]:
        return Submitted(How.COLLISION, task, None)
    for index, wanted in submission.reuse:
        row = db.execute(SQL["find_reusable"], (wanted, submission.reuse_since)).fetchone()
        if row is not None:
            source = to_execution(row)
            answered = sharing.answer(task, source, index)
            insert_task(db, answered)
            return Submitted(How.REUSED, answered, source)
    how = How.CREATED
    if execution is not None:
        row = None
        if execution.live_hash is not None:
            row = db.execute(SQL["find_live"], (execution.live_hash,)).fetchone()
        if row is None:
            db.execute(SQL["insert_execution"], execution_row(execution))
        else:
            how, shared = How.JOINED, to_execution(row)
            task, execution = sharing.attach(task, shared)
            execution = _put(db, shared, execution)
    insert_task(db, task)
    if submission.secret is not None and task.state in LIVE:
        db.execute(SQL["insert_secret"], (number(task.task_id), base64.b64encode(submission.secret).decode()))
    return Submitted(how, task, execution)


def _claim(db: sqlite3.Connection, queues: Sequence[str], offer: Offer) -> Execution | None:
    """Give the best execution in line to a bot."""
    attempt = offer.attempt
    wish = {
        "queues": json.dumps(list(queues)),
        "now": attempt.offered_at,
        "has_session": offer.has_session,
        "must_end_by": offer.must_end_by,
        "bot_id": attempt.bot_id,
    }
    row = db.execute(SQL["claim"], wish).fetchone()
    if row is None:
        return None
    waiting = to_execution(row)
    return _put(db, waiting, sharing.offer(waiting, attempt))


def _replace(db: sqlite3.Connection, changes: Sequence[Change], tasks: Sequence[Task]) -> list[Execution]:
    """Store new values, or raise Stale; the writer then undoes what was done."""
    stored = [_put(db, change.old, change.new) for change in changes]
    for execution in stored:
        db.execute(SQL["follow_execution"], _following(execution))
    if tasks:
        db.executemany(SQL["update_task"], [(*standing_row(task), number(task.task_id)) for task in tasks])
    return stored


def _put(db: sqlite3.Connection, old: Execution | None, new: Execution) -> Execution:
    """Store a new value of an execution where it belongs, with the runs that came or went; raises Stale."""
    stored = replace(new, version=0 if old is None else old.version + 1)
    key = number(new.execution_id)
    try:
        if old is None:
            is_fresh = not db.execute(SQL["has_execution"], (key,)).fetchone()[0]
        elif old.state in LIVE and new.state in LIVE:
            is_fresh = bool(db.execute(SQL["update_execution"], (*execution_row(stored), old.version)).rowcount)
        elif old.state in LIVE:
            is_fresh = bool(db.execute(SQL["end_execution"], (key, old.version)).rowcount)
        else:
            is_fresh = bool(db.execute(SQL["update_result"], (*result_row(stored), old.version)).rowcount)
        if not is_fresh:
            raise Stale(f"Task {new.execution_id} was changed by somebody else")
        if new.state not in LIVE and (old is None or old.state in LIVE):
            db.execute(SQL["insert_result"], result_row(stored))
        elif old is None:
            db.execute(SQL["insert_execution"], execution_row(stored))
    except sqlite3.IntegrityError as error:
        raise Stale(f"Task {new.execution_id} has a live equal") from error
    _note_runs(db, () if old is None else old.attempts, new)
    return stored


def _note_runs(db: sqlite3.Connection, old: Sequence[Attempt], new: Execution) -> None:
    """Keep the list of what each bot worked on right."""
    if len(old) == len(new.attempts):  # attempts are added and withdrawn at the end, one at a time
        return
    key = number(new.execution_id)
    before, after = ({attempt.bot_id for attempt in attempts} for attempts in (old, new.attempts))
    for bot_id in before - after:
        db.execute(SQL["delete_run"], (bot_id, new.created_at, key))
    for bot_id in after - before:
        db.execute(SQL["insert_run"], (bot_id, new.created_at, key))


def _following(execution: Execution) -> tuple[Any, ...]:
    return (
        execution.state,
        execution.failure,
        execution.modified_at,
        execution.completed_at,
        execution.abandoned_at,
        execution.started_at,
        number(execution.execution_id),
    )
