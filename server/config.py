"""What the server is told from outside: flags and the environment, checked once.

The only module of the server that reads the environment.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from server.auth import loopback_address


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerConfig:
    """One server: where it keeps its data and where it listens."""

    data_dir: Path
    address: str
    port: int
    drain_s: float = 20.0  # a commit takes milliseconds; this is for a large upload that is nearly through

    @classmethod
    def from_flags(
        cls, data: Path | None, host: str, port: int, environ: Mapping[str, str] = os.environ
    ) -> ServerConfig:
        """Return the checked configuration; raises InvalidInput."""
        return cls(data_dir=data or default_data_dir(environ), address=loopback_address(host), port=port)


def default_data_dir(environ: Mapping[str, str]) -> Path:
    """Return `$XDG_DATA_HOME/isolate-server`, by default `~/.local/share/isolate-server`."""
    base = environ.get("XDG_DATA_HOME", "")
    home = Path(base) if base.startswith("/") else Path.home() / ".local" / "share"
    return home / "isolate-server"
