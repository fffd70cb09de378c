"""The local cache after harm: processes that were killed, disks that are full, and what others did to its files."""

from __future__ import annotations

import errno
import os
import signal
import stat
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest

from isolate.cas.cache import CachePolicy, Evicted, LocalCache
from isolate.cas.cache_index import Rows
from isolate.errors import NoSpace
from isolate.monitor import TallyMonitor
from tests.clock import ManualClock
from tests.unit.caches import CONTENTS, NS, A, B, C, Opener, files_in, fill, leftovers

PINNING_PROCESS = """
import sys
from pathlib import Path
from isolate.cas.cache import CachePolicy, LocalCache
from isolate.cas.digest import Namespace
from isolate.clock import SystemClock
from isolate.monitor import NullMonitor
namespace = Namespace.parse("blake3-zstd")
cache = LocalCache.open(Path(sys.argv[1]), namespace, CachePolicy(), SystemClock(), NullMonitor(), boot_id="boot")
pin = cache.pin([bytes.fromhex(sys.argv[2])])
Path(cache.temporary()).write_bytes(b"half a file")
print("pinned", flush=True)
sys.stdin.read()
"""


def test_a_killed_process_holds_no_pin_and_leaves_nothing(opener: Opener) -> None:
    cache = opener(max_items=1)
    fill(cache, A, B)
    command = [sys.executable, "-c", PINNING_PROCESS, str(cache.root), A.digest.hex()]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"pinned\n"
        assert leftovers(cache) != []
        fill(cache, A)
        assert cache.trim() == Evicted(1, B.size)
        fill(cache, B)
        with cache.pin([B.digest]):
            assert not cache.trim()
            process.send_signal(signal.SIGKILL)
            process.wait()
            assert cache.trim() == Evicted(1, A.size)
    assert leftovers(cache) == []


def test_what_a_killed_process_had_pinned_is_hashed_before_it_is_used(opener: Opener, monitor: TallyMonitor) -> None:
    with opener() as cache:
        fill(cache, A, B)
        paths = [cache.path(blob, executable=executable) for blob, executable in ((A, True), (B, False))]
    command = [sys.executable, "-c", PINNING_PROCESS, str(cache.root), A.digest.hex()]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"pinned\n"
        for path in paths:
            before = path.stat()
            path.chmod(0o700)
            path.write_bytes(b"CONTENT 0")
            path.chmod(before.st_mode & 0o777)
            os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))  # a stat sees nothing
        process.kill()
    again = opener()
    assert again.absent([A], executable=True) == [A]
    assert again.path(A, executable=True).read_bytes() == CONTENTS[0]
    assert again.absent([B]) == []  # it was not pinned: nobody can have got at it through that process
    assert monitor.counters["damaged_cache_files"] == 1


def test_files_a_dead_process_placed_and_never_listed_are_swept(opener: Opener) -> None:
    with opener() as cache:
        fill(cache, A)
        orphan = cache.path(B)
        orphan.parent.mkdir(parents=True, exist_ok=True)
        orphan.write_bytes(CONTENTS[1])
        (cache.root / "sessions" / "dead").mkdir()
        (cache.root / "sessions" / "dead" / "lock").touch()
    again = opener()
    assert files_in(again) == {A.digest.hex()}
    assert again.absent([A]) == []


def test_files_of_an_earlier_boot_are_hashed_once_more(opener: Opener, monitor: TallyMonitor) -> None:
    with opener() as cache:
        fill(cache, A, B)
        path = cache.path(A)
        before = path.stat()
        path.chmod(0o600)
        path.write_bytes(b"CONTENT 0")
        path.chmod(0o444)
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
        assert cache.absent([A]) == []  # what a stat cannot see
    assert opener(boot_id="next boot").absent([A, B]) == [A]
    assert monitor.counters["damaged_cache_files"] == 1
    assert opener(boot_id="next boot").absent([B]) == []


