"""isolate.effort: the level follows what an upload waits for."""

from __future__ import annotations

import pytest

from isolate.effort import BUSY, FIRST_LEVEL, IDLE, LEVELS, WINDOW_S, Effort


def after(windows: int, share: float) -> int:
    """Return the level after some windows in which the thread was busy for a share of the time."""
    effort = Effort(1)
    effort.begin(0.0)
    for number in range(windows):
        ends_s = (number + 1) * WINDOW_S
        effort.worked(ends_s - share * WINDOW_S, ends_s)
    return effort.level


@pytest.mark.parametrize(
    ("share", "level"),
    [(0.0, LEVELS[-1]), (IDLE - 0.01, LEVELS[-1]), (IDLE + 0.01, 1), (BUSY - 0.01, 1), (BUSY + 0.01, -1), (1.0, -1)],
)
def test_idle_threads_compress_more_and_busy_ones_less(share: float, level: int) -> None:
    assert after(20, share) == level


def test_one_window_moves_one_step() -> None:
    assert [after(windows, 0.1) for windows in range(4)] == [1, 3, 5, 7]


def test_between_uploads_nothing_is_learnt() -> None:
    effort = Effort(1)
    effort.worked(0.0, 10.0)
    effort.begin(100.0)
    effort.worked(100.0, 100.2)
    effort.end()
    effort.worked(100.2, 200.0)
    assert effort.level == FIRST_LEVEL
    effort.begin(300.0)
    effort.worked(300.0, 300.0 + WINDOW_S)
    assert effort.level == LEVELS[0]


def test_two_threads_are_busy_only_together() -> None:
    effort = Effort(2)
    effort.begin(0.0)
    effort.worked(0.0, WINDOW_S / 2)
    effort.worked(0.0, WINDOW_S / 2)
    effort.worked(WINDOW_S / 2, WINDOW_S)
    assert effort.level == FIRST_LEVEL  # three quarters
