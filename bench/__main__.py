"""`python -m bench`: ours beside what a user would pick instead, on the same tree, in the same run.

Alternating runs, the first of each discarded, medians. Absolute times belong to the machine; the ratio is what to read.
How it is measured is in bench/README.md.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import click

from bench.command import SETTINGS, OutputFile, made, run_program, working
from bench.machine import machine
from bench.measure import alternate
from bench.peers import versions
from bench.place import Place, Size, removed
from bench.rows import IDLE, ROWS, On
from bench.session import Differs, Record, Session, steps, without
from bench.stores import Stores
from bench.subjects import check_tree, prepared
from bench.table import Measured, memory, shown, silence, summary
from bench.tasks import measure_tasks
from isolate.terminal import EXIT_INTERRUPTED

FULL = Size(tree_files=100_000, large_bytes=4 << 30, index_blobs=10_000_000, egress_files=10_000)
QUICK = Size(runs=1, tree_files=1_000, generations=10, large_bytes=64 << 20, index_blobs=200_000, egress_files=300,
             tasks=500)  # fmt: skip
TASKS = "13"


@click.command(context_settings=SETTINGS)
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
@click.option(
    "--json",
    "json_file",
    type=OutputFile(),
    help="Write every sample; anew after each row.",
)
@click.option("--resume", is_flag=True, help="Measure only what the file of --json lacks; it was made here, alike.")
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
    resume: bool,
) -> int:  # fmt: skip
    """Measure hashing, archive, fetch, map, the server and tasks."""
    if quick and full:
        raise click.UsageError("--quick and --full are two sizes: choose one")
    size = QUICK if quick else FULL if full else Size()
    size = replace(size, runs=runs or size.runs)
    chosen = {row.number for row in ROWS} | {IDLE.number, TASKS} if rows is None else numbers(rows)
    if resume and json_file is None:
        raise click.UsageError("--resume goes on with a file: name it with --json")
    for tree in trees:
        check_tree(tree)
    began_s, record = time.monotonic(), Record(json_file, {}, size, [])
    try:
        with working("bench-", scratch) as folder, made(data):
            record.machine = machine(folder) | {"tools": versions()}
            known(record, resume=resume)
            for found in measure_all(folder, trees, data, chosen, record):
                record.add(found)
                for line in shown(found):
                    click.echo(line)
            if TASKS in chosen:
                click.echo(f"\n{TASKS}  tasks: {tasks(folder, size)}")
            removed(folder)
    except KeyboardInterrupt:
        click.echo(f"python -m bench: {interrupted(record)}", err=True)
        return EXIT_INTERRUPTED
    finish(record, time.monotonic() - began_s)
    return 0


def finish(record: Record, took_s: float) -> None:
    """Print what all rows say together."""
    click.echo("")
    for line in summary(record.rows):
        click.echo(line)
    click.echo(f"\n{silence([one.as_json() for one in record.rows], record.machine['cores'])}")
    click.echo(f"{took_s:.0f} s; load of the machine {os.getloadavg()[0]:.1f}")


def numbers(rows: str) -> set[str]:
    """Return the numbers of rows that somebody asked for; raises UsageError."""
    chosen = set(rows.split(","))
    if unknown := chosen - {*(row.number for row in ROWS), IDLE.number, TASKS}:
        raise click.UsageError(f"No row {', '.join(sorted(unknown))}")
    return chosen


def interrupted(record: Record) -> str:
    """Return what somebody who ended the run wants to know: what of it is kept."""
    if record.file is None:
        return "interrupted: nothing is kept. --json FILE keeps each row, and --resume then goes on with the others"
    if not record.rows:
        return f"interrupted before the first row was complete: nothing was written to {record.file}"
    return f"interrupted: rows kept in {record.file}: {len(record.rows)}. --resume goes on with the others"


def known(record: Record, *, resume: bool) -> None:
    """Print the machine and what is known so far, which is nothing unless the run goes on with another."""
    for name, value in record.machine.items():
        click.echo(f"{name}: {', '.join(map(' '.join, value.items())) if isinstance(value, dict) else value}")
    if resume:
        try:
            record.resume()
        except Differs as error:
            raise click.UsageError(f"{error}. Measure anew, without --resume") from error
        for found in record.rows:
            click.echo(f"known: row {found.number}, {found.title}: {found.tree}".rstrip(": "))


def measure_all(
    scratch: Path, trees: tuple[Path, ...], data: Path | None, chosen: set[str], record: Record
) -> Iterator[Measured]:
    """Yield each row as it is measured, but for those that are in the record already."""
    size = record.size
    wanted = [row for row in ROWS if row.number in chosen]
    is_about_trees = any(row.on in {On.TREES, On.FIRST_TREE} for row in wanted)
    subjects = list(prepared(scratch, trees, size)) if is_about_trees else []
    session = Session(scratch, size, data, lambda words: click.echo(words, err=True))
    yield from session.measure(without(record.rows, list(steps(scratch, wanted, subjects, size))))
    if IDLE.number in chosen:
        with contextlib.ExitStack() as stack:
            place = Place(scratch / "work", scratch, stack, size)
            (idle,) = alternate(1, IDLE.make(place, Stores(place)))
        yield Measured(IDLE.number, IDLE.title, "all rows above", (idle,), memory(record.rows, idle))


def tasks(scratch: Path, size: Size) -> str:
    """Measure tasks through the API of a server of their own; returns what is to be said."""
    with contextlib.ExitStack() as stack:
        return asyncio.run(
            measure_tasks(Place(scratch / "work", scratch, stack, size).server().url, size.tasks)
        ).summary()


if __name__ == "__main__":
    sys.exit(run_program("bench", main))
