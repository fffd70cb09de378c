"""A few of the rounds that `make soak` does by the hundred."""

from __future__ import annotations

from pathlib import Path

from tests.damage.kill_rounds import kill_rounds


def test_nothing_acknowledged_is_lost_when_somebody_is_killed(tmp_path: Path) -> None:
    tally = kill_rounds(tmp_path, rounds=2, seed=11)
    assert tally.kills.total() == 2
    assert tally.acknowledged >= 1
