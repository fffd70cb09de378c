"""A short life full of accidents: `python -m tests.soak` lives longer ones."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.flow import chaos

SEED = 20_201_122
ROUNDS = 8


@pytest.mark.slow
async def test_nothing_is_lost_nothing_runs_twice_and_nothing_is_left(tmp_path: Path) -> None:
    world, wrong = await chaos.run(tmp_path, SEED, ROUNDS)
    assert wrong == [], f"seed {SEED}: {chaos.summary(world)}: {world.blows}"
    assert len(world.blows) == ROUNDS
    assert sum(world.relay.faults.values()) > 0
    assert any(run.acknowledged for run in world.history.runs)
