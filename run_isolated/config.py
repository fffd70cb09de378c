"""What the environment says to `run_isolated`; its door to `os.environ`.

A root. Knows no flags: a flag always wins over what is read here.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from isolate import config


@dataclass(frozen=True, slots=True)
class Config:
    """Defaults of the flags, and what a command inherits."""

    server: str | None
    cache_dir: Path
    named_cache_root: Path
    environment: dict[str, str]


def load(environment: Mapping[str, str] | None = None) -> Config:
    """Read `environment`, by default that of this process."""
    known = dict(os.environ if environment is None else environment)
    shared = config.load(known)
    return Config(shared.isolate_server, shared.blob_cache, shared.cache_root / "named_caches", known)
