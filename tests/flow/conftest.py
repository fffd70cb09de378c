"""Fixtures of the flow tests."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.flow.bots import Gate
from tests.flow.raw_swarming import rest_server as rest_server  # noqa: PLC0414 - the alias says that this is a re-export
from tests.flow.servers import server as server  # noqa: PLC0414 - the alias says that this is a re-export


@pytest.fixture
def gate(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gate]:
    """A gate that opens at the end of a test, so that a task is never left at it."""
    made = Gate(tmp_path_factory.mktemp("gate") / "g")
    yield made
    made.close()
