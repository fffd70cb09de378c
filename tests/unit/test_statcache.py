"""isolate.statcache: what is remembered, what is not trusted, and what damage does."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from isolate import statcache
from isolate.cas.digest import BLAKE3, SHA1, Algorithm
from isolate.frames import KEPT_S
from isolate.monitor import TallyMonitor
from isolate.scan import Stamp
from isolate.statcache import FRAME_FILES, HELD_DEAD, SETTLED_NS, StatCache, settled_ns
from tests.clock import ManualClock

CLOCK = ManualClock(1_700_000_000.0)
OLD_NS = 1_600_000_000_000_000_000
STAMP: Stamp = (5, OLD_NS, OLD_NS, 12, 34)
DIGEST = bytes(range(32))


def opened(folder: Path, tree: str = "/tree", algorithm: Algorithm = BLAKE3, clock: ManualClock = CLOCK) -> StatCache:
    return StatCache(folder, tree, algorithm, clock, TallyMonitor())


def remember(folder: Path, paths: list[str], stamp: Stamp = STAMP) -> None:
    with opened(folder) as cache:
        cache.store([(path, stamp, DIGEST) for path in paths])


def test_what_was_stored_is_found_again(tmp_path: Path) -> None:
    remember(tmp_path, ["a", "b/c", "é\udcff"])
    with opened(tmp_path) as cache:
        assert [cache.find(path, STAMP) for path in ("a", "a2", "b/c", "é\udcff")] == [DIGEST, None, DIGEST, DIGEST]


@pytest.mark.parametrize("field", range(5))
def test_a_change_of_any_field_means_reading_again(tmp_path: Path, field: int) -> None:
    remember(tmp_path, ["a"])
    stamp = tuple(value + (index == field) for index, value in enumerate(STAMP))
    with opened(tmp_path) as cache:
        assert cache.find("a", stamp) is None  # type: ignore[arg-type]


def test_another_tree_or_algorithm_knows_nothing_of_it(tmp_path: Path) -> None:
    remember(tmp_path, ["a"])
    with opened(tmp_path, tree="/other") as other, opened(tmp_path, algorithm=SHA1) as sha1:
        assert (other.find("a", STAMP), sha1.find("a", STAMP)) == (None, None)


def test_a_time_that_is_too_large_is_not_remembered(tmp_path: Path) -> None:
    """Of a file from the year 2400, say: 64 bits of nanoseconds end in 2262."""
    late: Stamp = (5, 1 << 63, OLD_NS, 12, 34)
    remember(tmp_path, ["a", "b", "c"])
    for _ in range(2):
        with opened(tmp_path) as cache:
            assert [cache.find(path, stamp) for path, stamp in (("a", STAMP), ("b", late), ("c", STAMP))] == [
                DIGEST,
                None,
                DIGEST,
            ]
            cache.store([("b", late, DIGEST)])


def test_a_file_is_settled_two_seconds_after_its_change() -> None:
    assert settled_ns(1_000 + SETTLED_NS) == 1_000


def test_a_change_time_ahead_of_the_clock_is_never_trusted(tmp_path: Path) -> None:
    now_ns = int(CLOCK.now() * 1e9)
    for ctime_ns, expected in ((now_ns, None), (now_ns + 1, None), (now_ns - 1_000, DIGEST)):
        stamp = (5, OLD_NS, ctime_ns, 12, 34)
        remember(tmp_path, ["a"], stamp)
        with opened(tmp_path) as cache:
            assert cache.find("a", stamp) == expected


def test_many_frames_are_read_as_a_stream(tmp_path: Path) -> None:
    paths = [f"{number:06}" for number in range(3 * FRAME_FILES + 1)]
    remember(tmp_path, paths)
    with opened(tmp_path) as cache:
        wanted = ["000000", f"{FRAME_FILES - 1:06}", f"{FRAME_FILES:06}", paths[-1], "x"]
        assert [cache.find(path, STAMP) for path in wanted] == [DIGEST] * 4 + [None]


def test_an_unchanged_tree_writes_nothing(tmp_path: Path) -> None:
    remember(tmp_path, ["a", "b"])
    (file,) = tmp_path.iterdir()
    before = file.stat().st_ino
    with opened(tmp_path) as cache:
        for path in ("a", "b"):
            assert cache.find(path, STAMP)
    assert [entry.stat().st_ino for entry in tmp_path.iterdir()] == [before]


@pytest.mark.parametrize("left", [["a"], ["b"], []])
def test_files_that_are_gone_are_forgotten(tmp_path: Path, left: list[str]) -> None:
    remember(tmp_path, ["a", "b"])
    with opened(tmp_path) as cache:
        for path in left:
            assert cache.find(path, STAMP)
    with opened(tmp_path) as cache:
        assert [path for path in ("a", "b") if cache.find(path, STAMP)] == left


def test_a_run_that_failed_keeps_what_it_learnt_and_what_was_known(tmp_path: Path) -> None:
    remember(tmp_path, ["a", "c", "x"])

    def fail() -> None:
        with opened(tmp_path) as cache:
            cache.find("a", STAMP)
            cache.store([("b", STAMP, DIGEST)])
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    with opened(tmp_path) as cache:
        assert all(cache.find(path, STAMP) for path in ("a", "b", "c", "x"))


@pytest.mark.parametrize("gone", ["a", "d", "i"])
def test_what_is_kept_need_not_be_looked_for(tmp_path: Path, gone: str) -> None:
    remember(tmp_path, list("abcdefghi"))
    with opened(tmp_path) as cache:
        for path in "abc":
            assert path == gone or cache.find(path, STAMP)
        if gone != "d":
            assert cache.find("d", STAMP)
        cache.keep("e", "f")
        cache.keep("g", "g")
        for path in "hi":
            assert path == gone or cache.find(path, STAMP)
    with opened(tmp_path) as cache:
        assert "".join(path for path in "abcdefghi" if cache.find(path, STAMP)) == "abcdefghi".replace(gone, "")


def test_where_all_is_kept_nothing_is_read_or_written(tmp_path: Path) -> None:
    remember(tmp_path, ["a", "b"])
    (file,) = tmp_path.iterdir()
    damaged = bytes(len(file.read_bytes()))
    file.write_bytes(damaged)
    monitor = TallyMonitor()
    with StatCache(tmp_path, "/tree", BLAKE3, CLOCK, monitor) as cache:
        cache.keep("a", "b")
    assert (file.read_bytes(), monitor.problems) == (damaged, [])


def test_kept_frames_are_passed_one_by_one(tmp_path: Path) -> None:
    paths = [f"{number:06}" for number in range(4 * FRAME_FILES)]
    remember(tmp_path, paths)
    with opened(tmp_path) as cache:
        assert cache.find(paths[0], STAMP)
        cache.keep(paths[1], paths[3 * FRAME_FILES])
        assert cache.find(paths[-1], STAMP)
    with opened(tmp_path) as cache:
        left = [path for path in paths if cache.find(path, STAMP)]
    assert left == [*paths[: 3 * FRAME_FILES + 1], paths[-1]]


def test_of_files_that_are_gone_few_are_held(tmp_path: Path) -> None:
    paths = [f"{number:06}" for number in range(HELD_DEAD + 3 * FRAME_FILES)]
    remember(tmp_path, paths)
    with opened(tmp_path) as cache:
        for path in paths[::FRAME_FILES]:
            assert cache.find(path, STAMP)
            cache.passed(path)
            assert cache.held_dead <= HELD_DEAD + FRAME_FILES
    with opened(tmp_path) as cache:
        assert [path for path in paths if cache.find(path, STAMP)] == paths[::FRAME_FILES]


@pytest.mark.parametrize("damage", ["cut", "flip", "empty", "garbage", "long"])
def test_a_damaged_cache_is_reported_and_forgotten(tmp_path: Path, damage: str) -> None:
    remember(tmp_path, [f"{number:06}" for number in range(2 * FRAME_FILES)])
    (file,) = tmp_path.iterdir()
    content = bytearray(file.read_bytes())
    match damage:
        case "cut":
            del content[-10:]
        case "flip":
            content[-10] ^= 1
        case "empty":
            content.clear()
        case "garbage":
            content[:] = b"\x10\0\0\0nonsense nonsense nonsense"
        case "long":
            content += b"\xff" * 12
    file.write_bytes(content)
    monitor = TallyMonitor()
    with StatCache(tmp_path, "/tree", BLAKE3, CLOCK, monitor) as cache:
        found = [cache.find(path, STAMP) for path in ("000000", f"{FRAME_FILES:06}", "x")]
        cache.store([("000000", STAMP, DIGEST)])
    assert found[1] == (DIGEST if damage == "long" else None)
    assert len(monitor.problems) == 1
    again = TallyMonitor()
    with StatCache(tmp_path, "/tree", BLAKE3, CLOCK, again) as cache:
        assert cache.find("000000", STAMP) == DIGEST
    assert not again.problems


def test_without_a_place_to_write_it_only_reports(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    monitor = TallyMonitor()
    with StatCache(tmp_path / "file", "/tree", BLAKE3, CLOCK, monitor) as cache:
        assert cache.find("a", STAMP) is None
        cache.store([("a", STAMP, DIGEST)])
    assert monitor.problems[0].startswith("Digests of unchanged files are not remembered")


@pytest.mark.parametrize("kind", ["pipe", "link"])
def test_what_is_no_file_is_reported_and_replaced(tmp_path: Path, kind: str) -> None:
    remember(tmp_path, ["a"])
    (path,) = tmp_path.iterdir()
    path.unlink()
    if kind == "pipe":
        os.mkfifo(path)
    else:
        path.symlink_to("/dev/zero")
    monitor = TallyMonitor()
    with StatCache(tmp_path, "/tree", BLAKE3, CLOCK, monitor) as cache:
        assert cache.find("a", STAMP) is None
    assert len(monitor.problems) == 1
    assert path.is_file()
    assert not path.is_symlink()


def test_an_old_directory_in_its_place_is_no_reason_to_complain(tmp_path: Path) -> None:
    (tmp_path / "directory").mkdir()
    os.utime(tmp_path / "directory", (CLOCK.now() - KEPT_S - 1,) * 2)
    monitor = TallyMonitor()
    with StatCache(tmp_path, "/tree", BLAKE3, CLOCK, monitor) as cache:
        cache.store([("a", STAMP, DIGEST)])
    assert not monitor.problems


def test_caches_nobody_used_for_a_month_go(tmp_path: Path) -> None:
    stale, fresh = tmp_path / "stale", tmp_path / "fresh"
    for path, age_s in ((stale, KEPT_S + 1), (fresh, KEPT_S - 1)):
        path.touch()
        os.utime(path, (CLOCK.now() - age_s,) * 2)
    remember(tmp_path, ["a"])
    assert (stale.exists(), fresh.exists(), len(list(tmp_path.iterdir()))) == (False, True, 2)


@given(
    st.lists(
        st.dictionaries(st.text("ab/", min_size=1, max_size=3), st.integers(1, 3), max_size=25), min_size=2, max_size=4
    )
)
@settings(max_examples=40, deadline=None)
def test_what_is_remembered_is_what_was_seen_last(trees: list[Mapping[str, int]]) -> None:
    """Frames of three, so that what is new, changed and gone falls into, between and behind them."""

    def stamp(version: int) -> Stamp:
        return (version, *STAMP[1:])

    def digest(path: str, version: int) -> bytes:
        return f"{path} {version}".encode().ljust(32)

    with pytest.MonkeyPatch.context() as patched, tempfile.TemporaryDirectory() as folder:
        patched.setattr(statcache, "FRAME_FILES", 3)
        before: Mapping[str, int] = {}
        for tree in [*trees, trees[-1]]:
            with opened(Path(folder)) as cache:
                found = {path: cache.find(path, stamp(tree[path])) for path in sorted(tree)}
                new = [path for path, known in found.items() if known is None]
                cache.store([(path, stamp(tree[path]), digest(path, tree[path])) for path in new])
            assert all(known in {None, digest(path, tree[path])} for path, known in found.items())
            assert all(before.get(path) != tree[path] for path in new)
            before = tree
