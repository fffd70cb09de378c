"""One run of the benchmark: every row on what it is measured on, and a file that always holds what was measured so far.

What one tree was stored in serves all its rows; rows that change the tree come last. Knows nothing of terminals: who
called is told of each row and each run.
"""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from bench.goals import Verdict
from bench.measure import Failed, Sample, Spent, alternate
from bench.place import Place, Size, removed
from bench.progress import Progress
from bench.rows import ROWS, On, Row
from bench.stores import Stores
from bench.subjects import Subject, large_file
from bench.table import Measured
from bench.watching import elsewhere_cpu_s
from isolate.cas.files import write_atomic

MANY_NAMES, SETTLE_S = 20_000, 61  # ext4 calls an inode recently deleted for a minute


@dataclass(frozen=True, slots=True)
class Step:
    """Rows that share what their subject is stored in, in the order in which they are measured."""

    subject: Subject
    rows: Sequence[Row]

    def expected_s(self, size: Size) -> Iterator[float]:
        return (row.expected_s(size, self.subject.files) for row in self.rows)


def steps(scratch: Path, rows: Sequence[Row], subjects: Sequence[Subject], size: Size) -> Iterator[Step]:
    """Yield what to do in which order."""
    for number, subject in enumerate(subjects):
        mine = [row for row in rows if row.on is On.TREES or (row.on is On.FIRST_TREE and not number)]
        yield Step(subject, sorted(mine, key=lambda row: row.changes_tree))
    file = Subject(f"a file of {size.large_bytes / 1e6:,.0f} MB", scratch / "large")
    yield Step(file, [row for row in rows if row.on is On.LARGE_FILE])
    yield Step(Subject("", scratch / "nothing"), [row for row in rows if row.on is On.OWN])


def without(known: Sequence[Measured], found: Sequence[Step]) -> list[Step]:
    """Leave out what is known already, and what has nothing left to do."""
    names = {(one.number, one.title, one.tree) for one in known}
    left = [replace(step, rows=[row for row in step.rows if (row.number, row.title, str(step.subject)) not in names])
            for step in found]  # fmt: skip
    return [step for step in left if step.rows]


class Session:
    """Measures steps in a scratch folder; `told` hears of every run, in words."""

    def __init__(
        self,
        scratch: Path,
        size: Size,
        data: Path | None,
        told: Callable[[str], object],
        sleep: Callable[[float], object] = time.sleep,
    ) -> None:
        self._scratch, self._size, self._data, self._told, self._sleep = scratch, size, data, told, sleep
        self._dropped = scratch / "dropped"  # see `Place.drop`
        self._deleted = 0  # files and directories, since the file system had time to forget them

    def measure(self, todo: Sequence[Step]) -> Iterator[Measured]:
        """Yield each row as soon as it is measured."""
        progress = Progress([one_s for step in todo for one_s in step.expected_s(self._size)], time.monotonic)
        for step in todo:
            with contextlib.ExitStack() as stack:
                if any(row.on is On.LARGE_FILE for row in step.rows):
                    stack.callback(removed, large_file(self._scratch, self._size))
                stack.callback(removed, self._dropped)
                stores = Stores(Place(self._scratch / "stores", step.subject.path, stack, self._size))
                stack.callback(removed, self._scratch / "stores")
                stack.callback(stores.close)
                for row in step.rows:
                    yield self._row(row, step.subject, stores, progress)
                    progress.row_done()
                    if row is not step.rows[-1]:
                        self._settle()

    def _row(self, row: Row, subject: Subject, stores: Stores, progress: Progress) -> Measured:
        """Measure one row; if one of our commands fails, that is its result."""

        def told(who: str, sample: Sample, share: float) -> None:
            self._told(f"[{progress.said(share)}] row {row.number}, {who}: {sample.wall_s:.2f} s")

        self._told(f"[{progress.said(0)}] row {row.number}, {row.title}: {subject}".rstrip(": "))
        spent, before_s = Spent(told=told), elsewhere_cpu_s()
        with contextlib.ExitStack() as stack:
            place = Place(self._scratch / "work", subject.path, stack, self._size, self._data)
            stack.callback(removed, place.scratch)
            try:
                with spent.on("setting up"):
                    race = row.make(place, stores)
                absent = tuple(race.absent)
                results = tuple(alternate(self._size.runs, race, spent))
                verdicts = tuple(goal.judge(results) for goal in row.goals)
            except Failed as error:
                absent, results, verdicts = (
                    (),
                    (),
                    (Verdict("to work", str(error).partition("\n")[0][:100], is_met=False),),
                )
            with spent.on("tidying"):
                stack.close()
                self._deleted += self._emptied()
        others_s = max(0.0, elsewhere_cpu_s() - before_s)
        return Measured(row.number, row.title, str(subject), results, verdicts, spent.seconds, others_s, absent)

    def _emptied(self) -> int:
        """Delete what was dropped, and return how many names that were."""
        names = sum(len(folders) + len(files) for _, folders, files in os.walk(self._dropped))
        removed(self._dropped)
        os.sync()
        return names

    def _settle(self) -> None:
        """Wait until the next row does not pay for what the last ones deleted: see `Place.drop`."""
        if self._deleted >= MANY_NAMES:
            self._told(f"{self._deleted:,} files and directories were deleted: waiting {SETTLE_S} s")
            self._sleep(SETTLE_S)
            self._deleted = 0


@dataclass
class Record:
    """What was measured, in the order of the table, and the file that holds it; a run that is cut keeps its rows."""

    file: Path | None
    machine: dict[str, Any]
    size: Size
    rows: list[Measured]
    sittings: int = 1

    def add(self, found: Measured) -> None:
        """Take in a row, and write the file anew."""
        self.rows.append(found)
        self.rows.sort(key=lambda one: (int(one.number.rstrip("b")), one.number))  # 4, 4b, 5, …, 10
        if self.file is None:
            return
        content = {"machine": self.machine, "size": asdict(self.size), "sittings": self.sittings,
                   "load": os.getloadavg()[0], "rows": [one.as_json() for one in self.rows]}  # fmt: skip
        write_atomic(self.file, json.dumps(content, indent=1).encode())

    def resume(self) -> None:
        """Take what a run before this one measured; raises Differs if that was not the same measurement."""
        if self.file is None or not self.file.exists():
            return
        if not self.file.is_file():
            raise Differs(f"{self.file} is no file that keeps anything")
        try:
            content = json.loads(self.file.read_text())
        except ValueError as error:
            raise Differs(f"{self.file} is no JSON: {error}") from error
        if not isinstance(content, dict):
            raise Differs(f"{self.file} is no table of bench --json")
        for name, now in (("machine", self.machine), ("size", asdict(self.size))):
            if (then := content.get(name)) != json.loads(json.dumps(now)):
                raise Differs(f"{self.file} was measured with another {name}: {_difference(then, now)}")
        try:
            found, sittings = [Measured.from_json(row) for row in content["rows"]], content["sittings"] + 1
        except (KeyError, TypeError, AttributeError) as error:
            raise Differs(f"{self.file} is no table of bench --json: {error!r}") from error
        # Memory sums up the others, and who failed may do better now.
        self.rows = [one for one in found if one.results and one.number in {row.number for row in ROWS}]
        self.sittings = sittings


class Differs(Exception):
    """What was measured before cannot be gone on with."""


def _difference(then: object, now: dict[str, Any]) -> str:
    if not isinstance(then, dict):
        return "it says none"
    return "; ".join(f"{key} was {then.get(key)}, is {now.get(key)}" for key in now if then.get(key) != now[key])
