"""isolate.partcache: which parts of a manifest are given back, and what is not trusted."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from isolate.cas.digest import BLAKE3, SHA1, Algorithm, Blob
from isolate.entries import Kind
from isolate.monitor import TallyMonitor
from isolate.partcache import PartCache
from isolate.scan import Found
from tests.clock import ManualClock

CLOCK = ManualClock(1_700_000_000.0)
NOW_NS = 1_700_000_000_000_000_000
OLD_NS = 1_600_000_000_000_000_000


def file(path: str, ctime_ns: int = OLD_NS) -> Found:
    return Found(path, Kind.FILE, 0o100644, (5, OLD_NS, ctime_ns, 12, 34))


def blob(path: str) -> Blob:
    return Blob(BLAKE3.digest(path.encode("utf-8", "surrogateescape")), 5)


MANIFEST = Blob(BLAKE3.digest(b"manifest"), 700)
PART = [file("a"), Found("b", Kind.LINK, target="a"), Found("c\udcff", Kind.DIR), file("d")]
BLOBS = [blob("a"), None, None, blob("d")]
LATER = [file("x")]


def opened(
    folder: Path, tree: str = "/tree", algorithm: Algorithm = BLAKE3, monitor: TallyMonitor | None = None
) -> PartCache:
    return PartCache(folder, tree, algorithm, CLOCK, monitor or TallyMonitor())


def remember(cache: PartCache, entries: list[Found], *, settled: bool = True) -> None:
    cache.take(entries, [None if one.stamp is None else blob(one.path) for one in entries], settled=settled)
    cache.made(len(entries), MANIFEST)


def remembered(folder: Path) -> Path:
    with opened(folder) as cache:
        remember(cache, PART)
        remember(cache, LATER)
    (path,) = folder.iterdir()
    return path


def found(cache: PartCache, entries: list[Found]) -> list[Blob | None] | None:
    part = cache.at(entries[0].path)
    return None if part is None else cache.blobs(part, entries)


def test_a_part_is_given_back_for_what_it_was_made_of(tmp_path: Path) -> None:
    remembered(tmp_path)
    with opened(tmp_path) as cache:
        part = cache.at("a")
        assert part is not None
        assert (part.manifest, part.entries) == (MANIFEST, 4)
        assert cache.blobs(part, PART) == BLOBS
        assert cache.at("b") is None
        assert found(cache, LATER) == [blob("x")]
        assert cache.at("y") is None


CHANGED = [
    [file("a"), *PART[1:3]],
    [*PART, file("e")],
    [PART[0], PART[2], PART[1], PART[3]],
    [file("a")._replace(path="a2"), *PART[1:]],
    [PART[0], PART[1]._replace(target="d"), *PART[2:]],
    [PART[0], Found("b", Kind.DIR), *PART[2:]],
    [file("a")._replace(st_mode=0o100755), *PART[1:]],
    [file("a")._replace(source="/elsewhere/a"), *PART[1:]],
    *(
        [file("a")._replace(stamp=tuple(value + (index == field) for index, value in enumerate(file("a").stamp or ()))),  # type: ignore[arg-type]
         *PART[1:]]
        for field in range(5)
    ),
]  # fmt: skip


@pytest.mark.parametrize("entries", CHANGED)
def test_any_change_of_any_entry_makes_it_another_part(tmp_path: Path, entries: list[Found]) -> None:
    remembered(tmp_path)
    with opened(tmp_path) as cache:
        part = cache.at("a")
        assert part is not None
        assert cache.blobs(part, entries) is None


@pytest.mark.parametrize(("ctime_ns", "trusted"), [(NOW_NS - 1_000, True), (NOW_NS, False), (NOW_NS + 1, False)])
def test_a_change_time_ahead_of_the_clock_is_never_trusted(tmp_path: Path, ctime_ns: int, trusted: bool) -> None:
    entries = [file("a"), file("b", ctime_ns), file("c")]
    with opened(tmp_path) as cache:
        remember(cache, entries)
    with opened(tmp_path) as cache:
        assert (found(cache, entries) is not None) is trusted


def test_another_tree_or_algorithm_knows_nothing_of_it(tmp_path: Path) -> None:
    remembered(tmp_path)
    with opened(tmp_path, tree="/other") as other, opened(tmp_path, algorithm=SHA1) as sha1:
        assert (other.at("a"), sha1.at("a")) == (None, None)


def test_what_may_still_change_behind_its_stamp_is_not_remembered(tmp_path: Path) -> None:
    with opened(tmp_path) as cache:
        remember(cache, [file("a")])
        cache.take([file("b"), file("c")], [blob("b"), blob("c")], settled=False)
        cache.take([file("d"), file("e")], [blob("d"), blob("e")], settled=True)
        for _ in range(4):
            cache.made(1, MANIFEST)
    with opened(tmp_path) as cache:
        assert [found(cache, [file(path)]) is not None for path in "abcde"] == [True, False, False, True, True]


def test_parts_found_again_stay_beside_new_ones_and_others_go(tmp_path: Path) -> None:
    with opened(tmp_path) as cache:
        for path in "acehk":
            remember(cache, [file(path)])
    with opened(tmp_path) as cache:
        for path in "ac":
            part = cache.at(path)
            assert part is not None
            cache.again(part)
        remember(cache, [file("f")])
        part = cache.at("k")
        assert part is not None
        cache.again(part)
    with opened(tmp_path) as cache:
        assert [path for path in "acefhk" if found(cache, [file(path)])] == ["a", "c", "f", "k"]


def test_an_unchanged_tree_writes_nothing(tmp_path: Path) -> None:
    path = remembered(tmp_path)
    before = path.stat().st_ino
    with opened(tmp_path) as cache:
        for first in "ax":
            part = cache.at(first)
            assert part is not None
            cache.again(part)
    assert [entry.stat().st_ino for entry in tmp_path.iterdir()] == [before]
    assert path.stat().st_mtime == CLOCK.now()


def test_a_run_that_failed_leaves_what_was_known(tmp_path: Path) -> None:
    before = remembered(tmp_path).read_bytes()

    def fail() -> None:
        with opened(tmp_path) as cache:
            remember(cache, [file("n")])
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert [entry.read_bytes() for entry in tmp_path.iterdir()] == [before]


def test_entries_that_were_looked_at_become_a_part_whatever_their_number(tmp_path: Path) -> None:
    changed = [*PART[:3], file("d")._replace(st_mode=0o100755)]
    for entries in (changed, [*changed, file("e")]):
        remembered(tmp_path)
        with opened(tmp_path) as cache:
            assert found(cache, changed) is None
            remember(cache, entries)
        with opened(tmp_path) as cache:
            assert found(cache, entries) is not None


def test_what_is_not_trusted_is_replaced(tmp_path: Path) -> None:
    remembered(tmp_path)
    with PartCache(tmp_path, "/tree", BLAKE3, CLOCK, TallyMonitor(), trusted=False) as cache:
        assert cache.at("a") is None
        remember(cache, [file("n")])
    with opened(tmp_path) as cache:
        assert [path for path in "anx" if cache.at(path)] == ["n"]


@pytest.mark.parametrize("damage", ["cut", "flip", "first", "empty", "garbage", "long", "pipe"])
def test_a_damaged_memory_is_reported_and_replaced(tmp_path: Path, damage: str) -> None:
    path = remembered(tmp_path)
    content = bytearray(path.read_bytes())
    match damage:
        case "cut":
            del content[-10:]
        case "flip":
            content[-10] ^= 1
        case "first":
            content[20] ^= 1
        case "empty":
            content.clear()
        case "garbage":
            content[:] = b"\x10\0\0\0nonsense nonsense nonsense"
        case "long":
            content += b"\xff" * 12
    if damage == "pipe":
        path.unlink()
        os.mkfifo(path)
    else:
        path.write_bytes(content)
    monitor = TallyMonitor()
    with opened(tmp_path, monitor=monitor) as cache:
        expected = [part is not None for part in (cache.at("a"), cache.at("x"), cache.at("y"))]
    assert expected == {"cut": [True, False, False], "flip": [True, False, False], "long": [True, True, False]}.get(
        damage, [False, False, False]
    )
    assert len(monitor.problems) == 1
    again = TallyMonitor()
    with opened(tmp_path, monitor=again) as cache:
        remember(cache, PART)
    with opened(tmp_path, monitor=again) as cache:
        assert found(cache, PART) == BLOBS
    assert not again.problems


def test_without_a_place_to_write_it_only_reports(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    monitor = TallyMonitor()
    with opened(tmp_path / "file", monitor=monitor) as cache:
        assert cache.at("a") is None
        remember(cache, PART)
        remember(cache, LATER)
    (problem,) = monitor.problems
    assert problem.startswith("Parts of an unchanged tree are not remembered: ")
