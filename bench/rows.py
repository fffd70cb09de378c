"""The rows of the table: what each measures, on what, and what it is to reach. The figures of the goals are fixed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum

from bench import rows_archive, rows_fetch, rows_server, rows_single
from bench.goals import OURS, Goal
from bench.measure import Race
from bench.place import Place, Size
from bench.stores import Stores


class On(Enum):
    """What a row is measured on."""

    TREES = "each tree"
    FIRST_TREE = "the first tree: it takes long, and its ratio does not depend on the tree"
    LARGE_FILE = "one large file"
    OWN = "what it makes itself"


@dataclass(frozen=True, slots=True)
class Row:
    """One row. `expected_s` is what it takes on two quiet cores with three runs; it only says how long the rest is."""

    number: str
    title: str
    make: Callable[[Place, Stores], Race]
    goals: tuple[Goal, ...]
    expected_s: Callable[[Size, int], float]  # of the number of files
    on: On = On.TREES
    changes_tree: bool = False  # and is measured behind those that do not


def _alone(make: Callable[[Place], Race]) -> Callable[[Place, Stores], Race]:
    """Return what makes a row that needs no stores."""
    return lambda place, _stores: make(place)


def _per_file(fixed_s: float, file_s: float) -> Callable[[Size, int], float]:
    return lambda _size, files: fixed_s + file_s * files


def _per_gib(gib_s: float) -> Callable[[Size, int], float]:
    return lambda size, _files: 5 + gib_s * size.large_bytes / (1 << 30)


ROWS = (
    Row(
        "1",
        "archive cold",
        rows_archive.archive_cold,
        (Goal(text="≤ 0.30 x fastest peer", limit=0.30),),
        _per_file(10, 2.0e-3),
    ),
    Row(
        "2",
        "archive again, unchanged",
        rows_archive.archive_again,
        (Goal(text="≤ 0.20 x fastest peer", limit=0.20),),
        _per_file(10, 0.9e-3),
    ),
    Row(
        "3",
        "archive again, 1 % changed",
        rows_archive.archive_changed,
        (Goal(text="≤ 0.25 x fastest peer", limit=0.25),),
        _per_file(10, 0.9e-3),
        changes_tree=True,
    ),
    Row(
        "4",
        "fetch cold and map",
        rows_fetch.fetch_cold,
        (Goal(text="≤ 0.33 x fastest peer", limit=0.33),),
        _per_file(10, 3.9e-3),
    ),
    Row(
        "4b",
        "fetch of many generations",
        rows_fetch.fetch_generations,
        (Goal(text="≤ 1.5 x one generation", limit=1.5, of=rows_fetch.MANY, against=(rows_fetch.ONE,)),),
        lambda size, files: 5 + size.generations * (0.5 + 2e-5 * files) + 1.3e-3 * files,
        On.FIRST_TREE,
        changes_tree=True,
    ),
    Row(
        "5",
        "map, cache warm",
        rows_fetch.map_warm,
        (Goal(text="≤ 1.0 x faster of the two", limit=1.0),),
        _per_file(10, 0.9e-3),
    ),
    Row(
        "6",
        "map again after a task",
        rows_fetch.map_again,
        (
            Goal(text="≤ 0.5 x row 5", limit=0.5, against=(rows_fetch.NO_REUSE,)),
            Goal(text="overlay: ≤ 0.10 x row 5", limit=0.10, of=rows_fetch.OVERLAY, against=(rows_fetch.NO_REUSE,)),
        ),
        _per_file(10, 0.8e-3),
    ),
    Row(
        "7",
        "hash a tree",
        rows_single.hash_tree,
        (
            Goal(text="≤ 0.25 x xargs -P sha256sum", limit=0.25, against=(rows_single.SUMS,)),
            Goal(text="≤ 2.5 x C open-read-close", limit=2.5, against=(rows_single.READS,)),
        ),
        _per_file(5, 0.4e-3),
    ),
    Row(
        "8",
        "large file: archive",
        rows_single.large_archive,
        (Goal(text="≤ 0.5 x fastest peer", limit=0.5),),
        _per_gib(45),
        On.LARGE_FILE,
    ),
    Row(
        "8",
        "large file: fetch",
        rows_single.large_fetch,
        (Goal(text="≤ 0.5 x fastest peer", limit=0.5),),
        _per_gib(28),
        On.LARGE_FILE,
    ),
    Row(
        "8",
        "large file: hash",
        rows_single.large_hash,
        (Goal(text="≤ 1.25 x BLAKE3's time", limit=1.25, figure="work_s", against=(rows_single.LIBRARY,)),),
        _per_gib(4),
        On.LARGE_FILE,
    ),
    Row(
        "9",
        "ten files, all present",
        _alone(rows_single.small_tree),
        (
            Goal(text="archive ≤ 0.35 s", limit=0.35, against=None),
            Goal(text="--help ≤ 0.15 s", limit=0.15, of=rows_single.HELP, against=None),
        ),
        _per_file(3, 0),
        On.OWN,
    ),
    Row(
        "11",
        "start with a large index",
        _alone(rows_server.big_start),
        (
            Goal(text="start ≤ 1 s", limit=1.0, figure="start_s", against=None),
            Goal(text="missing of 100,000 ≤ 1 s", limit=1.0, figure="missing_s", against=None),
        ),
        lambda size, _files: 5 + 4e-6 * size.index_blobs,
        On.OWN,
    ),
    Row(
        "12",
        "ten clients fetch",
        _alone(rows_server.many_readers),
        (
            Goal(text="≥ 1 GB/s", limit=1.0, figure="gb_per_s", against=None, at_least=True, unit="GB/s"),
            Goal(text="server ≤ 0.5 CPU s per GB", limit=0.5, figure="server_cpu_s_per_gb", against=None, unit="s/GB"),
        ),
        lambda size, _files: 5 + 4e-3 * size.egress_files,
        On.OWN,
    ),
)
IDLE = Row("10", "memory", _alone(rows_server.idle_server), (), _per_file(3, 0), On.OWN)
assert {goal.of for row in ROWS for goal in row.goals} >= {OURS}
