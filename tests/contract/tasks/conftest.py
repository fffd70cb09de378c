"""The stores under test: every test of this folder runs on each backend."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from swarming.store import Store
from tests.contract.tasks.backends import BACKENDS, Opened


@pytest.fixture(params=BACKENDS)
async def pair(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Opened]:
    async with BACKENDS[request.param](tmp_path) as opened:
        yield opened


@pytest.fixture
def store(pair: Opened) -> Store:
    return pair[0]
