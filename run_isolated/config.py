"""What the environment says to `run_isolated`; its door to `os.environ`.

A root. Knows no flags: a flag always wins over what is read here.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from isolate import config
from run_isolated.places import usable

_COERCED = "LC_CTYPE"


@dataclass(frozen=True, slots=True)
class Config:
    """Defaults of the flags, and what a command inherits."""

    server: str | None
    cache_dir: Path
    named_cache_root: Path
    environment: dict[str, str]
    note: str = ""  # why the directories are not where they usually are


def load(environment: Mapping[str, str] | None = None, *, needs_places: bool = True) -> Config:
    """Read `environment`, by default that of this process; with `needs_places` the directories can be written to."""
    known = _inherited() if environment is None else dict(environment)
    shared, note = config.load(known), ""
    if needs_places:
        root, note = usable(shared.cache_root, known)
        shared = replace(shared, cache_root=root)
    return Config(shared.isolate_server, shared.blob_cache, shared.cache_root / "named_caches", known, note)


def _inherited() -> dict[str, str]:
    """Return the environment that this process was started with: where it says no locale, Python adds one (PEP 538)."""
    known = dict(os.environ)
    if _COERCED in known:
        with suppress(OSError):
            given = Path("/proc/self/environ").read_bytes().split(b"\0")
            if not any(entry.startswith(f"{_COERCED}=".encode()) for entry in given):
                del known[_COERCED]
    return known
