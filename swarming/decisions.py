"""What follows from what: the next value of an execution and its tasks, for everything that may happen to them.

Pure: no store, no clock, no await. Every function takes values as they are and returns them as they should be stored;
states change by the table of `states` only, so what cannot happen raises IllegalEvent and changes nothing.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import TypeGuard

from msgspec.structs import replace

from isolate.errors import InvalidTask
from swarming import ids, sharing
from swarming.bots import BotInfo, TaskUpdate
from swarming.model import Attempt, Execution, Task
from swarming.states import Event, State, after

LOST_EXIT_CODE = -1  # of a command whose own exit code nobody will ever know


def accepted(execution: Execution, now: float) -> Execution:
    """Return an offered execution as running: its bot answered."""
    attempt = replace(execution.attempts[-1], state=after(execution.state, Event.ACCEPT), started_at=now)
    return _with(execution, attempt, now)


def lapsed(execution: Execution, now: float) -> Execution:
    """Return an offered execution as waiting again; the offer leaves no trace and costs no attempt."""
    return replace(
        execution, state=after(execution.state, Event.LAPSE), attempts=execution.attempts[:-1], modified_at=now
    )


def check_update(update: TaskUpdate) -> None:
    """Raise InvalidTask for an update that breaks a rule of 2020's."""
    if (update.exit_code is None) != (update.duration_s is None) and not update.canceled:
        raise InvalidTask("had unexpected duration; expected iff a command completes")
    if update.stats is not None and update.duration_s is None:
        raise InvalidTask("performance stats are expected only when a command completes")
    if (update.duration_s or 0) < 0 or (update.cost_usd or 0) < 0:
        raise InvalidTask("duration and cost must not be negative")
    if update.output_start < 0:
        raise InvalidTask("output_chunk_start must not be negative")


def finished(execution: Execution, update: TaskUpdate, now: float, cost_usd: float) -> Execution:
    """Return a running execution as ended by the last report of its bot."""
    attempt = execution.attempts[-1]
    if execution.killing:
        event = Event.KILLED
    elif update.canceled:
        event = Event.CANCEL
    elif update.hard_timeout or update.io_timeout:
        event = Event.TIME_OUT
    else:
        event = Event.EXIT
    state = after(execution.state, event)
    exit_code, duration_s = update.exit_code, update.duration_s
    if event is Event.CANCEL:
        exit_code = duration_s = None
    elif exit_code is None:
        exit_code = LOST_EXIT_CODE
    if duration_s is None and event is not Event.CANCEL:
        duration_s = max(0.0, now - (attempt.started_at or now))
    given_up = event in {Event.KILLED, Event.CANCEL}
    attempt = replace(
        attempt,
        state=state,
        completed_at=now,
        abandoned_at=(execution.abandoned_at or now) if given_up else None,
        exit_code=exit_code,
        duration_s=duration_s,
        cost_usd=max(attempt.cost_usd, cost_usd),
        outputs=update.outputs,
        stats=update.stats,
        cipd_pins=update.cipd_pins,
    )
    reusable = execution.task_hash is not None and state is State.COMPLETED and exit_code == 0
    return replace(_with(execution, attempt, now), reusable=reusable)


def may_retry(execution: Execution, attached: Sequence[Task], now: float, *, heard_again: bool) -> bool:
    """Say whether a running execution whose bot died gets another try.

    Once, if running it twice does no harm (idempotent, or it died before it was heard after its start), and somebody
    still waits for it.
    """
    harmless = execution.properties.idempotent or not heard_again
    wanted = any(task.expires_at > now for task in attached)
    first = len(execution.attempts) < ids.MAX_TRIES
    return harmless and wanted and first and not execution.killing and not execution.properties.is_terminate


def died(execution: Execution, reason: str, now: float, cost_usd: float) -> Execution:
    """Return a running execution as ended with its bot; one that was being killed counts as killed."""
    attempt = execution.attempts[-1]
    state = after(execution.state, Event.KILLED if execution.killing else Event.DIE)
    if execution.killing:
        duration_s = max(0.0, now - (attempt.started_at or now))
        attempt = replace(attempt, exit_code=LOST_EXIT_CODE, duration_s=duration_s)
    attempt = replace(
        attempt,
        state=state,
        completed_at=now,
        abandoned_at=execution.abandoned_at or now,
        internal_failure=not execution.killing,
        reason=reason,
        cost_usd=max(attempt.cost_usd, cost_usd),
    )
    return _with(execution, attempt, now)


