"""Named caches: the layout of 2020, moving in and out, trimming, damage, hostile commands."""

from __future__ import annotations

import json
import os
import re
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from isolate.cas.lru import CachePolicy, Evicted
from isolate.errors import IndexCorrupt, InternalFailure, InvalidInput
from isolate.monitor import TallyMonitor
from run_isolated.installed import WHENCE, Installed, take_back
from run_isolated.moving import tree_size
from run_isolated.named_caches import NamedCaches
from run_isolated.named_state import Kept, Loan, dumps, dumps_loans, loads, loads_loans
from run_isolated.spec import NamedCache
from run_isolated.trimming import trim_caches
from tests.clock import ManualClock


@pytest.fixture
def caches(tmp_path: Path, clock: ManualClock, monitor: TallyMonitor) -> NamedCaches:
    return opened(tmp_path, clock, monitor)


def opened(tmp_path: Path, clock: ManualClock, monitor: TallyMonitor, **policy: int) -> NamedCaches:
    return NamedCaches(tmp_path / "root", CachePolicy(**policy), clock, monitor)


def fill(caches: NamedCaches, tmp_path: Path, name: str, content: str = "content") -> None:
    place = tmp_path / f"place-{name}"
    caches.install(name, place)
    (place / "file").write_text(content)
    caches.uninstall(name, place)


def listed(caches: NamedCaches) -> dict[str, Kept]:
    return loads((caches.root / "state.json").read_text())


def test_what_was_left_in_a_cache_is_there_the_next_time(caches: NamedCaches, tmp_path: Path) -> None:
    place = tmp_path / "place"
    assert caches.install("git_cache", place) == 0
    assert os.listdir(place) == []
    (place / "file").write_text("12345")
    caches.uninstall("git_cache", place)
    assert not place.exists()
    assert caches.install("git_cache", place) == 5
    assert (place / "file").read_text() == "12345"
    assert listed(caches) == {}


def test_layout_is_that_of_2020(caches: NamedCaches, tmp_path: Path, clock: ManualClock) -> None:
    fill(caches, tmp_path, "a")
    ((name, ((directory, size), used_s)),) = json.loads((caches.root / "state.json").read_text())["items"]
    assert (name, size, used_s) == ("a", 7, round(clock.now()))
    assert re.fullmatch("[a-zA-Z0-9]{2}", directory)
    assert os.readlink(caches.root / "named/a") == f"../{directory}"
    assert (caches.root / "named/a/file").read_text() == "content"


def test_state_is_written_as_in_2020() -> None:
    state = {"b": Kept("xy", 3, 100.0), "a": Kept("Z9", 0, 7.4)}
    text = '{"items":[["b",[["xy",3],100]],["a",[["Z9",0],7]]],"version":3}'
    assert dumps(state) == text
    assert list(loads(text)) == ["b", "a"]
    assert loads('{"items":[["a",["xy",1.5]]],"version":3}') == {"a": Kept("xy", 0, 1.5)}


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        '{"items":[],"version":2}',
        '{"items":[["a",["xy",1]],["a",["zz",1]]],"version":3}',
        '{"items":[["a",["xy",1]],["b",["xy",1]]],"version":3}',
        '{"items":[["a",["..",1]]],"version":3}',
        '{"items":[["a",["../x",1]]],"version":3}',
        '{"items":[["a",["named",1]]],"version":3}',
        '{"items":[["../a",["xy",1]]],"version":3}',
        '{"items":[["a",[["xy",-1],1]]],"version":3}',
        '{"items":[["a",[["xy",1],"x"]]],"version":3}',
        '{"items":[["a"]],"version":3}',
        "[" * 100_000,
    ],
)
def test_damaged_state_is_refused(text: str) -> None:
    with pytest.raises(IndexCorrupt):
        loads(text)


def test_damaged_list_means_to_start_anew(caches: NamedCaches, tmp_path: Path, monitor: TallyMonitor) -> None:
    fill(caches, tmp_path, "a")
    (caches.root / "state.json").write_text('{"items":[["a",["..",1]]],"version":3}')
    assert caches.touch(["a"]) == ["a"]
    assert "is damaged, they start anew" in monitor.problems[0]
    assert os.listdir(caches.root) == ["lock"]
    assert sorted(os.listdir(tmp_path)) == ["root"]


@pytest.mark.parametrize("name", ["", "A", "a-b", "../x", "a" * 4097, "a\n"])
def test_names_are_checked(caches: NamedCaches, tmp_path: Path, name: str) -> None:
    with pytest.raises(InvalidInput, match="cannot name a cache"):
        caches.install(name, tmp_path / "place")


def test_place_must_be_free(caches: NamedCaches, tmp_path: Path) -> None:
    (tmp_path / "place").symlink_to("nowhere")
    with pytest.raises(InternalFailure, match="exists already"):
        caches.install("a", tmp_path / "place")


