"""The rows of the table: what each measures, on what, and what it is to reach. The figures of the goals are fixed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from bench import rows_archive, rows_fetch, rows_server, rows_single
from bench.goals import OURS, Goal
from bench.measure import Race
from bench.place import Place


@dataclass(frozen=True, slots=True)
class Row:
    """One row; those that are not `per_tree` make what they measure, and are measured once."""

    number: str
    title: str
    make: Callable[[Place], Race]
    goals: tuple[Goal, ...]
    per_tree: bool = True
    once: bool = False  # on the first tree only: it takes long, and its ratio does not depend on the tree


ROWS = (
    Row("1", "archive cold", rows_archive.archive_cold, (Goal(text="≤ 0.30 x fastest peer", limit=0.30),)),
    Row("2", "archive again, unchanged", rows_archive.archive_again, (Goal(text="≤ 0.20 x fastest peer", limit=0.20),)),
    Row(
        "3",
        "archive again, 1 % changed",
        rows_archive.archive_changed,
        (Goal(text="≤ 0.25 x fastest peer", limit=0.25),),
    ),
    Row("4", "fetch cold and map", rows_fetch.fetch_cold, (Goal(text="≤ 0.33 x fastest peer", limit=0.33),)),
    Row(
        "4b",
        "fetch of many generations",
        rows_fetch.fetch_generations,
        (Goal(text="≤ 1.5 x one generation", limit=1.5, of=rows_fetch.MANY, against=(rows_fetch.ONE,)),),
        once=True,
    ),
    Row("5", "map, cache warm", rows_fetch.map_warm, (Goal(text="≤ 1.0 x faster of the two", limit=1.0),)),
    Row(
        "6",
        "map again after a task",
        rows_fetch.map_again,
        (
            Goal(text="≤ 0.5 x row 5", limit=0.5, against=(rows_fetch.NO_REUSE,)),
            Goal(text="overlay: ≤ 0.10 x row 5", limit=0.10, of=rows_fetch.OVERLAY, against=(rows_fetch.NO_REUSE,)),
        ),
    ),
    Row(
        "7",
        "hash a tree",
        rows_single.hash_tree,
        (
            Goal(text="≤ 0.25 x xargs -P sha256sum", limit=0.25, against=(rows_single.SUMS,)),
            Goal(text="≤ 2.5 x C open-read-close", limit=2.5, against=(rows_single.READS,)),
        ),
    ),
    Row("8", "large file: archive", rows_single.large_archive, (Goal(text="≤ 0.5 x fastest peer", limit=0.5),), False),
    Row("8", "large file: fetch", rows_single.large_fetch, (Goal(text="≤ 0.5 x fastest peer", limit=0.5),), False),
    Row(
        "8",
        "large file: hash",
        rows_single.large_hash,
        (Goal(text="≤ 1.25 x BLAKE3's time", limit=1.25, figure="work_s", against=(rows_single.LIBRARY,)),),
        False,
    ),
    Row(
        "9",
        "ten files, all present",
        rows_single.small_tree,
        (
            Goal(text="archive ≤ 0.35 s", limit=0.35, against=None),
            Goal(text="--help ≤ 0.15 s", limit=0.15, of=rows_single.HELP, against=None),
        ),
        False,
    ),
    Row(
        "11",
        "start with a large index",
        rows_server.big_start,
        (
            Goal(text="start ≤ 1 s", limit=1.0, figure="start_s", against=None),
            Goal(text="missing of 100,000 ≤ 1 s", limit=1.0, figure="missing_s", against=None),
        ),
        False,
    ),
    Row(
        "12",
        "ten clients fetch",
        rows_server.many_readers,
        (
            Goal(text="≥ 1 GB/s", limit=1.0, figure="gb_per_s", against=None, at_least=True, unit="GB/s"),
            Goal(text="server ≤ 0.5 CPU s per GB", limit=0.5, figure="server_cpu_s_per_gb", against=None, unit="s/GB"),
        ),
        False,
    ),
)
IDLE = Row("10", "memory", rows_server.idle_server, (), False)
assert {goal.of for row in ROWS for goal in row.goals} >= {OURS}
