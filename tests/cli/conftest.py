"""What tests of commands share: a server for each module, and a shell whose environment points to it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cli.shells import Shell
from tests.flow.servers import ServerProcess, running_server


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """One server for all tests here: no test depends on what is not in it."""
    with running_server(tmp_path_factory.mktemp("server") / "data") as process:
        yield process


@pytest.fixture
def shell(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], server: ServerProcess
) -> Shell:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ISOLATE_SERVER", server.url)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("ISOLATE_DEBUG", raising=False)
    return Shell(capfd)
