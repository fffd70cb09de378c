"""One run of the benchmark: stores are filled once, rows come in order, and a run that was cut keeps what it has."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import pytest

from bench import session as session_module
from bench import stores as stores_module
from bench import subjects, write_bare
from bench.goals import Goal
from bench.measure import Contestant, Failed, Race, Result, Sample, Spent, alternate
from bench.place import Place, Size
from bench.progress import Progress
from bench.relay import Wire
from bench.rows import ROWS, On
from bench.session import SETTLE_S, Differs, Record, Session, Step, steps, without
from bench.stores import Stores
from bench.subjects import LARGE, Subject, large_file
from bench.table import Measured

TREES = [Subject("a", Path("a"), 3, 1), Subject("b", Path("b"), 4, 1)]


class Keeper:
    """Notes what is asked of a repository."""

    def __init__(self, name: str, log: list[str]) -> None:
        self.name, self.log = name, log
        log.append(f"init {name}")

    def backup(self, _tree: Path) -> Sample:
        self.log.append(f"backup {self.name}")
        if self.name == "bad":
            raise Failed("it cannot")
        return Sample(1.0)

    def remove(self) -> None:
        self.log.append(f"remove {self.name}")


@pytest.fixture
def log() -> list[str]:
    return []


@pytest.fixture
def stores(tmp_path: Path, log: list[str], monkeypatch: pytest.MonkeyPatch) -> Iterator[Stores]:
    def make(name: str) -> object:
        return lambda _place: Keeper(name, log)

    monkeypatch.setattr(stores_module, "KEEPERS", {name: make(name) for name in ("good", "bad", "absent")})
    monkeypatch.setattr(stores_module, "has", lambda name: name != "absent")
    with ExitStack() as stack:
        yield Stores(Place(tmp_path, tmp_path / "tree", stack, Size()))


def test_a_store_that_a_row_has_filled_serves_the_next(stores: Stores, log: list[str]) -> None:
    for _ in range(2):  # the turns of row 1
        stores.empty("good")
        stores.backup("good")
    assert [name for name, _ in stores.holders(["good", "absent"])] == ["good"]
    assert [name for name, _ in stores.holders(["good"])] == ["good"]
    stores.close()
    assert log == ["init good", "backup good", "remove good"] * 2


def test_a_store_that_nobody_has_filled_is_filled_and_one_that_cannot_be_is_left_out(
    stores: Stores, log: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert [name for name, _ in stores.holders(["bad", "good"])] == ["good"]
    assert log == ["init bad", "backup bad", "init good", "backup good"]
    assert capsys.readouterr().err == "bad is left out: it cannot\n"


def test_rows_that_change_a_tree_come_last_and_long_ones_see_one_tree() -> None:
    found = {str(step.subject): [row.number for row in step.rows] for step in steps(Path("s"), ROWS, TREES, Size())}
    assert found == {
        "a: 3 files, 0 MB": ["1", "2", "4", "5", "6", "7", "3", "4b"],
        "b: 4 files, 0 MB": ["1", "2", "4", "5", "6", "7", "3"],
        "a file of 537 MB": ["8", "8", "8"],
        "": ["9", "11", "12"],
    }


def measured(number: str, tree: str = "") -> Measured:
    row = next(row for row in ROWS if row.number == number)
    results = (
        Result("isolate", False, (Sample(2.0, 1.0, 5, figures={"work_s": 1.5}),), Wire(1, 2, 3)),
        Result("peer", True, (Sample(8.0),), is_first_run=True),
    )
    verdicts = (Goal(text="", limit=0.5).judge(results),)
    return Measured(number, row.title, tree, results, verdicts, {"running": 3.0}, 0.5)


def record(file: Path, cores: int = 2, runs: int = 3) -> Record:
    return Record(file, {"cores": cores, "tools": {"x": "1"}}, Size(runs=runs), [])


def test_a_run_that_was_cut_goes_on_with_what_it_has(tmp_path: Path) -> None:
    file = tmp_path / "table.json"
    before = record(file)
    rows = [measured("4", str(TREES[0])), measured("1", str(TREES[0])), measured("1", str(TREES[1]))]
    for row in (*rows, replace(measured("2", str(TREES[0])), results=())):  # the last one had failed
        before.add(row)
        assert len(json.loads(file.read_text())["rows"]) == len(before.rows)
    before.add(replace(rows[0], number="10", title="memory", tree="all rows above"))
    assert [row["row"] for row in json.loads(file.read_text())["rows"]] == ["1", "1", "2", "4", "10"]
    after = record(file)
    after.resume()
    assert (after.rows, after.sittings) == ([rows[1], rows[2], rows[0]], 2)
    left = without(after.rows, list(steps(tmp_path, [row for row in ROWS if row.on is On.TREES], TREES, Size())))
    assert [[row.number for row in step.rows] for step in left] == [
        ["2", "5", "6", "7", "3"], ["2", "4", "5", "6", "7", "3"]
    ]  # fmt: skip


def test_nothing_is_left_when_all_is_known() -> None:
    todo = list(steps(Path("s"), [row for row in ROWS if row.number == "7"], TREES[:1], Size()))
    assert without([measured("7", str(TREES[0]))], todo) == []


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"cores": 4}, "was measured with another machine: cores was 2, is 4"),
        ({"runs": 9}, "was measured with another size: runs was 3, is 9"),
    ],
)
def test_another_measurement_is_not_gone_on_with(tmp_path: Path, change: dict[str, int], message: str) -> None:
    record(tmp_path / "table.json").add(measured("1"))
    with pytest.raises(Differs) as caught:
        record(tmp_path / "table.json", **change).resume()
    assert message in str(caught.value)


def test_a_file_that_is_no_record_is_not_gone_on_with(tmp_path: Path) -> None:
    (tmp_path / "table.json").write_text("{")
    with pytest.raises(Differs, match="is no JSON"):
        record(tmp_path / "table.json").resume()


def test_the_rest_is_told_from_what_the_rows_before_have_taken() -> None:
    now = [0.0]
    progress = Progress([30.0, 100.0, 200.0], lambda: now[0])
    assert progress.rest_s(0) == 330  # nothing is known yet but what was expected
    now[0] = 90.0
    progress.row_done()
    assert progress.rest_s(0) == 300 * (90 + 30) / (30 + 30)
    assert progress.rest_s(0.5) == pytest.approx(250 * (90 + 30) / (80 + 30))
    assert progress.said(0) == "1:30, about 10 min left"
    progress.row_done()
    progress.row_done()
    assert progress.rest_s(0) == 0


def test_each_run_is_told_and_each_second_belongs_to_something() -> None:
    told: list[tuple[str, float]] = []
    spent = Spent(told=lambda who, _sample, share: told.append((who, share)))
    contestants = [Contestant(name, lambda: Sample(1.0)) for name in ("a", "b")]
    alternate(1, Race(contestants, before_turn=lambda _: None), spent)
    assert told == [("a, turn 0", 0.25), ("b, turn 0", 0.5), ("a, turn 1", 0.75), ("b, turn 1", 1.0)]
    assert set(spent.seconds) == {"preparing", "running", "tidying"}


def test_the_bare_write_writes_what_a_store_has_to_keep(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (subjects, write_bare):
        monkeypatch.setattr(module, "MIB", 4096)
    source = large_file(tmp_path, Size(large_bytes=8 * 4096)) / LARGE
    write_bare.main(str(source), str(tmp_path / "copy"))
    content = source.read_bytes()
    assert len(content) == 8 * 4096
    assert (tmp_path / "copy").read_bytes() == b"".join(content[at : at + 4096] for at in range(0, 8 * 4096, 8192))


def test_what_is_dropped_is_deleted_behind_its_row_and_the_next_one_waits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[str] = []
    waits: list[float] = []
    seen: list[int] = []

    def race(place: Place, _stores: Stores) -> Race:
        def once() -> Sample:
            seen.append(len(list(place.dropped.rglob("*"))))
            (target := place.scratch / "target").mkdir(parents=True)
            (target / "file").touch()
            return Sample(1.0)

        return Race([Contestant("isolate", once, tidy=lambda: place.drop(place.scratch / "target"))])

    monkeypatch.setattr(session_module, "MANY_NAMES", 6)
    row = replace(ROWS[0], make=race, goals=())
    session = Session(tmp_path, replace(Size(), runs=2), None, told.append, waits.append)
    found = list(session.measure([Step(TREES[0], [replace(row, number=number) for number in "123"])]))
    assert [len(one.results[0].samples) for one in found] == [2, 2, 2]
    assert seen == [0, 2, 4] * 3
    assert waits == [SETTLE_S] * 2
    assert sum("waiting" in line for line in told) == 2
    assert list(tmp_path.iterdir()) == []


def test_what_is_not_there_need_not_be_dropped(tmp_path: Path) -> None:
    with ExitStack() as stack:
        place = Place(tmp_path / "work", tmp_path, stack, Size())
        place.drop(tmp_path / "absent")
        assert not place.dropped.exists()