def test_two_runs_at_once_and_the_later_one_stays(caches: NamedCaches, tmp_path: Path) -> None:
    fill(caches, tmp_path, "a", "old")
    caches.install("a", tmp_path / "first")
    caches.install("a", tmp_path / "second")
    assert os.listdir(tmp_path / "second") == []
    caches.uninstall("a", tmp_path / "first")
    (tmp_path / "second/file").write_text("second")
    caches.uninstall("a", tmp_path / "second")
    assert len(os.listdir(caches.root)) == 4  # state.json, lock, named, and one cache
    assert (caches.root / "named/a/file").read_text() == "second"


def test_link_in_the_place_of_a_cache_is_not_followed(caches: NamedCaches, tmp_path: Path) -> None:
    precious = tmp_path / "precious"
    precious.mkdir()
    caches.install("a", tmp_path / "place")
    (tmp_path / "place").rmdir()
    (tmp_path / "place").symlink_to(precious)
    with pytest.raises(InternalFailure, match="is lost: the command removed"):
        caches.uninstall("a", tmp_path / "place")
    assert precious.is_dir()


def test_rights_that_were_taken_away_come_back(caches: NamedCaches, tmp_path: Path) -> None:
    caches.install("a", tmp_path / "place")
    (tmp_path / "place").chmod(0)
    caches.uninstall("a", tmp_path / "place")
    assert caches.install("a", tmp_path / "place") == 0
    assert (tmp_path / "place").stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize("flag", ["+i", "+a"])
@pytest.mark.parametrize("protected", ["run/cache", "run"])
def test_cache_that_a_command_protected_is_not_lost(
    protected: str, flag: str, caches: NamedCaches, tmp_path: Path
) -> None:
    place = tmp_path / "run" / "cache"
    place.parent.mkdir()
    caches.install("a", place)
    (place / "file").write_text("content")
    if os.geteuid() or subprocess.run(["chattr", flag, tmp_path / protected], capture_output=True).returncode:
        pytest.skip("nobody may, or this file system has no such flags")
    try:
        caches.uninstall("a", place)
    finally:
        subprocess.run(["chattr", "-ia", tmp_path / "run"], check=True)
    caches.install("a", place)
    assert (place / "file").read_text() == "content"
    (place / "another").write_text("it can be written to")


def test_size_counts_files_and_follows_no_link(tmp_path: Path) -> None:
    (tmp_path / "d").mkdir()
    (tmp_path / "d/file").write_text("123")
    os.link(tmp_path / "d/file", tmp_path / "again")
    (tmp_path / "link").symlink_to("/")
    assert tree_size(tmp_path) == 6


@pytest.mark.parametrize(
    ("policy", "left"), [({"max_items": 2}, "bc"), ({"max_bytes": 7}, "c"), ({"max_age_s": 15}, "c")]
)
def test_limits(tmp_path: Path, clock: ManualClock, monitor: TallyMonitor, policy: dict[str, int], left: str) -> None:
    caches = opened(tmp_path, clock, monitor, **policy)
    for name in "abc":
        fill(caches, tmp_path, name)
        clock.advance(10)
    assert caches.trim().items == 3 - len(left)
    assert sorted(listed(caches)) == list(left)
    assert sorted(os.listdir(caches.root / "named")) == list(left)
    assert len(os.listdir(caches.root)) == 3 + len(left)


def test_touched_cache_is_the_newest(caches: NamedCaches, tmp_path: Path) -> None:
    fill(caches, tmp_path, "a")
    fill(caches, tmp_path, "b")
    assert caches.touch(["a", "x"]) == ["x"]
    assert list(listed(caches)) == ["b", "a"]


def test_cleanup_deletes_what_is_not_listed(caches: NamedCaches, tmp_path: Path) -> None:
    fill(caches, tmp_path, "a")
    fill(caches, tmp_path, "gone")
    (caches.root / "named/gone/file").unlink()
    (caches.root / listed(caches)["gone"].directory).rmdir()
    (caches.root / "stray").mkdir()
    (caches.root / "file").write_text("")
    (caches.root / "link").symlink_to(tmp_path)
    (caches.root / "named/wrong").symlink_to("..")
    caches.cleanup()
    directory = listed(caches)["a"].directory
    assert sorted(os.listdir(caches.root)) == sorted(["state.json", "lock", "named", directory])
    assert os.listdir(caches.root / "named") == ["a"]
    assert (caches.root / "named/a/file").exists()


