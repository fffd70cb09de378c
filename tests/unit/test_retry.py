"""Retries keep to their policy."""

from __future__ import annotations

import pytest

from isolate.errors import NoSpace, Unavailable
from isolate.monitor import TallyMonitor
from isolate.retry import Retrier, RetryPolicy
from tests.loopback import SkippingClock

POLICY = RetryPolicy(attempts=4, total_s=60, first_delay_s=1, max_delay_s=3)


class Failing:
    """Fails a number of times, then answers."""

    def __init__(self, failures: int, error: Exception | None = None) -> None:
        self.calls = 0
        self._failures = failures
        self._error = error or Unavailable("Down")

    async def __call__(self) -> str:
        self.calls += 1
        if self.calls <= self._failures:
            raise self._error
        return "answer"


def retrier(clock: SkippingClock, policy: RetryPolicy = POLICY, draw: float = 0.5) -> Retrier:
    return Retrier(policy, clock, TallyMonitor(), lambda: draw)


@pytest.mark.parametrize(("failures", "slept"), [(0, []), (1, [1]), (2, [1, 2]), (3, [1, 2, 3])])
async def test_pauses_grow_up_to_a_limit(failures: int, slept: list[float]) -> None:
    clock, call = SkippingClock(), Failing(failures)
    assert await retrier(clock)(call) == "answer"
    assert (clock.slept, call.calls) == (slept, failures + 1)


@pytest.mark.parametrize(("attempts", "calls"), [(None, 4), (1, 1), (2, 2)])
async def test_attempts_are_counted(attempts: int | None, calls: int) -> None:
    call = Failing(9)
    with pytest.raises(Unavailable, match="Down"):
        await retrier(SkippingClock())(call, attempts)
    assert call.calls == calls


@pytest.mark.parametrize(("total_s", "calls"), [(2.9, 2), (3.0, 3), (0.9, 1), (1.0, 2)])
async def test_no_pause_leads_beyond_the_total(total_s: float, calls: int) -> None:
    call = Failing(9)
    with pytest.raises(Unavailable):
        await retrier(SkippingClock(), RetryPolicy(attempts=3, total_s=total_s, first_delay_s=1))(call)
    assert call.calls == calls


async def test_the_other_side_may_ask_for_more_time() -> None:
    clock = SkippingClock()
    await retrier(clock)(Failing(1, Unavailable("Busy", retry_after_s=5)))
    assert clock.slept == [5.5]
    call = Failing(1, Unavailable("Busy", retry_after_s=1e9))
    with pytest.raises(Unavailable):
        await retrier(clock)(call)
    assert call.calls == 1


@pytest.mark.parametrize(
    ("asked_s", "told"),
    [
        (90, "; it asks to come again in 90 seconds"),
        (1_800, "; it asks to come again in 30 minutes"),
        (100_000, "; it asks to come again in 28 hours"),
        (1e6, "; it asks to come again in 12 days"),
        (1, "; waited for 5 minutes"),
        (None, ""),
    ],
)
async def test_who_gives_up_is_told_when_to_come_again(asked_s: float | None, told: str) -> None:
    with pytest.raises(Unavailable) as raised:
        await retrier(SkippingClock(), draw=1.0)(Failing(999, Unavailable("Busy", asked_s)))
    assert str(raised.value) == f"Busy{told}"
    assert raised.value.retry_after_s == asked_s


async def test_who_asks_to_come_again_is_there() -> None:
    busy = Failing(12, Unavailable("Busy", 1))
    assert await retrier(SkippingClock())(busy) == "answer"
    assert busy.calls == 13, "more than the attempts for failures"


@pytest.mark.parametrize(("busy_total_s", "calls"), [(29.9, 1), (30, 2), (299, 10), (300, 11)])
async def test_who_is_busy_is_waited_for_until_a_total_time(busy_total_s: float, calls: int) -> None:
    """Answers after half a minute each time, as a full server does."""
    clock, busy, monitor = SkippingClock(), Failing(99, Unavailable("Busy", 5)), TallyMonitor()

    async def call() -> str:
        clock.advance(25)
        return await busy()

    policy = RetryPolicy(attempts=4, total_s=1, busy_total_s=busy_total_s)
    with pytest.raises(Unavailable, match="Busy; waited for") as raised:
        await Retrier(policy, clock, monitor, lambda: 0.0)(call)
    assert (busy.calls, raised.value.waited_s) == (calls, 30 * calls - 5)
    assert len(monitor.problems) == (calls > 1), "said once"


async def test_failures_between_busy_answers_are_counted_alone() -> None:
    errors = [Unavailable("Busy", 20), Unavailable("Down"), Unavailable("Busy", 20), Unavailable("Down")]
    answers = iter([*errors, *errors])

    async def call() -> str:
        raise next(answers)

    with pytest.raises(Unavailable, match="Down"):
        await retrier(SkippingClock(), RetryPolicy(attempts=3, total_s=10))(call)
    assert len(list(answers)) == 2


@pytest.mark.parametrize("attempts", [None, 1])
async def test_a_single_attempt_waits_for_nobody(attempts: int | None) -> None:
    busy = Failing(1, Unavailable("Busy", 1))
    with pytest.raises(Unavailable):
        await retrier(SkippingClock(), RetryPolicy(attempts=1) if attempts is None else POLICY)(busy, attempts)
    assert busy.calls == 1


async def test_other_errors_are_final() -> None:
    call = Failing(1, NoSpace("Full"))
    with pytest.raises(NoSpace):
        await retrier(SkippingClock())(call)
    assert call.calls == 1


async def test_may_retry_is_asked_each_time() -> None:
    answers = iter([True, False])
    call = Failing(9)
    with pytest.raises(Unavailable):
        await retrier(SkippingClock())(call, may_retry=lambda: next(answers))
    assert call.calls == 2


def test_jitter_spreads_a_crowd() -> None:
    assert (POLICY.delay_s(1, 0.0, None), POLICY.delay_s(1, 1.0, None)) == (0.5, 1.5)
    assert (POLICY.delay_s(1, 0.0, 9), POLICY.delay_s(1, 1.0, 9)) == (9, 10)


async def test_retries_are_counted() -> None:
    monitor = TallyMonitor()
    await Retrier(POLICY, SkippingClock(), monitor)(Failing(2))
    assert monitor.counters == {"retried_requests": 2}
