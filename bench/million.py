"""`python -m bench.million`: a million files of 4 KiB are archived, fetched and mapped, and memory stays in its limits.

Every file has a content of its own that follows from its number, so that what comes back is compared byte for byte. The
source is deleted before the fetch: at most two thirds of 10 GB are on the disk at a time, and two million inodes.
"""

from __future__ import annotations

import contextlib
import os
import random
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import click

from bench.command import SETTINGS, run_program, working
from bench.measure import Sample, run
from bench.place import Place, Server, Size, removed
from bench.rows_archive import archive_of
from bench.rows_fetch import TRUE, run_of
from bench.table import CLIENT_MB, MB, SERVER_MB

FILE_BYTES = 4096
PER_FOLDER = 500


@click.command(context_settings=SETTINGS)
@click.option("--files", default=1_000_000, show_default=True)
@click.option("--scratch", type=click.Path(file_okay=False, path_type=Path), help="Work here [default: a new folder].")
def main(files: int, scratch: Path | None) -> None:
    """Archive, fetch and map FILES files."""
    with working("bench-million-", scratch) as folder, contextlib.ExitStack() as stack:
        stack.callback(removed, folder)
        place = Place(folder / "work", folder / "tree", stack, Size())
        is_fine = measure(place, files)
    sys.exit(0 if is_fine else 1)


def measure(place: Place, files: int) -> bool:
    """Go through all steps and print each; returns whether everything held."""
    _timed("generate", partial(generate, place.tree, files))
    server, caches = place.server(), place.fresh("caches")
    results = []
    with contextlib.ExitStack() as stack:
        stack.callback(removed, place.tree)
        sample = _step("archive", archive_of(place.tree), place, server, caches)
        results += [sample, _step("archive again", archive_of(place.tree), place, server, caches)]
    root, again = (one.stdout.split(maxsplit=1)[0] for one in results)
    blobs, where = place.fresh("blobs"), place.fresh("root")
    argv = run_of(root, blobs, where)
    results.append(_step("fetch and map", [*argv, "--leak-temp-dir", *TRUE], place, server, caches))
    (mapped,) = where.rglob("d0000")
    wrong = _timed("compare", partial(differing, mapped.parent, files))
    _timed("remove", partial(removed, where))
    results.append(_step("map, cache warm", [*argv, *TRUE], place, server, caches))
    client_mb = max(one.memory_bytes for one in results) / MB
    server_mb = max(one.server_memory_bytes for one in results) / MB
    checks = (
        (f"the same hash twice: {root}", root == again),
        (f"{wrong:,} of {files:,} files came back wrong or not at all", not wrong),
        (f"client {client_mb:.0f} MB, at most {CLIENT_MB}", client_mb <= CLIENT_MB),
        (f"server {server_mb:.0f} MB, at most {SERVER_MB}", server_mb <= SERVER_MB),
    )
    for what, is_fine in checks:
        click.echo(f"{'pass' if is_fine else 'FAIL'}  {what}")
    return all(is_fine for _, is_fine in checks)


def path_of(number: int) -> str:
    return f"d{number // PER_FOLDER:04}/{number:07}"


def content_of(number: int) -> bytes:
    """Return 4 KiB that no other number gets; half of them shrink."""
    half = random.Random(number).randbytes(FILE_BYTES // 2)
    return half + (b"%d " % number * (FILE_BYTES // 2))[: FILE_BYTES // 2]


def generate(root: Path, files: int) -> None:
    for number in range(files):
        if number % PER_FOLDER == 0:
            os.makedirs(root / f"d{number // PER_FOLDER:04}")
        with open(f"{root}/{path_of(number)}", "wb", buffering=0) as file:
            file.write(content_of(number))


def differing(root: Path, files: int) -> int:
    """Return how many files are not what they were, those that should not be there included."""
    wrong = abs(sum(len(names) for _, _, names in os.walk(root)) - files)
    for number in range(files):
        try:
            with open(f"{root}/{path_of(number)}", "rb", buffering=0) as file:
                wrong += file.read(FILE_BYTES + 1) != content_of(number)
        except OSError:
            wrong += 1
    return wrong


def _step(name: str, argv: Sequence[str], place: Place, server: Server, caches: Path) -> Sample:
    sample = run(argv, place.env(caches, server.url), server=server.pid)
    click.echo(
        f"{name:16} {sample.wall_s:8.1f} s  CPU {sample.cpu_s:7.1f} s + {sample.server_cpu_s:6.1f} s of the server  "
        f"memory {sample.memory_bytes / MB:4.0f} MB + {sample.server_memory_bytes / MB:4.0f} MB"
    )
    return sample


def _timed(name: str, step: Callable[[], int | None]) -> int:
    started_s = time.perf_counter()
    result = step()
    click.echo(f"{name:16} {time.perf_counter() - started_s:8.1f} s")
    return result or 0


if __name__ == "__main__":
    sys.exit(run_program("bench.million", main))