def test_oldest_goes_first_across_caches(tmp_path: Path, clock: ManualClock, monitor: TallyMonitor) -> None:
    one = NamedCaches(tmp_path / "1", CachePolicy(), clock, monitor)
    two = NamedCaches(tmp_path / "2", CachePolicy(), clock, monitor)
    for caches, name in ((one, "a"), (two, "b"), (one, "c"), (two, "d")):
        fill(caches, tmp_path, name)
        clock.advance(1)
    short = [20, 13, 6, 0]
    assert trim_caches([one, two], lambda: short.pop(0)) == Evicted(3, 21)
    assert (list(listed(one)), list(listed(two))) == ([], ["d"])
    assert trim_caches([one, two], lambda: 1) == Evicted(1, 7)  # ends when nothing is left
    assert not trim_caches([], lambda: 1)


@pytest.mark.parametrize("step", [1, -1])
def test_run_gives_back_in_reverse_what_it_took(
    tmp_path: Path, clock: ManualClock, monitor: TallyMonitor, step: int
) -> None:
    run_dir = tmp_path / "ir"
    run_dir.mkdir()
    wanted = [NamedCache("outer", "x"), NamedCache("inner", "x/y/z")][::step]
    installed = Installed(tmp_path / "root", CachePolicy(), clock, monitor)
    for _ in range(2):
        installed.make_room(wanted, lambda: pytest.fail("there is room"))
        installed.install(wanted, run_dir)
        (run_dir / "x/y/z/file").write_text("inner")
        (run_dir / "x/file").write_text("outer")
        installed.uninstall()
        assert os.listdir(run_dir) == []
    assert monitor.problems == []
    assert (tmp_path / "root/named/inner/file").read_text() == "inner"
    assert (tmp_path / "root/named/outer/file").read_text() == "outer"


def test_link_above_a_cache_is_not_followed(tmp_path: Path, clock: ManualClock, monitor: TallyMonitor) -> None:
    run_dir, outside = tmp_path / "ir", tmp_path / "outside"
    (outside / "z").mkdir(parents=True)
    run_dir.mkdir()
    installed = Installed(tmp_path / "root", CachePolicy(), clock, monitor)
    installed.install([NamedCache("a", "y/z")], run_dir)
    (run_dir / "y").rename(run_dir / "moved")
    (run_dir / "y").symlink_to(outside)
    installed.uninstall()
    assert monitor.problems == ["The named cache 'a' is lost: the command replaced its directory"]
    assert (outside / "z").is_dir()


def test_cache_that_came_back_since_stays(tmp_path: Path, clock: ManualClock, monitor: TallyMonitor) -> None:
    caches = NamedCaches(tmp_path / "root", CachePolicy(), clock, monitor)
    (tmp_path / "dead/ir").mkdir(parents=True)
    Installed(tmp_path / "root", CachePolicy(), clock, monitor).install([NamedCache("a", "x")], tmp_path / "dead/ir")
    fill(caches, tmp_path, "a", "newer")
    assert caches.take_back(tmp_path / "dead") == []
    assert (tmp_path / "root/named/a/file").read_text() == "newer"
    assert not (tmp_path / "root/lent.json").exists()


def test_caches_in_each_other_come_back_and_those_of_live_runs_stay(
    tmp_path: Path, clock: ManualClock, monitor: TallyMonitor
) -> None:
    for run in ("dead", "alive"):
        (tmp_path / run / "ir").mkdir(parents=True)
        wanted = [NamedCache(f"{run}_outer", "x"), NamedCache(f"{run}_inner", "x/y")]
        Installed(tmp_path / "root", CachePolicy(), clock, monitor).install(wanted, tmp_path / run / "ir")
    take_back(tmp_path / "dead", clock, monitor)
    assert monitor.counters["named_caches_taken_back"] == 2
    assert sorted(os.listdir(tmp_path / "root/named")) == ["dead_inner", "dead_outer"]
    assert os.listdir(tmp_path / "root/named/dead_outer") == []
    left = loads_loans((tmp_path / "root/lent.json").read_text())
    assert [loan.name for loan in left] == ["alive_outer", "alive_inner"]
    assert (tmp_path / "alive/ir/x/y").is_dir()


@pytest.mark.parametrize("said", ["relative", "", "/absent", "/proc", "\0", "HERE"])
def test_what_a_command_says_about_whence_harms_nobody(
    tmp_path: Path, clock: ManualClock, monitor: TallyMonitor, said: str
) -> None:
    work, precious = tmp_path / "work", tmp_path / "precious"
    (work / "ir/x").mkdir(parents=True)
    precious.mkdir()
    (precious / "file").write_text("precious")
    (precious / "state.json").write_text("damaged")
    (precious / "lent.json").write_text(dumps_loans([Loan("a", str(work / "ir/x")), Loan("b", str(tmp_path))]))
    (work / WHENCE).write_text(said.replace("HERE", str(precious)))
    take_back(work, clock, monitor)
    assert sorted(os.listdir(precious)) == ["file", "lent.json", "state.json"]
    (precious / "state.json").unlink()
    (work / "ir/x").rmdir()
    (work / "ir/x").symlink_to(precious)
    take_back(work, clock, monitor)
    assert (precious / "file").read_text() == "precious"
    assert monitor.problems == []


