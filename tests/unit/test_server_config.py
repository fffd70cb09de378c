"""What the server is told from outside."""

from __future__ import annotations

from pathlib import Path

import pytest

from isolate.errors import InvalidInput
from server.config import ServerConfig, default_data_dir


def test_the_directory_of_the_user() -> None:
    assert default_data_dir({"XDG_DATA_HOME": "/data"}) == Path("/data/isolate-server")
    for ignored in ("", "relative/path"):
        found = default_data_dir({"XDG_DATA_HOME": ignored})
        assert found == Path.home() / ".local/share/isolate-server"


def test_flags() -> None:
    config = ServerConfig.from_flags(Path("/d"), "localhost", 0, {})
    assert (config.data_dir, config.address, config.port) == (Path("/d"), "127.0.0.1", 0)
    assert ServerConfig.from_flags(None, "::1", 1, {"XDG_DATA_HOME": "/x"}).data_dir == Path("/x/isolate-server")
    with pytest.raises(InvalidInput, match="without authentication"):
        ServerConfig.from_flags(None, "0.0.0.0", 1, {})