def retried(
    execution: Execution, attached: Sequence[Task], reason: str, now: float, cost_usd: float
) -> tuple[Execution, list[Task]]:
    """Return a running execution whose bot died as waiting for its next try, with its tasks.

    The tasks wait until they expire as a whole: what was tried on one slice goes to no other.
    """
    dead = died(execution, reason, now, cost_usd)
    waiting = replace(
        dead,
        state=after(execution.state, Event.RETRY),
        completed_at=None,
        abandoned_at=None,
        deadline_at=max((task.expires_at for task in attached), default=now),
    )
    return waiting, [replace(sharing.follow(task, waiting), deadline_at=task.expires_at) for task in attached]


def killing(execution: Execution, now: float) -> Execution:
    """Return a running execution as asked to stop; it runs until its bot says otherwise."""
    if execution.killing:
        return execution
    state = after(execution.state, Event.KILL)
    return replace(execution, state=state, killing=True, abandoned_at=now, completed_at=now, modified_at=now)


def without(
    execution: Execution, attached: Sequence[Task], task: Task, event: Event, now: float
) -> tuple[Execution, list[Task]]:
    """Return an execution that `task` leaves, and that task; the execution ends the same way if nobody is left."""
    others = [one for one in attached if one.task_id != task.task_id]
    if not others:
        attempts = execution.attempts[:-1] if _is_offered(execution) else execution.attempts
        over = replace(execution, attempts=attempts, state=after(execution.state, event), modified_at=now)
        return replace(over, completed_at=now, abandoned_at=now), []
    keeps_run = any(not attempt.is_offer for attempt in execution.attempts)
    gone = replace(
        task,
        state=after(task.state, event),
        attached=False,
        execution_id=task.execution_id if keeps_run else None,
        modified_at=now,
        completed_at=now,
        abandoned_at=now,
    )
    return left(execution, others, now), [gone]


def left(execution: Execution, others: Sequence[Task], now: float) -> Execution:
    """Return an execution that only `others` still share: as urgent and as patient as they are."""
    return replace(
        execution,
        priority=min(one.request.priority for one in others),
        deadline_at=max(one.deadline_at for one in others),
        modified_at=now,
    )


def abandoned(execution: Execution, now: float) -> Execution:
    """Return a waiting execution that nobody shares any more: its last task went elsewhere."""
    state = after(execution.state, Event.EXPIRE)
    return replace(execution, state=state, modified_at=now, completed_at=now, abandoned_at=now)


def same_ending(attempt: Attempt, update: TaskUpdate) -> bool:
    """Say whether a late final update only repeats what is known."""
    if update.canceled:
        return attempt.state in {State.CANCELED, State.KILLED}
    if attempt.state is State.CANCELED:
        return False
    known = attempt.exit_code == (LOST_EXIT_CODE if update.exit_code is None else update.exit_code)
    return known and (update.duration_s is None or attempt.duration_s == update.duration_s)


def back_off_s(streak: float, dice: float, longest_s: float) -> float:
    """Return 2020's pause of an idle bot: longer after each poll without work, and one in twenty short."""
    return 1.0 if dice < 0.05 else min(longest_s, 1.5 ** (min(streak, 10) + 1))


def reboot_due(bot: BotInfo) -> str:
    """Return why a bot that asks for it is due for its periodic reboot, or "".

    The period varies by up to a tenth, always the same for one start of a bot, so that a fleet started together does
    not reboot together.
    """
    period_s, running_s = bot.state.get("periodic_reboot_secs"), bot.state.get("running_time")
    if not _is_number(period_s) or not _is_number(running_s) or period_s <= 0:
        return ""
    dice = random.Random(f"{bot.bot_id} {bot.state.get('started_ts')}").uniform(0.9, 1.1)
    return f"Periodic reboot: running longer than {period_s}s" if running_s > period_s * dice else ""


def _is_number(value: object) -> TypeGuard[float]:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _is_offered(execution: Execution) -> bool:
    return bool(execution.attempts) and execution.attempts[-1].is_offer


def _with(execution: Execution, attempt: Attempt, now: float) -> Execution:
    """Return the execution with its last attempt replaced, and in the same state."""
    return replace(
        execution,
        state=attempt.state,
        completed_at=attempt.completed_at,
        abandoned_at=attempt.abandoned_at,
        attempts=(*execution.attempts[:-1], attempt),
        modified_at=now,
    )
