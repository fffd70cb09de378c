"""Fixtures of the flow tests."""

from tests.flow.raw_swarming import rest_server as rest_server  # noqa: PLC0414 - the alias says that this is a re-export
from tests.flow.servers import server as server  # noqa: PLC0414 - the alias says that this is a re-export
