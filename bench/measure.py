"""Run commands and measure them: wall time, CPU seconds of all their processes, peak memory of the largest."""

from __future__ import annotations

import os
import resource
import statistics
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Sample:
    """One run of one command."""

    wall_s: float
    cpu_s: float
    stdout: str = ""


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the table: what was measured, how often, and the medians."""

    name: str
    samples: tuple[Sample, ...]
    note: str = ""

    @property
    def wall_s(self) -> float:
        return statistics.median(sample.wall_s for sample in self.samples)

    @property
    def cpu_s(self) -> float:
        return statistics.median(sample.cpu_s for sample in self.samples)

    def as_json(self) -> dict[str, object]:
        return {
            "name": self.name,
            "note": self.note,
            "samples": [asdict(sample) | {"stdout": None} for sample in self.samples],
        }


def run(argv: Sequence[str], env: dict[str, str], cwd: Path | None = None) -> Sample:
    """Run a command once; a failure ends the benchmark."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    started_s = time.perf_counter()
    done = subprocess.run(argv, env=env, cwd=cwd, capture_output=True, check=False)
    wall_s = time.perf_counter() - started_s
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode:
        raise SystemExit(f"{' '.join(argv)} ended with {done.returncode}: {os.fsdecode(done.stderr)[-500:]}")
    return Sample(wall_s, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, os.fsdecode(done.stdout))


def alternate(runs: int, contestants: dict[str, Callable[[], Sample]]) -> list[Row]:
    """Measure contestants in turns, so that a slow minute of the machine hits all; the first turn is discarded."""
    samples: dict[str, list[Sample]] = {name: [] for name in contestants}
    for turn in range(runs + 1):
        for name, once in contestants.items():
            sample = once()
            if turn:
                samples[name].append(sample)
    return [Row(name, tuple(found)) for name, found in samples.items()]
