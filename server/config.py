"""What the server is told from outside: flags and the environment, checked once.

The only module of the server that reads the environment.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from isolate.errors import InvalidInput
from server.auth import loopback_address
from server.stores.limits import MIN_PROMISE_S, BlobLimits
from server.units import bytes_text, parse_bytes, parse_duration_s

MIN_MAX_BYTES = 1 << 20  # with less, nothing but the smallest uploads would ever be taken


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerConfig:
    """One server: where it keeps its data and where it listens."""

    data_dir: Path
    address: str
    port: int
    limits: BlobLimits = field(default_factory=BlobLimits)
    drain_s: float = 20.0  # a commit takes milliseconds; this is for a large upload that is nearly through

    @classmethod
    def from_flags(
        cls,
        data: Path | None,
        host: str,
        port: int,
        environ: Mapping[str, str] = os.environ,
        limits: BlobLimits | None = None,
    ) -> ServerConfig:
        """Return the checked configuration; raises InvalidInput."""
        if limits is not None and limits.max_bytes is not None and limits.max_bytes < MIN_MAX_BYTES:
            given, least = bytes_text(limits.max_bytes), bytes_text(MIN_MAX_BYTES)
            raise InvalidInput(f"--max-size of {given}: a block of an upload has {least}; leave it out for no limit")
        return cls(
            data_dir=data_dir(data, environ),
            address=loopback_address(host),
            port=port,
            limits=limits or BlobLimits(),
        )


def blob_limits(max_size: str | None, min_free: str | None, keep: str | None) -> BlobLimits:
    """Return what `--max-size`, `--min-free` and `--keep` say; raises InvalidInput."""
    given = BlobLimits()
    kept_s = given.kept_s if keep is None else parse_duration_s(keep)
    if kept_s < MIN_PROMISE_S:
        raise InvalidInput(f"--keep {keep}: blobs are kept for at least an hour, or no archive could rely on them")
    return replace(
        given,
        promised_s=min(given.promised_s, kept_s),
        kept_s=kept_s,
        temporary_kept_s=min(given.temporary_kept_s, kept_s),
        max_bytes=None if max_size is None else parse_bytes(max_size),
        min_free_bytes=given.min_free_bytes if min_free is None else parse_bytes(min_free),
    )


def data_dir(given: Path | None, environ: Mapping[str, str] = os.environ) -> Path:
    """Return the data directory that a command works on."""
    return given or default_data_dir(environ)


def default_data_dir(environ: Mapping[str, str]) -> Path:
    """Return `$XDG_DATA_HOME/isolate-server`, by default `~/.local/share/isolate-server`."""
    base = environ.get("XDG_DATA_HOME", "")
    home = Path(base) if base.startswith("/") else Path.home() / ".local" / "share"
    return home / "isolate-server"
