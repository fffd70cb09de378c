"""A job for a runner and what comes back, as messages.

Pure: turns values into JSON and back. The bot and its runner are the same program, so nothing here is versioned.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from isolate.cas.digest import Namespace
from run_isolated.cgroups import Limits
from run_isolated.result import RunResult
from run_isolated.spec import NamedCache, RunSpec

# What JSON has no type for, and how it is made again.
MADE: dict[str, Callable[[Any], object]] = {
    "root_dir": Path,
    "cache_dir": Path,
    "named_cache_root": Path,
    "namespace": Namespace.parse,
    "named_caches": lambda caches: [NamedCache(*cache) for cache in caches],
    "limits": lambda limits: Limits(*limits),
}


def job_message(spec: RunSpec) -> dict[str, object]:
    """Return what a runner is told to run."""
    message = {field.name: getattr(spec, field.name) for field in fields(spec)}
    message["namespace"] = spec.namespace.name
    return {name: str(value) if isinstance(value, Path) else value for name, value in message.items()}


def job_of(message: Mapping[str, Any]) -> RunSpec:
    """Return the run that `job_message` described."""
    made = {name: make(message[name]) for name, make in MADE.items() if message[name] is not None}
    return RunSpec(**{**message, **made})


@dataclass(frozen=True, slots=True, kw_only=True)
class Finished:
    """What a runner answers: a result, or why there is none."""

    exit_code: int | None = None
    duration_s: float | None = None
    had_hard_timeout: bool = False
    stopped: bool = False  # ended by an order, not by itself
    failure: str | None = None  # not the command's fault
    outputs_ref: Mapping[str, object] | None = None
    stats: object = None  # as the protocol has it under `isolated_stats`

    @classmethod
    def of(cls, result: RunResult) -> Finished:
        """Return what a bot needs of `result`."""
        return cls(
            exit_code=result.exit_code,
            duration_s=result.duration_s,
            had_hard_timeout=result.had_hard_timeout,
            stopped=result.stopped,
            failure=result.inputs_missing or result.internal_failure,
            outputs_ref=None if result.outputs is None else result.outputs.to_json(),
            stats=result.stats.to_json()["isolated"],
        )

    def to_message(self) -> dict[str, object]:
        return {field.name: getattr(self, field.name) for field in fields(self)}

    @classmethod
    def from_message(cls, message: Mapping[str, Any]) -> Finished:
        return cls(**message)
