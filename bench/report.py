"""`python -m bench.report TABLE.json [TABLE.json...]`: writes doc/performance.md from what `bench --json` measured.

Everything in the document comes from the files: the machine, the tables, and, from `bench.growth --json`, the growth.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NotRequired, TypedDict, TypeVar

import click
import msgspec

from bench.command import SETTINGS, run_program
from bench.growth import power_text
from bench.table import HEADINGS, silence, took
from isolate.cas.files import write_atomic

DOCUMENT = Path(__file__).parent.parent / "doc" / "performance.md"
PICTURE = "growth.svg"
METHOD = """Measured by the committed benchmark ([method and how to read it](../bench/README.md)). **Read the ratios**:
seconds belong to the machine. A target that was missed is said to be missed."""
COLUMNS = """Medians; memory is the highest of all runs. CPU seconds are those of all processes of a command; those of
our server stand beside it. Bytes and requests as the client sees them."""


Shape = TypeVar("Shape")


class VerdictShape(TypedDict):
    """How a goal ended."""

    text: str
    measured: str
    is_met: bool | None


class RowShape(TypedDict):
    """What the document says of a row."""

    row: str
    title: str
    on: str
    verdicts: list[VerdictShape]
    cells: list[list[str]]
    figures: dict[str, dict[str, float]]
    seconds: NotRequired[dict[str, float]]
    elsewhere_cpu_s: NotRequired[float]


class TableShape(TypedDict):
    """What `bench --json` writes, as far as the document goes."""

    machine: dict[str, Any]
    load: float
    sittings: int
    rows: list[RowShape]


class PointShape(TypedDict):
    """What one step cost on one tree."""

    step: str
    files: int
    size_bytes: int
    cpu_s: float
    wall_s: float


class GrowthShape(TypedDict):
    """What `bench.growth --json` writes, as far as the document goes."""

    machine: dict[str, Any]
    load: float
    files: list[PointShape]
    bytes: list[PointShape]
    exponents: dict[str, dict[str, float]]


@click.command(context_settings=SETTINGS)
@click.argument("tables", nargs=-1, type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--growth", type=click.Path(exists=True, dir_okay=False, path_type=Path), help="Of bench.growth --json.")
@click.option("--note", default="", help="Circumstances, for the head of the document.")
@click.option("--output", type=click.Path(dir_okay=False, path_type=Path), default=DOCUMENT)
def main(tables: tuple[Path, ...], growth: Path | None, note: str, output: Path) -> None:
    """Write the document on performance."""
    if not tables and growth is None:
        raise click.UsageError("Name what bench --json has written, or --growth")
    lines = [*document([read(table, TableShape, "table of bench --json") for table in tables], note)]
    if growth:
        lines += growing(read(growth, GrowthShape, "growth of bench.growth --json"))
    write_atomic(output, ("\n".join(lines).rstrip() + "\n").encode())


def read(file: Path, shape: type[Shape], what: str) -> Shape:
    """Return what another program has written; raises UsageError if it is something else."""
    try:
        return msgspec.convert(json.loads(file.read_text()), shape)  # not msgspec's JSON, which knows no NaN
    except ValueError as error:  # no UTF-8, no JSON, or another shape
        raise click.UsageError(f"{file} is no {what}: {error}") from error


def document(found: Sequence[TableShape], note: str) -> Iterator[str]:
    """Yield the document, without the growth."""
    yield "# Performance"
    yield ""
    yield METHOD
    if note:
        yield f"\n*{note}*"
    for table in found:
        yield "\n## Targets\n"
        yield from markdown(("Row", "What", "On", "Target", "Measured", ""), targets(table["rows"]))
        yield "\n## Machine\n"
        yield from machine_lines(table)
        yield "\n## All contestants\n"
        yield COLUMNS
        for row in table["rows"]:
            yield f"\n### {row['row']} {row['title']}{': ' + place(row['on']) if row['on'] else ''}\n"
            yield from markdown(HEADINGS, row["cells"])
            if seconds := row.get("seconds"):
                yield f"\n{took(seconds, row.get('elsewhere_cpu_s', 0.0))}"
            for name, figures in row["figures"].items():
                yield f"\n{name}: " + ", ".join(f"{key} {value:.4g}" for key, value in figures.items())


def targets(rows: Sequence[RowShape]) -> Iterator[list[str]]:
    words = {True: "met", False: "**missed**", None: "nobody to compare with"}
    for row in rows:
        for verdict in row["verdicts"]:
            on = place(row["on"]).partition(":")[0]
            yield [row["row"], row["title"], on, verdict["text"], verdict["measured"], words[verdict["is_met"]]]


def place(name: str) -> str:
    """Return the name of a tree without where it lay."""
    return name.rpartition("/")[2]


def machine_lines(table: TableShape) -> Iterator[str]:
    for name, value in table["machine"].items():
        text = ", ".join(f"{tool} ({version})" for tool, version in value.items()) if isinstance(value, dict) else value
        yield f"- {name}: {text}"
    yield f"- load of the machine at the end: {table['load']:.1f}"
    cores = table["machine"].get("cores")
    if cores and (words := silence(table["rows"], cores)):
        yield f"- measured in {'one run' if table['sittings'] == 1 else str(table['sittings']) + ' runs'}; {words}"


def growing(table: GrowthShape) -> Iterator[str]:
    """Yield what is said of the growth."""
    yield "\n## Growth\n"
    host = table["machine"]
    yield f"On {host.get('cores', '?')} cores, load {table['load']:.1f}; {host.get('product', '?')}.\n"
    yield f"![CPU seconds of client and server against the number of files, and of bytes]({PICTURE})\n"
    for name, exponents in table["exponents"].items():
        powers = ", ".join(f"{step}: {power_text(power)}" for step, power in exponents.items())
        yield f"Growth with the number of {name}, start-up taken off (power 1 is linear): {powers}."
    yield ""
    points = [*table["files"], *table["bytes"]]
    yield from markdown(
        ("step", "files", "MB", "CPU s", "wall s"),
        [[one["step"], f"{one['files']:,}", f"{one['size_bytes'] / 1e6:,.0f}", f"{one['cpu_s']:.2f}",
          f"{one['wall_s']:.2f}"] for one in points],
    )  # fmt: skip


def markdown(headings: Sequence[str], rows: Iterator[list[str]] | Sequence[Sequence[str]]) -> Iterator[str]:
    """Yield a table."""
    yield f"| {' | '.join(headings)} |"
    yield f"|{' --- |' * len(headings)}"
    for row in rows:
        yield f"| {' | '.join(cell.replace('|', '/') for cell in row)} |"


if __name__ == "__main__":
    sys.exit(run_program("bench.report", main))
