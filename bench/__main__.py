"""`python -m bench`: ours beside what a user would pick instead, on the same tree, in the same run.

Alternating runs, the first of each discarded, medians. Absolute times belong to the machine; the ratio is what to read.
How it is measured is in bench/README.md.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import sysconfig
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import click

from bench.goals import Verdict
from bench.machine import machine
from bench.measure import Failed, alternate
from bench.peers import versions
from bench.place import Place, Size, removed
from bench.rows import IDLE, ROWS, Row
from bench.table import Measured, memory, shown, summary
from bench.tasks import measure_tasks
from bench.tree import copy_of, generate

FULL = Size(tree_files=100_000, large_bytes=4 << 30, index_blobs=10_000_000, egress_files=10_000)
QUICK = Size(runs=1, tree_files=1_000, generations=10, large_bytes=64 << 20, index_blobs=200_000, egress_files=300,
             tasks=500)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Subject:
    """A tree that is measured: a copy on the disk of the scratch folder, so that all read and write the same disk."""

    name: str
    path: Path
    files: int
    size_bytes: int

    def __str__(self) -> str:
        return f"{self.name}: {self.files:,} files, {self.size_bytes / 1e6:,.0f} MB"


@click.command()
@click.option(
    "--tree",
    "trees",
    multiple=True,
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Measure this tree; repeatable. [default: a generated one, and this Python's library]",
)
@click.option("--rows", help="Numbers of rows, such as 1,2,5 [default: all].")
@click.option("--runs", type=click.IntRange(1), help="That count, after the one that does not [default: 3].")
@click.option("--quick", is_flag=True, help="Small sizes, one run each: whether it works, not how fast.")
@click.option("--full", is_flag=True, help="Sizes as the targets say: 4 GiB file, 10 million blobs. Takes long.")
@click.option("--json", "json_file", type=click.Path(dir_okay=False, path_type=Path), help="Also write every sample.")
@click.option("--scratch", type=click.Path(file_okay=False, path_type=Path), help="Work here [default: a new folder].")
@click.option("--data", type=click.Path(file_okay=False, path_type=Path), help="Keep here what takes long to make.")
def main(
    trees: tuple[Path, ...],
    rows: str | None,
    runs: int | None,
    json_file: Path | None,
    scratch: Path | None,
    data: Path | None,
    *,
    quick: bool,
    full: bool,
) -> None:  # fmt: skip
    """Measure hashing, archive, fetch, map, the server and tasks."""
    size = QUICK if quick else FULL if full else Size()
    size = replace(size, runs=runs or size.runs)
    chosen = None if rows is None else set(rows.split(","))
    if chosen is not None and (unknown := chosen - {row.number for row in ROWS} - {IDLE.number, "13"}):
        raise click.UsageError(f"No row {', '.join(sorted(unknown))}")
    started_s = time.time()
    for name, version in (host := machine() | {"tools": versions()}).items():
        click.echo(f"{name}: {', '.join(map(' '.join, version.items())) if isinstance(version, dict) else version}")
    for kept in filter(None, (scratch, data)):
        kept.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="bench-", dir=scratch, ignore_cleanup_errors=True) as folder:
        found = list(measure_all(Path(folder), trees, size, data, chosen))
        removed(Path(folder))
    click.echo("")
    for line in summary(found):
        click.echo(line)
    click.echo(f"\n{time.time() - started_s:.0f} s; load of the machine {os.getloadavg()[0]:.1f}")
    if json_file:
        content = {"machine": host, "load": os.getloadavg()[0], "rows": [one.as_json() for one in found]}
        json_file.write_text(json.dumps(content, indent=1))


def measure_all(
    scratch: Path, trees: tuple[Path, ...], size: Size, data: Path | None, chosen: set[str] | None
) -> Iterator[Measured]:
    """Yield each row as it is measured, and print it."""
    found: list[Measured] = []
    wanted = [row for row in ROWS if chosen is None or row.number in chosen]
    subjects = list(prepared(scratch, trees, size)) if any(row.per_tree for row in wanted) else []
    for row in wanted:
        for subject in subjects[: 1 if row.once else None] if row.per_tree else [Subject("", scratch, 0, 0)]:
            with contextlib.ExitStack() as stack:
                place = Place(scratch / "work", subject.path, stack, size, data)
                stack.callback(removed, place.scratch)
                found.append(measured(row, place, str(subject) if row.per_tree else ""))
            yield show(found[-1])
    if chosen is None or IDLE.number in chosen:
        with contextlib.ExitStack() as stack:
            (idle,) = alternate(1, IDLE.make(Place(scratch / "work", scratch, stack, size)))
        yield show(Measured(IDLE.number, IDLE.title, "all rows above", (idle,), memory(found, idle)))
    if chosen is None or "13" in chosen:
        with contextlib.ExitStack() as stack:
            url = Place(scratch / "work", scratch, stack, size).server().url
            click.echo(f"\n13  tasks: {asyncio.run(measure_tasks(url, size.tasks)).summary()}")


def prepared(scratch: Path, trees: tuple[Path, ...], size: Size) -> Iterator[Subject]:
    """Yield the trees to measure, each once and on the disk where the work is done."""
    if not trees:
        path = scratch / "generated"
        generate(path, size.tree_files)
        yield counted("generated", path)
    for number, tree in enumerate(trees or [Path(sysconfig.get_path("stdlib"))]):
        path = scratch / f"tree-{number}"
        copy_of(tree, path, leave_out=() if trees else ("site-packages",))
        yield counted(str(tree) if trees else "library of Python", path)


def counted(name: str, path: Path) -> Subject:
    files = [entry for entry in path.rglob("*") if entry.is_file() and not entry.is_symlink()]
    return Subject(name, path, len(files), sum(entry.stat().st_size for entry in files))


def measured(row: Row, place: Place, tree: str) -> Measured:
    """Measure one row; if one of our commands fails, that is its result."""
    try:
        results = alternate(place.size.runs, row.make(place))
        verdicts = tuple(goal.judge(results) for goal in row.goals)
    except Failed as error:
        results, verdicts = [], (Verdict("to work", str(error).partition("\n")[0][:100], is_met=False),)
    return Measured(row.number, row.title, tree, tuple(results), verdicts)


def show(found: Measured) -> Measured:
    for line in shown(found):
        click.echo(line)
    return found


if __name__ == "__main__":
    main()
