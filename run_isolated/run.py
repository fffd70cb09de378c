"""One run, from a hash to a result: fetch, map, run, archive outputs, clean up.

Knows no flags and no scheduler; each step lives in its own module and gets only what it needs. The invariant: `run` never
raises for what can be foreseen; its `RunResult` says whether the command or the world failed.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from isolate.cas.digest import DEFAULT_NAMESPACE, Namespace
from isolate.clock import Clock
from isolate.monitor import Monitor
from run_isolated.result import OutputsRef, RunResult, Stats, Transfer

__all__ = ["OutputsRef", "RunResult", "RunSpec", "Stats", "Transfer", "run"]


@dataclass(frozen=True, slots=True, kw_only=True)
class RunSpec:
    """What to run. Paths under the run directory are relative POSIX paths that stay inside it.

    `env` values that are empty delete the variable. 0 or None for a time means no limit.
    """

    root_dir: Path  # work directories are made and deleted in here; on the file system of the cache
    cache_dir: Path | None = None  # needed when `isolated` is given
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


async def run(spec: RunSpec, *, stdout: int | None, stop: asyncio.Event, monitor: Monitor, clock: Clock) -> RunResult:
    """Run the command of `spec` and return what it came to.

    `stdout` is a file descriptor for both stdout and stderr of the command (stdin is then empty); None inherits all
    three. Setting `stop` ends the command: SIGTERM, grace, SIGKILL; cancelling the call kills it at once. In every case no
    process of the command is left when this returns, so all it ever wrote is in `stdout` by then.
    """
    raise RuntimeError(spec, stdout, stop, monitor, clock)