@pytest.mark.parametrize("make", [os.mkdir, os.mkfifo, lambda path: os.symlink("/dev/zero", path)])
def test_what_is_no_file_says_nothing_about_whence(
    tmp_path: Path, clock: ManualClock, monitor: TallyMonitor, make: Callable[[Path], None]
) -> None:
    make(tmp_path / WHENCE)
    take_back(tmp_path, clock, monitor)
    assert (os.listdir(tmp_path), monitor.problems) == ([WHENCE], [])


@pytest.mark.parametrize("text", ["", "[]", '{"lent":[["A","/x"]]}', '{"lent":[["a","x"]]}', '{"lent":[["a"]]}'])
def test_damaged_list_of_what_is_lent(text: str, caches: NamedCaches, tmp_path: Path, monitor: TallyMonitor) -> None:
    with pytest.raises(IndexCorrupt):
        loads_loans(text)
    fill(caches, tmp_path, "a")
    (caches.root / "lent.json").write_text(text)
    assert caches.take_back(tmp_path) == []
    assert caches.install("a", tmp_path / "place") == 7
    assert "cannot be told" in monitor.problems[0]


def test_places_of_any_bytes_can_be_lent(tmp_path: Path) -> None:
    loans = [Loan("a", os.fsdecode(b"/\xff\n")), Loan("a", "/é")]
    assert loads_loans(dumps_loans(loans)) == loans


def test_cache_cannot_be_outside_of_the_run(tmp_path: Path, clock: ManualClock, monitor: TallyMonitor) -> None:
    run_dir = tmp_path / "ir"
    run_dir.mkdir()
    (run_dir / "link").symlink_to(tmp_path)
    installed = Installed(tmp_path / "root", CachePolicy(), clock, monitor)
    for path in ("link/x", "."):
        with pytest.raises(InternalFailure, match="would be outside"):
            installed.install([NamedCache("a", path)], run_dir)


def victim_in(tmp_path: Path) -> Path:
    victim = tmp_path / "victim"
    (victim / "d").mkdir(parents=True)
    (victim / "f").write_text("not ours")
    return victim


def test_link_in_the_place_of_the_folder_of_links_leads_nowhere(
    caches: NamedCaches, tmp_path: Path, monitor: TallyMonitor
) -> None:
    fill(caches, tmp_path, "one")
    victim, named = victim_in(tmp_path), caches.root / "named"
    (named / "one").unlink()
    named.rmdir()
    named.symlink_to(victim)
    caches.cleanup()
    assert sorted(os.listdir(victim)) == ["d", "f"]
    assert not os.path.lexists(named)
    named.symlink_to(victim)
    fill(caches, tmp_path, "two")
    assert sorted(os.listdir(victim)) == ["d", "f"]
    assert not named.is_symlink()
    assert (named / "two" / "file").read_text() == "content"
    assert monitor.problems == []


def test_what_is_in_the_folder_of_links_and_is_none_goes(caches: NamedCaches, tmp_path: Path) -> None:
    fill(caches, tmp_path, "one")
    victim, named = victim_in(tmp_path), caches.root / "named"
    (named / "folder" / "deep").mkdir(parents=True)
    (named / "folder" / "out").symlink_to(victim)
    (named / "file").touch()
    (named / "out").symlink_to(victim)
    caches.cleanup()
    assert os.listdir(named) == ["one"]
    assert sorted(os.listdir(victim)) == ["d", "f"]


@pytest.mark.parametrize("state", [None, "damaged"])
def test_what_a_link_in_the_place_of_all_leads_to_is_not_cleaned(
    state: str | None, caches: NamedCaches, tmp_path: Path
) -> None:
    victim = victim_in(tmp_path)
    if state is not None:
        (victim / "state.json").write_text(state)
    caches.root.symlink_to(victim)
    caches.trim()
    caches.cleanup()
    assert (victim / "f").read_text() == "not ours"
    assert (victim / "d").is_dir()


@pytest.mark.parametrize("name", ["state.json", "lent.json", "lock"])
def test_foreign_thing_in_the_place_of_a_file_of_ours_goes(name: str, caches: NamedCaches, tmp_path: Path) -> None:
    victim = victim_in(tmp_path)
    caches.root.mkdir()
    (caches.root / name).mkdir()
    fill(caches, tmp_path, "one")
    (caches.root / name).unlink(missing_ok=True)
    (caches.root / name).symlink_to(victim / "f")
    fill(caches, tmp_path, "two")
    assert "two" in listed(caches)
    assert (victim / "f").read_text() == "not ours"
