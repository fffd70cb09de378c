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
    [(0.0, LEVELS[-1]), (IDLE - 0.01, LEVELS[-1]), (IDLE + 0.01, 1), (BUSY + 0.01, 1), (1.0, 1)],
)
def test_only_idle_threads_compress_more(share: float, level: int) -> None:
    assert after(20, share) == level


@pytest.mark.parametrize(("share", "levels"), [(BUSY - 0.01, [7, 7, 7, 7, 7]), (BUSY + 0.01, [7, 5, 3, 1, 1])])
def test_busy_threads_compress_less_but_never_carelessly(share: float, levels: list[int]) -> None:
    effort = Effort(1)
    effort.begin(0.0)
    for number in range(1, 4):
        effort.worked(number * WINDOW_S, number * WINDOW_S)
    seen = [effort.level]
    for number in range(4, 8):
        effort.worked((number - share) * WINDOW_S, number * WINDOW_S)
        seen.append(effort.level)
    assert seen == levels


def test_one_window_moves_one_step() -> None:
    assert [after(windows, 0.1) for windows in range(4)] == [1, 3, 5, 7]


def test_between_uploads_nothing_is_learnt() -> None:
    effort = Effort(1)
    effort.worked(9.9, 10.0)
    effort.begin(100.0)
    effort.worked(100.0, 100.2)
    effort.end()
    effort.worked(199.9, 200.0)
    assert effort.level == FIRST_LEVEL
    effort.begin(300.0)
    effort.worked(300.0 + WINDOW_S, 300.0 + WINDOW_S)
    assert effort.level == LEVELS[1]


def test_two_threads_are_busy_only_together() -> None:
    effort = Effort(2)
    effort.begin(0.0)
    effort.worked(0.0, WINDOW_S / 2)
    effort.worked(WINDOW_S / 2, WINDOW_S)
    assert effort.level == FIRST_LEVEL  # a half
    effort.worked(WINDOW_S, WINDOW_S * 3 / 2)
    effort.worked(WINDOW_S * 7 / 4, WINDOW_S * 2)
    assert effort.level == LEVELS[1]  # three eighths
