"""`python -m bench`: ours beside what a user would pick instead, on the same tree, in the same run.

Alternating runs, the first of each discarded, medians. Absolute times belong to the machine; the ratio is what to read.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import platform
import shutil
import tempfile
from pathlib import Path

import click

from bench.contestants import OURS, PEERS, ROWS, Place
from bench.measure import Row, alternate
from bench.tasks import measure_tasks
from bench.tree import generate

TREE_FILES, QUICK_FILES = 20_000, 2_000
TASKS, QUICK_TASKS = 3_000, 500
TASK_ROW = "13 tasks"


@click.command()
@click.option("--tree", type=click.Path(exists=True, file_okay=False, path_type=Path), help="Measure this tree.")
@click.option("--rows", help="Numbers of rows, such as 1,2,5 [default: all].")
@click.option("--quick", is_flag=True, help="A small tree, one run each.")
@click.option("--json", "json_file", type=click.Path(dir_okay=False, path_type=Path), help="Also write every sample.")
@click.option("--scratch", type=click.Path(file_okay=False, path_type=Path), help="Work here [default: a new folder].")
def main(tree: Path | None, rows: str | None, json_file: Path | None, scratch: Path | None, *, quick: bool) -> None:
    """Measure hashing, archive, fetch, map and tasks."""
    chosen = set(rows.split(",")) if rows else None
    runs = 1 if quick else 3
    results: dict[str, list[Row]] = {}
    with contextlib.ExitStack() as stack:
        folder = stack.enter_context(
            tempfile.TemporaryDirectory(prefix="bench-", dir=scratch, ignore_cleanup_errors=True)
        )
        work = Path(folder)
        if tree is None:
            tree = work / "tree"
            generate(tree, QUICK_FILES if quick else TREE_FILES)
        describe(tree)
        for name, row in ROWS.items():
            if chosen is None or name.split()[0] in chosen:
                with contextlib.ExitStack() as servers:
                    results[name] = alternate(runs, row(Place(work / name.replace(" ", "-"), tree, servers)))
                show(name, results[name])
        if chosen is None or TASK_ROW.split(maxsplit=1)[0] in chosen:
            with contextlib.ExitStack() as servers:
                url = Place(work / "tasks", tree, servers).server()
                figures = asyncio.run(measure_tasks(url, QUICK_TASKS if quick else TASKS))
            click.echo(f"{TASK_ROW:18} {figures.summary()}")
    if json_file:
        found = {name: [row.as_json() for row in listed] for name, listed in results.items()}
        json_file.write_text(json.dumps({"machine": machine(), "rows": found}, indent=2))


def describe(tree: Path) -> None:
    """Print what is measured, and which peers are absent."""
    files = [path for path in tree.rglob("*") if path.is_file() and not path.is_symlink()]
    size_bytes = sum(path.stat().st_size for path in files)
    absent = [peer for peer in PEERS if not shutil.which(peer)]
    click.echo(f"Tree: {len(files):,} files, {size_bytes / 1e6:,.0f} MB; {machine()['cores']} cores")
    if absent:
        click.echo(f"Absent: {', '.join(absent)} (not installed)")
    click.echo(f"{'row':18} {'who':26} {'wall s':>8} {'cpu s':>8} {'ours/peer':>10}")


def show(name: str, rows: list[Row]) -> None:
    """Print one row of the table, a line for each contestant."""
    ours = next(row for row in rows if row.name == OURS)
    for row in rows:
        ratio = "" if row is ours else f"{ours.wall_s / row.wall_s:10.2f}"
        click.echo(f"{name:18} {row.name:26} {row.wall_s:8.3f} {row.cpu_s:8.3f} {ratio:>10}")


def machine() -> dict[str, object]:
    """Return what figures depend on."""
    return {"cores": os.cpu_count(), "system": platform.platform(), "python": platform.python_version()}


if __name__ == "__main__":
    main()
