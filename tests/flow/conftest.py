"""Fixtures of the flow tests."""

from tests.flow.servers import server as server  # noqa: PLC0414 - the alias says that this is a re-export
