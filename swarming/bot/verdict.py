"""What is decided about one task while it runs and when it is over; pure.

Knows no process, no server and no clock: times are arguments, in seconds of one monotonic clock.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import Enum
from typing import Any

from swarming.bot.job import Finished
from swarming.bot.protocol import Manifest

MIN_GRACE_S = 30.0  # the protocol's least allowance for a process that is being ended
MIN_IO_TIMEOUT_S = 1200.0
OUTPUTS_S = 120.0  # a stopped task may still upload what it left
PROMPT_S = 10.0  # beyond the grace, when nobody wants the outputs


class Why(Enum):
    """Why a task is ended from outside."""

    KILLED = "it was killed by request"
    IO_TIMEOUT = "it printed nothing for too long"
    HUNG = "the runner hung"
    LEASE_LOST = "it belongs to somebody else by now"
    UNREACHABLE = "the server did not take its updates"
    SHUTDOWN = "the bot was told to end"

    @property
    def wants_outputs(self) -> bool:
        """Whether somebody is still interested in what the task leaves."""
        return self in {Why.KILLED, Why.IO_TIMEOUT}


class Act(Enum):
    """What time asks for."""

    WAIT = "wait"
    STOP_SILENT = "stop, no output"
    STOP_HUNG = "stop, hung"
    KILL = "kill the runner"


@dataclass(frozen=True, slots=True)
class Times:
    """When what happened, as far as it did."""

    started_s: float
    sign_s: float  # the last output, or progress with inputs and outputs
    stopped_s: float | None = None
    why: Why | None = None


def due(manifest: Manifest, times: Times, now_s: float) -> tuple[Act, float]:
    """Return what is to be done now, or WAIT and for how long at most."""
    grace_s = max(manifest.grace_period_s, MIN_GRACE_S)
    if times.stopped_s is not None:
        wants_outputs = times.why is not None and times.why.wants_outputs
        patience_s = 2 * grace_s + OUTPUTS_S if wants_outputs else manifest.grace_period_s + PROMPT_S
        return _at(Act.KILL, times.stopped_s + patience_s, now_s)
    candidates = [(Act.WAIT, math.inf)]
    if manifest.io_timeout_s:
        candidates.append((Act.STOP_SILENT, times.sign_s + manifest.io_timeout_s))
    if manifest.hard_timeout_s:
        # run_isolated enforces the time-out; this is for the case that it cannot.
        slack_s = 3 * grace_s + max(manifest.io_timeout_s, MIN_IO_TIMEOUT_S)
        candidates.append((Act.STOP_HUNG, times.started_s + manifest.hard_timeout_s + slack_s))
    act, at_s = min(candidates, key=lambda candidate: candidate[1])
    return _at(act, at_s, now_s)


def _at(act: Act, at_s: float, now_s: float) -> tuple[Act, float]:
    return (act, 0.0) if now_s >= at_s else (Act.WAIT, at_s - now_s)


@dataclass(frozen=True, slots=True)
class Dropped:
    """Nobody is to hear of it."""


@dataclass(frozen=True, slots=True)
class Failed:
    """The task could not be run, through no fault of its own."""

    message: str


@dataclass(frozen=True, slots=True)
class Complete:
    """The command ran and ended."""

    finished: Finished
    io_timeout: bool


def conclude(
    finished: Finished | None, runner_end: str, why: Why | None, lost: str = ""
) -> Dropped | Failed | Complete:
    """Return what the end of a task means; `finished` is None when the runner ended without an answer.

    `lost` says what is lacking of its output. A success without all it printed is none: whoever reads what is there
    would take it for everything. What failed by itself keeps its exit code.
    """
    if why is Why.LEASE_LOST:
        return Dropped()
    if finished is not None and finished.failure:
        return Failed(finished.failure)
    counts = why in {None, Why.KILLED, Why.IO_TIMEOUT}  # otherwise how it ended says nothing about the task
    if finished is not None and finished.exit_code == 0 and why is None and lost:
        return Failed(f"Execution failed: {lost}")
    if finished is not None and finished.exit_code is not None and (counts or not finished.stopped):
        return Complete(finished, io_timeout=why is Why.IO_TIMEOUT and finished.stopped)
    if why is None:
        end = f"the runner ended with {runner_end}" if finished is None else "no exit code"
        return Failed(f"Execution failed: internal error ({end})")
    return Failed("task_runner hung" if why is Why.HUNG else f"Execution failed: {why.value}")


def final_fields(complete: Complete, total_s: float, cost_usd: float) -> dict[str, object]:
    """Return the fields of the last update of a task whose command ended."""
    finished = complete.finished
    duration_s = finished.duration_s or 0.0
    fields: dict[str, object] = {
        "exit_code": finished.exit_code,
        "duration": duration_s,
        "cost_usd": cost_usd,
        "hard_timeout": finished.had_hard_timeout,
        "io_timeout": complete.io_timeout,
        "bot_overhead": max(0.0, total_s - duration_s),
    }
    if finished.stats:
        fields["isolated_stats"] = finished.stats
    if finished.outputs_ref:
        fields["outputs_ref"] = finished.outputs_ref
    return fields


def summary(verdict: Dropped | Failed | Complete) -> dict[str, Any]:
    """Return what the hooks hear of the end of a task, in the words of 2020."""
    told: dict[str, object] = {"exit_code": None, "hard_timeout": False, "io_timeout": False, "version": 3}
    match verdict:
        case Complete(finished, io_timeout):
            told |= {"exit_code": finished.exit_code, "hard_timeout": finished.had_hard_timeout}
            told |= {"io_timeout": io_timeout, "must_signal_internal_failure": None}
        case Failed(message):
            told["must_signal_internal_failure"] = message
        case Dropped():
            told["must_signal_internal_failure"] = "The task belongs to somebody else by now"
    is_internal = told["must_signal_internal_failure"] is not None
    return {"failure": bool(told["exit_code"]), "internal_failure": is_internal, "summary": told}
