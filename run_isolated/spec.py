"""What a run is asked to do: one value that callers fill in and `run` takes apart.

Knows no steps: each of them gets the fields it needs, never the whole.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from isolate.cas.digest import DEFAULT_NAMESPACE, Namespace
from isolate.cas.lru import CachePolicy
from run_isolated.cgroups import NO_LIMITS, Limits
from run_isolated.ways import DEFAULT

MAX_AGE_S = 21 * 24 * 3600  # of a cached file nobody used, as in 2020


class NamedCache(NamedTuple):
    """A directory that outlives the run, and where the command finds it."""

    name: str
    path: str  # below the run directory; nothing is there yet
    hint_bytes: int = 0  # how large it will be when it is not here yet; 0 or less when nobody knows


@dataclass(frozen=True, slots=True, kw_only=True)
class RunSpec:
    """What to run. Paths below the run directory are relative POSIX paths that stay inside it.

    `env` values that are empty delete the variable. 0 or None for a time means no limit.
    """

    root_dir: Path  # work directories are made and deleted in here; on the file system of the cache
    cache_dir: Path | None = None  # None: `cache` in `root_dir`
    base_env: Mapping[str, str]  # what the command inherits before `env` and `env_prefixes`
    server: str | None = None  # normalised URL; None: no inputs, and outputs are not uploaded
    isolated: str | None = None  # hash of the input tree, in hex
    namespace: Namespace = field(default_factory=lambda: Namespace.parse(DEFAULT_NAMESPACE))
    command: Sequence[str] = ()  # the command, or extra arguments to the one of `isolated`
    raw_command: bool = False  # `command` is the whole command, even when `isolated` has one
    relative_cwd: str = ""  # with `raw_command` only
    env: Mapping[str, str] = field(default_factory=dict)
    env_prefixes: Mapping[str, Sequence[str]] = field(default_factory=dict)
    outputs: Sequence[str] = ()  # files and directories of the run directory to upload besides ${ISOLATED_OUTDIR}
    bot_file: str | None = None  # for ${SWARMING_BOT_FILE}
    hard_timeout_s: float | None = None
    grace_period_s: float | None = None
    max_cache_size_bytes: int = 50 << 30
    max_cache_items: int = 100_000
    min_free_space_bytes: int = 2 << 30
    leak_temp_dir: bool = False  # keep the work directory for inspection
    mapping: str = DEFAULT  # how inputs get into the tree: one of WAYS
    verify_inputs: bool = False  # hash what the cache has before it is used
    named_caches: Sequence[NamedCache] = ()
    named_cache_root: Path | None = None  # where they are kept; None: `named_caches` in `root_dir`
    lower_priority: bool = False
    no_network: bool = False  # nothing but a loopback of its own; Linux only
    switch_to_account: str | None = None  # default account of LUCI_CONTEXT for the command
    containment: str = "NONE"  # NONE, AUTO, or JOB_OBJECT, which only Windows has
    group_parent: str | None = None  # where the command's control group is made; None: in that of this process
    limits: Limits = NO_LIMITS  # of all its processes together; a run that cannot have them fails

    @property
    def named_cache_dir(self) -> Path:
        """Where named caches are kept."""
        return self.root_dir / "named_caches" if self.named_cache_root is None else self.named_cache_root

    @property
    def content_cache_dir(self) -> Path:
        """Where fetched files are kept."""
        return self.cache_dir or self.root_dir / "cache"

    @property
    def cache_policy(self) -> CachePolicy:
        """The limits of the cache."""
        return CachePolicy(
            max_bytes=self.max_cache_size_bytes,
            max_items=self.max_cache_items,
            min_free_bytes=self.min_free_space_bytes,
            max_age_s=MAX_AGE_S,
        )
