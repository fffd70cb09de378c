"""A database of an earlier schema is taken over whole: what is over moves, what is secret is put apart."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import msgspec
from msgspec.structs import replace

from server.stores.sqlite_file import connect, migrate
from server.stores.sqlite_tasks import MIGRATIONS, SqliteTaskStore
from server.stores.task_rows import standing_row
from swarming import ids
from swarming.model import Execution, Task
from swarming.states import State
from tests.tasks import NOW, number, offer, one_slice, properties, request, submission

QUEUE = submission(1).execution.queue  # type: ignore[union-attr]  # it has one


def old_rows(db: sqlite3.Connection, task: Task, execution: Execution) -> None:
    """Store both as schema 2 did: what is over beside what is live, the secret as part of the properties."""
    key = ids.unpack(task.task_id)[0]
    body, asked = (msgspec.json.encode(one).replace(b'"a digest"', b'"AP8="') for one in (execution, task.request))
    is_live = execution.state in {State.PENDING, State.RUNNING}
    db.execute(
        "INSERT INTO executions VALUES (?, 0, ?, 100, ?, ?, ?, ?, 0, 0, NULL, ?, ?, ?)",
        (
            key,
            execution.queue,
            execution.rank,
            execution.deadline_at,
            execution.created_at,
            is_live,
            execution.live_hash,
            execution.reusable_hash,
            body,
        ),
    )
    *standing, started_at = standing_row(task)
    db.execute(
        "INSERT INTO tasks (execution_id, attached, state, failure, deduped, slice_index, created_at, modified_at, "
        "deadline_at, completed_at, abandoned_at, started_at, name, identity, request_uuid, id) "
        "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, 'n', '', '', ?)",
        (*standing, started_at, key),
    )
    db.execute("INSERT INTO requests VALUES (?, ?)", (key, asked))


async def test_results_move_and_secrets_are_put_apart(tmp_path: Path) -> None:
    path = tmp_path / "tasks.sqlite"
    db = connect(path, 1 << 20, 0)
    migrate(db, MIGRATIONS[:2], path)
    hidden = properties(secret="a digest")
    waiting = submission(1, request("n", one_slice(hidden), one_slice(hidden, 200)))
    over = submission(2, request("n", one_slice(properties(idempotent=True, secret="a digest"))))
    assert waiting.execution is not None
    assert over.execution is not None
    ended = replace(over.execution, state=State.COMPLETED, completed_at=NOW, reusable=True)
    old_rows(db, waiting.task, waiting.execution)
    old_rows(db, replace(over.task, state=State.COMPLETED, completed_at=NOW), ended)
    db.close()

    store = SqliteTaskStore(path)
    task = await store.task(waiting.task.task_id)
    assert [part.properties.secret for part in task.request.slices] == [f"of task {number(1)}"] * 2
    assert await store.secret(task.task_id) == b"\0\xff"
    found = await store.claim([QUEUE], offer())
    assert found is not None
    assert found.properties == replace(hidden, secret=f"of task {number(1)}")
    assert await store.secret(over.task.task_id) is None
    assert (await store.execution(over.task.task_id)).state is State.COMPLETED
    reused = await store.reusable(ended.task_hash or "", NOW - 1)
    assert reused is not None
    assert reused.execution_id == over.task.task_id
    await store.close()
