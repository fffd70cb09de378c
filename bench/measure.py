"""Run commands in turns and measure them: wall time, processor time, memory, bytes and requests on the wire.

Knows no tool. The processor time and the memory of a command are those of all its processes; what its server used is
kept apart.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from bench.relay import Wire
from bench.watching import Watch, cpu_s
from isolate.errors import IsolateError

# Who needs this long, and this many times as long as the fastest peer, gets no second turn: what it would show is
# known, and what all rows take together is most of an hour as it is.
SLOW_S, HOPELESS = 10.0, 1.25


class Failed(IsolateError):
    """A command did not do what it was asked for."""


@dataclass(frozen=True, slots=True)
class Sample:
    """One run of one contestant; `figures` are those that only its row knows."""

    wall_s: float
    cpu_s: float = 0.0
    memory_bytes: int = 0
    server_cpu_s: float = 0.0
    server_memory_bytes: int = 0
    wire: Wire | None = None
    stdout: str = ""
    figures: dict[str, float] = field(default_factory=dict)

    def value(self, name: str) -> float:
        """Return the measurement called `name`."""
        return self.figures[name] if name in self.figures else float(getattr(self, name))


@dataclass(frozen=True, slots=True)
class Contestant:
    """Something that can be run again and again; `prepare` and `tidy` are not measured."""

    name: str
    once: Callable[[], Sample]
    is_peer: bool = False  # what a user would pick instead; others are shown for scale
    prepare: Callable[[], object] | None = None
    tidy: Callable[[], object] | None = None


@dataclass(frozen=True, slots=True)
class Race:
    """Who is measured beside whom, and what happens before each turn."""

    contestants: Sequence[Contestant]
    before_turn: Callable[[int], object] | None = None
    absent: Sequence[str] = ()  # who would take part, were it installed


@dataclass(frozen=True, slots=True)
class Result:
    """What was measured of one contestant."""

    name: str
    is_peer: bool
    samples: tuple[Sample, ...]
    wire: Wire | None = None  # of the run that is not counted otherwise, because counting takes time
    is_first_run: bool = False  # that of the discarded turn is all there is: it was much slower than another peer

    def median(self, name: str) -> float:
        return statistics.median(sample.value(name) for sample in self.samples)

    def peak(self, name: str) -> float:
        return max(sample.value(name) for sample in self.samples)

    @classmethod
    def from_json(cls, found: dict[str, Any]) -> Result:
        """Return what `as_json` wrote."""
        samples = tuple(Sample(**sample) for sample in found["samples"])
        wire = found["wire"] and Wire(**found["wire"])
        return cls(found["name"], found["is_peer"], samples, wire, found["is_first_run"])

    @property
    def figures(self) -> dict[str, float]:
        return {name: self.median(name) for name in self.samples[0].figures}

    def as_json(self) -> dict[str, object]:
        """Return everything that was measured."""
        samples = [{key: value for key, value in asdict(sample).items() if key not in {"stdout", "wire"}}
                   for sample in self.samples]  # fmt: skip
        return {"name": self.name, "is_peer": self.is_peer, "is_first_run": self.is_first_run,
                "wire": self.wire and asdict(self.wire), "samples": samples}  # fmt: skip


def run(argv: Sequence[str], env: dict[str, str], cwd: Path | None = None, *, server: int | None = None) -> Sample:
    """Run a command once; raises Failed. `server` is the process that it talks to."""
    with tempfile.TemporaryFile() as said, tempfile.TemporaryFile() as errors:
        server_before_s = 0.0 if server is None else cpu_s(server)
        with nullcontext() if server is None else Watch(server) as served:
            started_s = time.perf_counter()
            process = subprocess.Popen(argv, env=env, cwd=cwd, stdin=subprocess.DEVNULL, stdout=said, stderr=errors)
            try:
                with Watch(process.pid) as watched:
                    _, status, usage = os.wait4(process.pid, 0)
            except BaseException:
                process.kill()  # who ends the benchmark ends what it measures
                process.wait()
                raise
            wall_s = time.perf_counter() - started_s
        process.returncode = os.waitstatus_to_exitcode(status)
        server_s = 0.0 if server is None else cpu_s(server) - server_before_s
        for stream in (said, errors):
            stream.seek(0)
        if process.returncode:
            why = os.fsdecode(errors.read())[-500:]
            raise Failed(f"{why.strip() or 'nothing was said'} (status {process.returncode} of {' '.join(argv)})")
        stdout = os.fsdecode(said.read())
    return Sample(
        wall_s,
        usage.ru_utime + usage.ru_stime,
        watched.peak_bytes,
        server_s,
        0 if served is None else served.peak_bytes,
        stdout=stdout,
    )


@dataclass(slots=True)
class Spent:
    """Where the time went; `told` hears of each run as soon as it has ended."""

    seconds: dict[str, float] = field(default_factory=dict)
    told: Callable[[str, Sample, float], object] = lambda _who, _sample, _share: None

    @contextmanager
    def on(self, what: str) -> Iterator[None]:
        """Note what the block takes as time spent on `what`."""
        started_s = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[what] = self.seconds.get(what, 0.0) + time.perf_counter() - started_s


def alternate(runs: int, race: Race, spent: Spent | None = None) -> list[Result]:
    """Measure contestants in turns, so that a slow minute of the machine hits all; the first turn is discarded.

    One that fails is left out, unless it is the first, which the row is about. What the discarded turn counted on the
    wire is kept, and the whole run of one that is hopelessly slow: it gets no other. Before each run all that others
    wrote is brought to the disk: else who syncs would pay for who does not.
    """
    spent = spent or Spent()
    first: dict[str, Sample] = {}
    samples: dict[str, list[Sample]] = {one.name: [] for one in race.contestants}
    left, slow = list(race.contestants), set[str]()
    for turn in range(runs + 1):
        if race.before_turn is not None:
            with spent.on("preparing"):
                race.before_turn(turn)
        asked = [one for one in left if one.name not in slow]
        for number, one in enumerate(asked, 1):
            try:
                sample = _once(one, spent)
            except Failed as error:
                if one is race.contestants[0]:
                    raise
                print(f"{one.name} is left out: {error}", file=sys.stderr)
                left.remove(one)
                continue
            if turn:
                samples[one.name].append(sample)
            else:
                first[one.name] = sample
            spent.told(f"{one.name}, turn {turn}", sample, (turn + number / len(asked)) / (runs + 1))
        if not turn and runs > 1:
            slow = set(_hopeless(left[1:], first))
    return [
        Result(
            one.name,
            one.is_peer,
            (first[one.name],) if one.name in slow else tuple(samples[one.name]),
            first[one.name].wire,
            one.name in slow,
        )
        for one in left
    ]


def _hopeless(contestants: Sequence[Contestant], first: dict[str, Sample]) -> Iterator[str]:
    """Yield the names of those who are too slow to be asked again; never that of ours, whatever its flags."""
    fastest_s = min((first[one.name].wall_s for one in contestants if one.is_peer), default=float("inf"))
    for one in contestants:
        wall_s = first[one.name].wall_s
        if wall_s >= SLOW_S and wall_s > HOPELESS * fastest_s and not one.name.startswith("isolate"):
            yield one.name


def _once(one: Contestant, spent: Spent) -> Sample:
    with spent.on("preparing"):
        if one.prepare is not None:
            one.prepare()
        os.sync()
    try:
        with spent.on("running"):
            return one.once()
    finally:
        with spent.on("tidying"):
            if one.tidy is not None:
                one.tidy()
