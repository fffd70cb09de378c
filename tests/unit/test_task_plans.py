"""How SQLite finds what the task store asks for: no statement may look at everything by accident."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator

import pytest

from server.stores.sqlite_tasks import MIGRATIONS
from server.stores.task_rows import SQL

CLAIM = {"queues": "[]", "now": 0.0, "has_session": True, "must_end_by": None, "bot_id": "b"}
PLACE = {"time": 0.0, "number": 0, "limit": 1, "created_from": 0.0, "created_to": 1.0, "scan": 9}
PLACE |= {"floor_time": 0.0, "floor_number": 0}
FILTER = {"states": None, "failure": None, "deduped": None, "name": None, "tags": "[]", "tag": "t", "state": 32}
SEARCH = PLACE | FILTER


@pytest.fixture
def database() -> Iterator[sqlite3.Connection]:
    connection = sqlite3.connect(":memory:")
    for script in MIGRATIONS:
        connection.executescript(script)
    yield connection
    connection.close()


def plan(database: sqlite3.Connection, name: str, values: object) -> str:
    """Return the plan of a statement, a step per line."""
    rows = database.execute(f"EXPLAIN QUERY PLAN {SQL[name]}", values)  # type: ignore[arg-type]  # either kind
    return "\n".join(row[3] for row in rows)


def test_a_claim_looks_at_the_head_of_each_queue_only(database: sqlite3.Connection) -> None:
    steps = plan(database, "claim", CLAIM)
    assert "SEARCH waiting USING INDEX executions_by_queue (queue=?)" in steps
    assert "SEARCH best USING INTEGER PRIMARY KEY (rowid=?)" in steps
    assert "SEARCH runs USING PRIMARY KEY (bot_id=? AND created_at=? AND execution_id=?)" in steps
    assert "SCAN waiting" not in steps
    assert "SCAN best" not in steps
    # The one sort is of the heads, a row for each queue.
    assert steps.count("TEMP B-TREE") == 1
    assert steps.splitlines()[-1] == "USE TEMP B-TREE FOR ORDER BY"


@pytest.mark.parametrize(
    ("name", "values", "index"),
    [
        ("find_repeated", ("u", "i", 0.0), "tasks_repeated (request_uuid=? AND identity=?)"),
        ("find_reusable", ("h", 0.0), "results_reusable (reusable_hash=? AND created_at>?)"),
        ("find_live", ("h",), "executions_live (live_hash=?)"),
        ("attached", (1,), "tasks_members (execution_id=?)"),
        ("overdue", (0.0, 1), "tasks_overdue (deadline_at<?)"),
        ("follow_execution", (1, 1, 1.0, None, None, None, 1), "tasks_members (execution_id=?)"),
        ("children", ("[]",), "tasks_children (parent=?)"),
        ("search_by_created", SEARCH, "tasks_by_time (created_at>? AND created_at<?)"),
        ("search_by_modified", SEARCH, "tasks_by_change (modified_at>? AND modified_at<?)"),
        ("search_by_completed", SEARCH, "tasks_by_end (completed_at>? AND completed_at<?)"),
        ("search_by_abandoned", SEARCH, "tasks_by_surrender (abandoned_at>? AND abandoned_at<?)"),
        ("search_by_started", SEARCH, "tasks_by_start (started_at>? AND started_at<?)"),
        ("floor_by_created", SEARCH, "tasks_by_time (created_at<?)"),
        ("floor_by_tag", SEARCH, "PRIMARY KEY (tag=? AND (created_at,task_id)<(?,?))"),
        ("floor_by_completed", SEARCH, "COVERING INDEX tasks_by_end"),
        ("ahead", ("q", 1, 1, 1, 10), "executions_by_queue (queue=? AND (priority,rank)<(?,?))"),
        ("old_tasks", (0.0, 1), "tasks_by_time (created_at<?)"),
        ("old_results", (1, 1), "SEARCH results USING INTEGER PRIMARY KEY (rowid<?)"),
        ("old_results", (1, 1), "tasks_answered (execution_id=?)"),
        ("delete_old_events", (0.0, 1), "events_by_time (at<?)"),
        ("search_by_state", SEARCH, "tasks_by_state (state=? AND created_at>? AND created_at<?)"),
        ("search_by_name", SEARCH, "tasks_by_name (name=? AND created_at>? AND created_at<?)"),
        ("search_by_tag", SEARCH, "PRIMARY KEY (tag=? AND (created_at,task_id)>(?,?) AND (created_at,task_id)<(?,?))"),
        ("events", {"bot_id": "b", "start": 0.0, "end": 1.0, "time": 0.0, "number": 0, "limit": 1}, "events_by_bot"),
        ("runs_of", ("b", 0.0, 1, 1), "PRIMARY KEY (bot_id=?"),
    ],
)
def test_look_ups_use_their_index(database: sqlite3.Connection, name: str, values: object, index: str) -> None:
    steps = plan(database, name, values)
    assert index in steps
    assert "SCAN tasks" not in steps
    assert "SCAN executions" not in steps


@pytest.mark.parametrize("name", ["search_by_created", "search_by_state", "search_by_name", "search_by_tag", "overdue"])
def test_pages_are_not_sorted(database: sqlite3.Connection, name: str) -> None:
    values: object = (0.0, 1) if name == "overdue" else SEARCH
    assert "TEMP B-TREE" not in plan(database, name, values)


def test_queues_are_found_one_from_the_other(database: sqlite3.Connection) -> None:
    steps = plan(database, "queues", ())
    assert "SEARCH later USING INDEX executions_by_queue (queue>?)" in steps
    assert "SCAN executions USING INDEX executions_by_queue" not in steps
