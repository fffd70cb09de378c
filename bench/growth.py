"""`python -m bench.growth`: what archive, archive again, and fetch cost, against the number of files and of bytes.

Trees of three sizes for each; the cost is the processor time of client and server together, which says more than wall
time on a machine that does other things, and the wall time beside it. Prints the exponent that fits best what goes
beyond the cost of a tree of ten files, which is that of starting up: 1 is linear.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import statistics
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import click

from bench.command import SETTINGS, OutputFile, run_program, working
from bench.machine import machine
from bench.measure import Sample
from bench.place import Place, Server, Size, removed
from bench.plot import Panel, Series, svg
from bench.rows_archive import archive_of
from bench.rows_fetch import TRUE, run_of
from bench.tree import generate
from isolate.cas.files import write_atomic

FILES = (10_000, 35_000, 120_000)
MEGABYTES = (100, 500, 2_500)
TINY = 10
LARGER_FILES = 2_000  # of the trees that grow in bytes
STEPS = ("archive", "archive again", "fetch and map")


@dataclass(frozen=True, slots=True)
class Point:
    """What one step cost on one tree."""

    step: str
    files: int
    size_bytes: int
    cpu_s: float
    wall_s: float


@click.command(context_settings=SETTINGS)
@click.option(
    "--files", default=",".join(map(str, FILES)), show_default=True, help="Sizes of the trees of small files."
)
@click.option(
    "--megabytes",
    default=",".join(map(str, MEGABYTES)),
    show_default=True,
    help=f"Sizes of the trees of {LARGER_FILES:,} files.",
)
@click.option("--runs", default=1, show_default=True, help="Of each step; medians count.")
@click.option("--json", "json_file", type=OutputFile(), help="Write all figures there.")
@click.option("--svg", "svg_file", type=OutputFile(), help="Draw them there.")
@click.option("--scratch", type=click.Path(file_okay=False, path_type=Path), help="Work here [default: a new folder].")
def main(
    files: str, megabytes: str, runs: int, json_file: Path | None, svg_file: Path | None, scratch: Path | None
) -> None:  # fmt: skip
    """Measure how cost grows."""
    with working("bench-growth-", scratch) as place:
        host = machine(place)
        start = {point.step: point.cpu_s for point in measured(place, TINY, None, runs)}
        by_files = [point for number in numbers(files) for point in measured(place, number, None, runs)]
        by_bytes = [point for size in numbers(megabytes)
                    for point in measured(place, LARGER_FILES, size * 10**6 // LARGER_FILES, runs)]  # fmt: skip
    for name, points in (("files", by_files), ("bytes", by_bytes)):
        for step in STEPS:
            click.echo(f"{step:14} grows with {name}: {power_text(exponent(points, step, name, start))}")
    if json_file:
        content = {"machine": host, "load": os.getloadavg()[0],
                   "files": [asdict(point) for point in by_files], "bytes": [asdict(point) for point in by_bytes],
                   "start": start,
                   "exponents": {name: {step: exponent(points, step, name, start) for step in STEPS}
                                 for name, points in (("files", by_files), ("bytes", by_bytes))}}  # fmt: skip
        write_atomic(json_file, json.dumps(content, indent=1).encode())
    if svg_file:
        write_atomic(svg_file, svg([panel(by_files, "files", start), panel(by_bytes, "bytes", start)]).encode())


def numbers(text: str) -> list[int]:
    return [int(word) for word in text.split(",")]


def measured(scratch: Path, files: int, mean_bytes: int | None, runs: int) -> Iterator[Point]:
    """Yield what each step costs on one tree, and print it."""
    with contextlib.ExitStack() as stack:
        place = Place(scratch / "work", scratch / "tree", stack, Size())
        stack.callback(removed, place.dropped)
        stack.callback(removed, place.scratch)
        stack.callback(removed, place.tree)
        generate(place.tree, files, mean_bytes=mean_bytes)
        size_bytes = sum(path.stat().st_size for path in place.tree.rglob("*.txt"))
        samples: dict[str, list[Sample]] = {step: [] for step in STEPS}
        for _ in range(runs):
            for step, sample in zip(STEPS, once(place), strict=True):
                samples[step].append(sample)
    for step, found in samples.items():
        cpu_s = statistics.median(one.cpu_s + one.server_cpu_s for one in found)
        point = Point(step, files, size_bytes, cpu_s, statistics.median(one.wall_s for one in found))
        click.echo(
            f"{files:9,} files {size_bytes / 1e6:8,.0f} MB  {step:14} CPU {cpu_s:8.2f} s  wall {point.wall_s:8.2f} s"
        )
        yield point


def once(place: Place) -> Iterator[Sample]:
    """Yield one run of each step, on a server of its own."""
    server, end = place.start()
    caches, blobs, root = place.fresh("caches"), place.fresh("blobs"), place.fresh("root")
    try:
        first = step_of(archive_of(place.tree), place, server, caches)
        yield first
        yield step_of(archive_of(place.tree), place, server, caches)
        digest = first.stdout.split(maxsplit=1)[0]
        yield step_of([*run_of(digest, blobs, root), "--leak-temp-dir", *TRUE], place, server, caches)
    finally:
        end()
        place.drop(blobs)
        place.drop(root)


def step_of(argv: Sequence[str], place: Place, server: Server, caches: Path) -> Sample:
    place.counted.add("")  # no relay
    os.sync()
    return place.ours("", argv, server, caches)


def axis(points: Sequence[Point], step: str, name: str) -> tuple[list[float], list[float]]:
    """Return sizes and costs of one step."""
    chosen = [point for point in points if point.step == step]
    return [float(point.files if name == "files" else point.size_bytes) for point in chosen], [
        point.cpu_s for point in chosen
    ]


def exponent(points: Sequence[Point], step: str, name: str, start: Mapping[str, float]) -> float:
    """Return the slope of the best line through the logarithms of size and cost, start-up taken off."""
    xs, ys = axis(points, step, name)
    above = [(math.log(x), math.log(y - start[step])) for x, y in zip(xs, ys, strict=True) if y > start[step]]
    return statistics.linear_regression(*zip(*above, strict=True)).slope if len(above) > 1 else math.nan


def power_text(power: float) -> str:
    """Return an exponent in words; where the cost is that of starting up there is nothing to fit."""
    return f"power {power:.2f}" if power > 0 else "no growth"


def panel(points: Sequence[Point], name: str, start: Mapping[str, float]) -> Panel:
    """Return what is drawn of the points that grow with `name`."""
    series = []
    for step in STEPS:
        xs, ys = axis(points, step, name)
        series.append(
            Series(f"{step} ({power_text(exponent(points, step, name, start))})", tuple(zip(xs, ys, strict=True)))
        )
    return Panel(f"CPU seconds against {name}", name, tuple(series))


if __name__ == "__main__":
    sys.exit(run_program("bench.growth", main))
