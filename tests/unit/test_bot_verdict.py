"""What is decided about a task."""

from __future__ import annotations

import math

import pytest

from swarming.bot.job import Finished
from swarming.bot.verdict import (
    MIN_GRACE_S,
    OUTPUTS_S,
    PROMPT_S,
    Act,
    Complete,
    Dropped,
    Failed,
    Times,
    Why,
    conclude,
    due,
    final_fields,
)
from tests.unit.bot_doubles import manifest

DONE = Finished(exit_code=3, duration_s=1.5)
ENDED_BY_ORDER = Finished(exit_code=-15, duration_s=1.5, stopped=True)


@pytest.mark.parametrize(("now_s", "act"), [(109, Act.WAIT), (110, Act.STOP_SILENT), (111, Act.STOP_SILENT)])
def test_silence_has_a_limit(now_s: float, act: Act) -> None:
    assert due(manifest(io_timeout_s=10.0), Times(0, 100), now_s)[0] is act


@pytest.mark.parametrize(("past_s", "act"), [(-1, Act.WAIT), (0, Act.STOP_HUNG)])
def test_a_runner_that_does_not_enforce_the_time_out_is_stopped(past_s: float, act: Act) -> None:
    limit_s = 60 + 3 * 40 + 1200
    task = manifest(hard_timeout_s=60.0, grace_period_s=40.0)
    assert due(task, Times(0, 1e9), limit_s + past_s)[0] is act


def test_the_nearest_limit_decides_how_long_to_wait() -> None:
    task = manifest(hard_timeout_s=60.0, io_timeout_s=10.0)
    assert due(task, Times(0, 5), 7) == (Act.WAIT, 8)


def test_without_limits_it_waits_for_ever() -> None:
    assert due(manifest(), Times(0, 0), 1e9) == (Act.WAIT, math.inf)


@pytest.mark.parametrize(
    ("why", "patience_s"),
    [(Why.KILLED, 2 * MIN_GRACE_S + OUTPUTS_S), (Why.LEASE_LOST, 5 + PROMPT_S), (Why.SHUTDOWN, 5 + PROMPT_S)],
)
def test_a_stopped_runner_is_killed_when_patience_ends(why: Why, patience_s: float) -> None:
    times = Times(0, 0, stopped_s=100, why=why)
    task = manifest(io_timeout_s=1.0, grace_period_s=5.0)
    assert due(task, times, 100 + patience_s - 1) == (Act.WAIT, 1)
    assert due(task, times, 100 + patience_s) == (Act.KILL, 0)


@pytest.mark.parametrize(
    ("finished", "why", "expected"),
    [
        (DONE, None, Complete(DONE, io_timeout=False)),
        (DONE, Why.KILLED, Complete(DONE, io_timeout=False)),
        (ENDED_BY_ORDER, Why.KILLED, Complete(ENDED_BY_ORDER, io_timeout=False)),
        (ENDED_BY_ORDER, Why.IO_TIMEOUT, Complete(ENDED_BY_ORDER, io_timeout=True)),
        (DONE, Why.IO_TIMEOUT, Complete(DONE, io_timeout=False)),
        (DONE, Why.SHUTDOWN, Complete(DONE, io_timeout=False)),
        (ENDED_BY_ORDER, Why.SHUTDOWN, Failed("Execution failed: the bot was told to end")),
        (DONE, Why.LEASE_LOST, Dropped()),
        (None, Why.LEASE_LOST, Dropped()),
        (None, Why.HUNG, Failed("task_runner hung")),
        (None, Why.KILLED, Failed("Execution failed: it was killed by request")),
        (None, None, Failed("Execution failed: internal error (the runner ended with signal 9)")),
        (Finished(failure="inputs are gone"), None, Failed("inputs are gone")),
        (Finished(exit_code=0, failure="poisoned"), None, Failed("poisoned")),
        (Finished(), None, Failed("Execution failed: internal error (no exit code)")),
    ],
)
def test_the_end_of_a_task(finished: Finished | None, why: Why | None, expected: object) -> None:
    assert conclude(finished, "signal 9", why) == expected


def test_overhead_is_all_but_the_command() -> None:
    reference = {"isolated": "ab", "isolatedserver": "http://localhost", "namespace": "default"}
    finished = Finished(exit_code=0, duration_s=1.5, outputs_ref=reference, stats={"upload": {}})
    fields = final_fields(Complete(finished, io_timeout=False), 2.0, 0.01)
    assert fields == {
        "exit_code": 0,
        "duration": 1.5,
        "cost_usd": 0.01,
        "hard_timeout": False,
        "io_timeout": False,
        "bot_overhead": 0.5,
        "isolated_stats": {"upload": {}},
        "outputs_ref": reference,
    }


def test_clocks_never_make_an_overhead_negative() -> None:
    assert final_fields(Complete(DONE, io_timeout=False), 1.0, 0.0)["bot_overhead"] == 0


def test_a_success_that_lost_output_is_none_and_a_failure_stays_one() -> None:
    assert conclude(Finished(exit_code=0), "", None, "lost") == Failed("Execution failed: lost")
    failed = Finished(exit_code=1)
    assert conclude(failed, "", None, "lost") == Complete(failed, io_timeout=False)
