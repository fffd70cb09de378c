"""The table: what was measured, who was faster, which goals were reached; on the terminal and as Markdown."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Self

from bench.goals import Verdict
from bench.measure import Result

MB = 1e6
CLIENT_MB, SERVER_MB, IDLE_MB = 300, 250, 80
HEADINGS = ("who", "wall s", "CPU s", "server CPU s", "memory MB", "server MB", "sent MB", "received MB", "requests")


@dataclass(frozen=True, slots=True)
class Measured:
    """One row on one tree."""

    number: str
    title: str
    tree: str  # what it was measured on, in words
    results: tuple[Result, ...]
    verdicts: tuple[Verdict, ...]
    seconds: dict[str, float] = field(default_factory=dict)  # where the time of the whole row went
    elsewhere_cpu_s: float = 0.0  # processor time that went to others meanwhile, threads of the kernel included
    absent: tuple[str, ...] = ()  # who would have taken part, were it installed

    def as_json(self) -> dict[str, object]:
        return {
            "row": self.number,
            "title": self.title,
            "on": self.tree,
            "verdicts": [asdict(verdict) for verdict in self.verdicts],
            "results": [result.as_json() for result in self.results],
            "absent": list(self.absent),
            "cells": [list(line) for line in lines(self)],
            "figures": {result.name: result.figures for result in self.results if result.figures},
            "seconds": self.seconds,
            "elsewhere_cpu_s": self.elsewhere_cpu_s,
        }

    @classmethod
    def from_json(cls, found: dict[str, Any]) -> Self:
        """Return what `as_json` wrote."""
        results = tuple(Result.from_json(result) for result in found["results"])
        verdicts = tuple(Verdict(**verdict) for verdict in found["verdicts"])
        return cls(found["row"], found["title"], found["on"], results, verdicts, found["seconds"],
                   found["elsewhere_cpu_s"], tuple(found.get("absent", ())))  # fmt: skip


def took(seconds: dict[str, float], elsewhere_cpu_s: float) -> str:
    """Say where the time of a row went."""
    parts = ", ".join(f"{what} {seconds[what]:.0f}" for what in seconds)
    total_s = sum(seconds.values())
    return f"Took {total_s:.0f} s ({parts}); others and the kernel used {elsewhere_cpu_s:.0f} CPU s meanwhile."


def silence(rows: Sequence[Mapping[str, Any]], cores: int) -> str:
    """Say how long all rows took, and how much of the processors others had meanwhile; nothing if it is not known."""
    total_s = sum(sum(row.get("seconds", {}).values()) for row in rows)
    elsewhere_s = sum(row.get("elsewhere_cpu_s", 0.0) for row in rows)
    if not total_s:
        return ""
    share = elsewhere_s / (total_s * cores)
    return f"the rows took {total_s / 60:.0f} min; others and the kernel had {share:.0%} of the processors meanwhile"


def lines(measured: Measured) -> Iterator[tuple[str, ...]]:
    """Yield the lines of the table of one row: contestants, and who would have been one."""
    yield from (tuple(cells(result)) for result in measured.results)
    for name in measured.absent:
        yield (f"{name}: absent", *[""] * (len(HEADINGS) - 1))


def cells(result: Result) -> Iterator[str]:
    """Yield what a line of the table says of one contestant: medians, and the highest of memory."""
    yield f"{result.name} (first run only)" if result.is_first_run else result.name
    yield f"{result.median('wall_s'):.3f}"
    yield f"{result.median('cpu_s'):.2f}"
    yield _unless_zero(result.median("server_cpu_s"), 2)
    yield _unless_zero(result.peak("memory_bytes") / MB, 0)
    yield _unless_zero(result.peak("server_memory_bytes") / MB, 0)
    wire = result.wire
    yield "" if wire is None else f"{wire.sent_bytes / MB:.2f}"
    yield "" if wire is None else f"{wire.received_bytes / MB:.2f}"
    yield "" if wire is None else f"{wire.requests}"


def _unless_zero(value: float, digits: int) -> str:
    return f"{value:.{digits}f}" if value else ""


def text(rows: Sequence[Sequence[str]]) -> Iterator[str]:
    """Lay out rows of cells: the first column to the left, numbers to the right."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for row in rows:
        first, *others = (cell.rjust(width) for cell, width in zip(row, widths, strict=True))
        yield "  ".join(("  " + first.strip().ljust(widths[0]), *others)).rstrip()


def shown(measured: Measured) -> Iterator[str]:
    """Yield the lines of one row for a terminal."""
    yield f"\n{measured.number}  {measured.title}: {measured.tree}".rstrip(": ")
    yield from text([HEADINGS, *lines(measured)])
    for result in measured.results:
        if result.figures:
            yield f"  {result.name}: " + ", ".join(f"{name} {value:.4g}" for name, value in result.figures.items())
    for verdict in measured.verdicts:
        yield f"  target {verdict.text}: {verdict.measured}: {verdict.word}"
    if measured.seconds:
        yield f"  {took(measured.seconds, measured.elsewhere_cpu_s)}"


def memory(found: Sequence[Measured], idle: Result) -> tuple[Verdict, ...]:
    """Return what row 10 says: the memory of all other rows, ours only."""
    ours = [result for measured in found for result in measured.results if result.name.startswith("isolate")]
    client = max((result.peak("memory_bytes") / MB for result in ours), default=0.0)
    server = max((result.peak("server_memory_bytes") / MB for result in ours), default=0.0)
    idle_mb = idle.peak("server_memory_bytes") / MB
    return (
        Verdict(f"client ≤ {CLIENT_MB} MB", f"{client:.0f} MB", client <= CLIENT_MB),
        Verdict(f"server ≤ {SERVER_MB} MB", f"{server:.0f} MB", server <= SERVER_MB),
        Verdict(f"idle server ≤ {IDLE_MB} MB", f"{idle_mb:.0f} MB", idle_mb <= IDLE_MB),
    )


def summary(found: Sequence[Measured]) -> Iterator[str]:
    """Yield all goals as one table."""
    rows = [("row", "what", "on", "target", "measured", "")]
    rows += [
        (measured.number, measured.title, measured.tree.partition(":")[0], verdict.text, verdict.measured, verdict.word)
        for measured in found
        for verdict in measured.verdicts
    ]
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for row in rows:
        yield "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
