"""What the environment and the configuration file say: servers, verbosity, where caches live; the door to `os.environ`.

A root. Knows no command line: a flag always wins over what is read here.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from isolate.errors import InvalidInput
from isolate.plain_files import read_plain
from isolate.settings import Settings, parse

MAX_SETTINGS_BYTES = 1 << 20  # defaults of flags


@dataclass(frozen=True, slots=True)
class Config:
    """Defaults of the flags, for one user on one machine."""

    isolate_server: str | None
    swarming_server: str | None
    verbosity: int
    cache_root: Path
    skips_broken: bool = False  # what cannot be archived is reported and left out

    @property
    def stat_cache(self) -> Path:
        """Where digests of unchanged files are remembered; safe to delete at any time."""
        return self.cache_root / "stat"

    @property
    def blob_cache(self) -> Path:
        """Where fetched files are kept between runs; safe to delete when no run is going on."""
        return self.cache_root / "blobs"


def load(environment: Mapping[str, str] | None = None) -> Config:
    """Read `environment`, by default that of this process; an empty variable counts as absent."""
    known = os.environ if environment is None else environment
    debug = known.get("ISOLATE_DEBUG", "")
    return Config(
        isolate_server=known.get("ISOLATE_SERVER") or None,
        swarming_server=known.get("SWARMING_SERVER") or None,
        verbosity=int(debug) if debug.isdecimal() else 0,
        cache_root=_cache_home(known) / "isolate",
        skips_broken=bool(known.get("ISOLATE_IGNORE_BROKEN_ITEMS")),
    )


def load_settings(environment: Mapping[str, str] | None = None) -> Settings:
    """Read `isolate/config.toml` in the user's folder for configurations; raises InvalidInput."""
    known = os.environ if environment is None else environment
    configured = known.get("XDG_CONFIG_HOME", "")
    folder = Path(configured) if os.path.isabs(configured) else _home(known) / ".config"
    place = folder / "isolate" / "config.toml"
    try:
        return parse(read_plain(place, MAX_SETTINGS_BYTES).decode(), str(place))
    except FileNotFoundError:
        return Settings()
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidInput(f"Cannot read {place}: {getattr(error, 'strerror', None) or 'it is not UTF-8'}") from error


def _home(environment: Mapping[str, str]) -> Path:
    home = environment.get("HOME", "")
    return Path(home if os.path.isabs(home) else os.path.expanduser("~"))


def _cache_home(environment: Mapping[str, str]) -> Path:
    # The XDG specification: a relative path is to be ignored.
    configured = environment.get("XDG_CACHE_HOME", "")
    if os.path.isabs(configured):
        return Path(configured)
    return _home(environment) / ".cache"
