"""How tasks share an execution: pure rules that every store applies the same way.

Knows no store, no clock and no policy; stores call these inside their transactions, so that they cannot differ.
"""

from __future__ import annotations

from msgspec.structs import replace

from swarming import ids
from swarming.model import Attempt, Execution, Task


def follow(task: Task, execution: Execution) -> Task:
    """Return `task` with the state and times of the execution it is attached to."""
    return replace(
        task,
        state=execution.state,
        failure=execution.failure,
        modified_at=execution.modified_at,
        started_at=execution.started_at,
        completed_at=execution.completed_at,
        abandoned_at=execution.abandoned_at,
    )


def attach(task: Task, execution: Execution) -> tuple[Task, Execution]:
    """Return both after `task` joined: the execution is as urgent and as patient as the most demanding task."""
    joined = replace(
        execution,
        priority=min(execution.priority, task.request.priority),
        deadline_at=max(execution.deadline_at, task.deadline_at),
        modified_at=max(execution.modified_at, task.modified_at),
    )
    member = replace(
        task,
        execution_id=execution.execution_id,
        attached=True,
        state=execution.state,
        started_at=execution.started_at,
    )
    return member, joined


def answer(task: Task, source: Execution, slice_index: int) -> Task:
    """Return `task` as answered by the finished `source`, without a run of its own."""
    return replace(
        task,
        execution_id=source.execution_id,
        attached=False,
        deduped=True,
        slice_index=slice_index,
        state=source.state,
        failure=source.failure,
        started_at=source.started_at,
        completed_at=source.completed_at,
        abandoned_at=None,
    )


def offer(execution: Execution, attempt: Attempt) -> Execution:
    """Return `execution` offered to the bot of `attempt`, whose run id and try number are set here."""
    try_number = len(execution.attempts) + 1
    run_id = ids.run_id(execution.execution_id, try_number)
    made = replace(attempt, run_id=run_id, try_number=try_number)
    return replace(execution, attempts=(*execution.attempts, made), modified_at=attempt.offered_at)