@pytest.mark.parametrize("place", ["write", "pwrite"])
def test_a_full_disk_is_one_clear_error_and_leaves_nothing(
    opener: Opener, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    cache = opener()
    fill(cache, A)

    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    def add() -> None:
        if place == "write":
            fill(cache, B, C)
        else:
            cache.add_stream(B, [CONTENTS[1]])

    with monkeypatch.context() as patched:
        patched.setattr(os, place, full)
        with pytest.raises(NoSpace, match="No space left on the device of the cache"):
            add()
    assert leftovers(cache) == []
    assert cache.absent([A, B, C]) == [B, C]
    add()
    assert cache.absent([A, B]) == []


def test_an_index_that_cannot_be_written_leaves_no_file(opener: Opener, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = opener()

    def full(*_: object) -> None:
        raise NoSpace("No space left for the index")

    with monkeypatch.context() as patched:
        patched.setattr(Rows, "insert", full)
        with pytest.raises(NoSpace, match="for the index"):
            fill(cache, A, B)
    assert files_in(cache) == set()
    assert leftovers(cache) == []
    assert cache.absent([A, B]) == [A, B]


def test_recheck_repairs_permissions(opener: Opener) -> None:
    cache = opener()
    fill(cache, A)
    path = cache.path(A)
    path.chmod(0o777)
    path.touch()
    assert cache.recheck([(A, False)])
    assert stat.S_IMODE(path.stat().st_mode) & 0o333 == 0
    assert cache.absent([A]) == []


def test_of_many_files_that_were_overwritten_a_few_are_named(opener: Opener, monitor: TallyMonitor) -> None:
    cache = opener()
    blobs = [NS.blob(b"%d" % number) for number in range(9)]
    cache.add([(blob, b"%d" % number) for number, blob in enumerate(blobs)])
    for blob in blobs:
        path = cache.path(blob)
        path.chmod(0o600)
        path.write_bytes(b"-")
    assert not cache.recheck([(blob, False) for blob in blobs])
    assert monitor.counters["damaged_cache_files"] == 9
    assert len(monitor.problems) == 4


def test_everyone_who_had_it_pinned_learns_of_an_overwritten_file(opener: Opener) -> None:
    mine, other = opener(), opener()
    fill(mine, A, B)
    with (
        mine.pin([A.digest]) as early,
        other.pin([A.digest, B.digest]) as overlapping,
        other.pin([B.digest]) as unrelated,
    ):
        path = mine.path(A)
        path.chmod(0o600)
        path.write_bytes(b"poisoned!")
        assert not mine.recheck([(A, False)])
        with other.pin([A.digest]) as late:
            assert mine.poisoned_since(early) == [A.digest]
            assert other.poisoned_since(overlapping) == [A.digest]
            assert other.poisoned_since(unrelated) == []
            assert other.poisoned_since(late) == []
            early.restart()
            assert mine.poisoned_since(early) == []
    assert mine.absent([A, B]) == [A]


def test_a_touched_file_is_kept(opener: Opener, monitor: TallyMonitor) -> None:
    cache = opener()
    fill(cache, A)
    path = cache.path(A)
    os.utime(path, (1, 1))
    assert cache.absent([A]) == []
    assert monitor.problems == []
    assert cache.absent([A]) == []


def test_nothing_is_left_of_files_when_the_disk_is_full(opener: Opener, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = opener()
    write, calls = os.write, 0

    def full(descriptor: int, content: bytes) -> int:
        nonlocal calls
        calls += 1
        if calls == 2:
            raise OSError(errno.ENOSPC, "full")
        return write(descriptor, content)

    monkeypatch.setattr(os, "write", full)
    with pytest.raises(NoSpace):
        fill(cache, A, B)
    assert not [path for path in cache.files_dir.rglob("*") if path.is_file()]


@pytest.mark.parametrize(
    "place", ["files", "files/{name}", "files/{name}/{first}", "trees", "sessions", "index.sqlite"]
)
def test_link_in_the_place_of_something_of_ours_leads_nowhere(
    place: str, opener: Opener, tmp_path: Path, monitor: TallyMonitor
) -> None:
    with opener() as cache:
        fill(cache, A)
        algorithm = NS.algorithm.name
    victim = tmp_path / "victim"
    victim.mkdir()
    ours = cache.root / place.format(name=algorithm, first=A.digest.hex()[:2])
    if os.path.lexists(ours):
        os.rename(ours, tmp_path / "aside")
    ours.symlink_to(victim if place != "index.sqlite" else tmp_path / "aside")
    with opener() as cache:
        cache.absent([A])
        fill(cache, A, B)
        assert cache.absent([A, B]) == []
        assert cache.path(A).read_bytes() == CONTENTS[0]
        cache.trim()
    assert os.listdir(victim) == []
    assert not ours.is_symlink()
    assert not [name for name in os.listdir(cache.root) if name.startswith("foreign")]


@pytest.mark.parametrize("place", ["files", "files/{name}", "files/{name}/{first}", "trees", "sessions", "exposure"])
def test_file_or_directory_in_the_place_of_another_kind_goes(place: str, opener: Opener) -> None:
    with opener() as cache:
        algorithm = NS.algorithm.name
    ours = cache.root / place.format(name=algorithm, first=A.digest.hex()[:2])
    if ours.is_dir():
        ours.rmdir()
    ours.parent.mkdir(exist_ok=True, parents=True)
    if place == "exposure":
        (ours / "deep").mkdir(parents=True)
    else:
        ours.write_text("foreign")
    with opener() as cache:
        fill(cache, A)
        assert cache.path(A).read_bytes() == CONTENTS[0]
        cache.trim()
    assert not ours.is_file()


@pytest.mark.parametrize("listed", [True, False])
@pytest.mark.parametrize("kind", ["directory", "link"])
def test_something_in_the_place_of_a_file_is_replaced(listed: bool, kind: str, opener: Opener, tmp_path: Path) -> None:
    (tmp_path / "victim").mkdir()
    cache = opener()
    fill(cache, A)
    path = cache.path(A)
    if not listed:
        cache.drop(A.digest)
    path.unlink(missing_ok=True)
    if kind == "directory":
        (path / "deep").mkdir(parents=True)
        (path / "deep" / "out").symlink_to(tmp_path / "victim")
    else:
        path.symlink_to(tmp_path / "victim")
    assert cache.absent([A]) == [A]
    fill(cache, A)
    assert cache.path(A).read_bytes() == CONTENTS[0]
    assert os.listdir(path.parent) == [path.name]
    assert (tmp_path / "victim").is_dir()


def test_full_disk_is_no_damage(disk: Path, clock: ManualClock, monitor: TallyMonitor) -> None:
    def opened() -> LocalCache:
        return LocalCache.open(disk / "cache", NS, CachePolicy(), clock, monitor, boot_id="boot")

    with opened() as cache:
        fill(cache, A)
    index = os.stat(disk / "cache" / "index.sqlite").st_ino
    with open(disk / "fill", "wb", buffering=0) as file:
        for piece in (1 << 16, 1):
            with suppress(OSError):
                while file.write(bytes(piece)):
                    pass
    with pytest.raises(NoSpace, match="No space left for the index of the cache"):
        opened()
    os.unlink(disk / "fill")
    with opened() as cache:
        assert cache.absent([A, B]) == [B]
    assert os.stat(disk / "cache" / "index.sqlite").st_ino == index
    assert (monitor.problems, dict(monitor.counters)) == ([], {})
    assert not [name for name in os.listdir(disk / "cache") if name.startswith("probe-")]
