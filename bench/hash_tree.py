"""Read and hash every file of a tree as an archive does, without stat cache or server: `python -m bench.hash_tree DIR`.

Prints how many files and bytes, and the seconds from the first look at the tree to the last digest: those without the
start of Python, which on a small tree is most of it.
"""

from __future__ import annotations

import asyncio
import gc
import time
from collections.abc import Iterator

import click

from isolate.cas.digest import BLAKE3, DEFAULT_NAMESPACE, Namespace
from isolate.crew import JOB_BYTES, JOB_FILES
from isolate.denylist import denylist
from isolate.entry import COLLECTION_THRESHOLDS
from isolate.errors import IsolateError
from isolate.hands import Crew, Remote
from isolate.hashing import FileReader, Hashed
from isolate.pool import Pool, default_workers
from isolate.scan import ScanRules, Stamp, scan

NOWHERE = Remote("http://127.0.0.1:1", Namespace.parse(DEFAULT_NAMESPACE), "bench")  # hashing never asks it anything
JOBS_EACH = 4  # waiting for a worker


@click.command()
@click.argument("root", type=click.Path(exists=True, file_okay=False))
@click.option("--workers", default=-1, help="Processes; 0 hashes in this one. [default: as an archive]")
def main(root: str, workers: int) -> None:
    """Hash what is below ROOT."""
    gc.set_threshold(*COLLECTION_THRESHOLDS)  # as every command has them
    started_s = time.perf_counter()
    count = default_workers() if workers < 0 else workers
    files, size_bytes = asyncio.run(in_pool(root, count)) if count else here(root)
    click.echo(f"{files} {size_bytes} {time.perf_counter() - started_s:.4f}")


def jobs(root: str) -> Iterator[tuple[list[str], list[Stamp]]]:
    """Yield files in the portions that an archive gives to a worker."""
    paths: list[str] = []
    stamps: list[Stamp] = []
    size_bytes = 0
    for found in scan(root, ScanRules(is_denied=denylist((), defaults=False))):
        if found.stamp is None:
            continue
        paths.append(f"{root}/{found.path}")
        stamps.append(found.stamp)
        size_bytes += found.stamp[0]
        if len(paths) >= JOB_FILES or size_bytes >= JOB_BYTES:
            yield paths, stamps
            paths, stamps, size_bytes = [], [], 0
    yield paths, stamps


def here(root: str) -> tuple[int, int]:
    reader = FileReader(BLAKE3)
    return summed(one for job in jobs(root) for one in reader.hash(*job))


async def in_pool(root: str, workers: int) -> tuple[int, int]:
    results: list[Hashed | IsolateError] = []
    waiting = jobs(root)

    async def work(crew: Crew) -> None:
        for paths, stamps in waiting:
            results.extend((await crew.hash(paths, stamps)).files)

    async with Pool(NOWHERE, workers) as pool, asyncio.TaskGroup() as group:
        for _ in range(workers * JOBS_EACH):
            group.create_task(work(pool))
    return summed(iter(results))


def summed(results: Iterator[Hashed | IsolateError]) -> tuple[int, int]:
    hashed = [one.blob.size for one in results if not isinstance(one, IsolateError)]
    return len(hashed), sum(hashed)


if __name__ == "__main__":
    main()
