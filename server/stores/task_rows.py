"""Tasks and executions as rows, and back.

Knows no statement and no policy. A row repeats the fields that statements look for; the value itself is JSON, so an
unknown field of a newer version is ignored and one it lacks has its default.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from typing import Any

import msgspec

from isolate.errors import NotFound
from server.stores import queries
from swarming import ids
from swarming.model import Execution, Task, TaskRequest
from swarming.states import State
from swarming.store import How, Submitted

SQL = {**queries.load("tasks_schema"), **queries.load("tasks"), **queries.load("tasks_search")}

_encode = msgspec.json.Encoder().encode
_execution = msgspec.json.Decoder(Execution)
_request = msgspec.json.Decoder(TaskRequest)


def number(task_id: str | None) -> int | None:
    """Return the key of a task or execution id."""
    return None if task_id is None else ids.unpack(task_id)[0]


def execution_row(execution: Execution) -> tuple[Any, ...]:
    """Return the values of a live one for `insert_execution` and, but for the last condition, `update_execution`."""
    is_claimable = execution.is_claimable
    return (
        execution.version,
        execution.queue,
        execution.priority,
        execution.rank,
        execution.deadline_at,
        execution.created_at,
        is_claimable,
        not is_claimable,
        execution.needs_session,
        execution.span_s,
        execution.live_hash,
        _encode(execution),
        number(execution.execution_id),
    )


def result_row(execution: Execution) -> tuple[Any, ...]:
    """Return the values of `insert_result` and, but for the last condition, `update_result`."""
    key = number(execution.execution_id)
    return execution.version, execution.created_at, execution.reusable_hash, _encode(execution), key


def to_execution(row: Sequence[Any]) -> Execution:
    """Return the execution of a row whose first column is its body."""
    return _execution.decode(row[0])


def standing_row(task: Task) -> tuple[Any, ...]:
    """Return what changes of a task, in the order of `update_task`."""
    return (
        number(task.execution_id),
        task.attached,
        task.state,
        task.failure,
        task.deduped,
        task.slice_index,
        task.created_at,
        task.modified_at,
        task.deadline_at,
        task.completed_at,
        task.abandoned_at,
        task.started_at,
    )


def insert_task(db: sqlite3.Connection, task: Task) -> None:
    """Store a new task with its request and tags."""
    request, key = task.request, number(task.task_id)
    row = (*standing_row(task), request.name, request.parent_task_id, request.authenticated, request.request_uuid, key)
    db.execute(SQL["insert_task"], row)
    db.execute(SQL["insert_request"], (key, _encode(request)))
    db.execute(SQL["insert_tags"], (task.created_at, key, _encode(request.tags)))


def get_task(db: sqlite3.Connection, key: int) -> Task:
    """Return a task; raises NotFound."""
    row = db.execute(SQL["get_task"], (key,)).fetchone()
    if row is None:
        raise NotFound(f"Task {ids.pack(key)} not found")
    return Task(
        task_id=ids.pack(key),
        request=_request.decode(row[12]),
        execution_id=None if row[0] is None else ids.pack(row[0]),
        attached=bool(row[1]),
        state=State(row[2]),
        failure=bool(row[3]),
        deduped=bool(row[4]),
        slice_index=row[5],
        created_at=row[6],
        modified_at=row[7],
        deadline_at=row[8],
        completed_at=row[9],
        abandoned_at=row[10],
        started_at=row[11],
    )


def get_execution(db: sqlite3.Connection, key: int) -> Execution:
    """Return an execution; raises NotFound."""
    row = db.execute(SQL["get_execution"], (key,)).fetchone()
    if row is None:
        raise NotFound(f"Task {ids.pack(key)} not found")
    return to_execution(row)


def find_repeated(db: sqlite3.Connection, identity: str, request_uuid: str, since: float) -> Submitted | None:
    """Return the answer to a submission that was made before."""
    row = db.execute(SQL["find_repeated"], (request_uuid, identity, since)).fetchone() if request_uuid else None
    if row is None:
        return None
    task = get_task(db, row[0])
    execution = None if task.execution_id is None else get_execution(db, ids.unpack(task.execution_id)[0])
    return Submitted(How.REPEATED, task, execution)
