"""The local cache: verified files, limits, pins, several processes."""

from __future__ import annotations

import errno
import os
import signal
import stat
import subprocess
import sys
import tracemalloc
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import pytest

from isolate.cas.cache import TOUCH_S, CachePolicy, Evicted, LocalCache, Usage
from isolate.cas.cache_files import Staged
from isolate.cas.cache_index import Rows
from isolate.cas.digest import Blob, Namespace
from isolate.errors import BlobCorrupt, BlobsMissing, IsolateError, NoSpace
from isolate.monitor import TallyMonitor
from tests.clock import ManualClock
from tests.small_disk import disk as disk  # noqa: PLC0414 - the alias says that this is a fixture

NS = Namespace.parse("blake3-zstd")
CONTENTS = [b"content %d" % index for index in range(10)]
BLOBS = [NS.blob(content) for content in CONTENTS]
A, B, C, D = BLOBS[:4]

Opener = Callable[..., LocalCache]


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def monitor() -> TallyMonitor:
    return TallyMonitor()


@pytest.fixture
def opener(tmp_path: Path, clock: ManualClock, monitor: TallyMonitor) -> Iterator[Opener]:
    opened: list[LocalCache] = []

    def open_cache(namespace: Namespace = NS, boot_id: str = "boot", **policy: int) -> LocalCache:
        cache = LocalCache.open(tmp_path / "cache", namespace, CachePolicy(**policy), clock, monitor, boot_id=boot_id)
        opened.append(cache)
        return cache

    yield open_cache
    for cache in opened:
        if cache.is_open:
            cache.close()


def fill(cache: LocalCache, *blobs: Blob) -> None:
    cache.add([(blob, CONTENTS[BLOBS.index(blob)]) for blob in blobs])


def files_in(cache: LocalCache) -> set[str]:
    return {name for _, _, names in os.walk(cache.root / "files") for name in names}


def leftovers(cache: LocalCache) -> list[str]:
    return [name for _, _, names in os.walk(cache.root / "sessions") for name in names if name != "lock"]


def test_what_was_added_is_there(opener: Opener) -> None:
    cache = opener()
    assert cache.absent([A, B]) == [A, B]
    fill(cache, A)
    assert cache.absent([B, A, C]) == [B, C]
    assert cache.path(A).read_bytes() == CONTENTS[0]
    assert cache.usage() == Usage(1, A.size)
    assert leftovers(cache) == []


def test_it_is_there_for_the_next_one_too(opener: Opener) -> None:
    with opener() as cache:
        fill(cache, A, B)
    again = opener()
    assert again.absent([A, B, C]) == [C]
    assert again.usage().items == 2


def test_files_are_read_only_and_variants_are_two_inodes(opener: Opener) -> None:
    cache = opener()
    fill(cache, A)
    plain, executable = cache.path(A), cache.path(A, executable=True)
    assert stat.S_IMODE(plain.stat().st_mode) & 0o333 == 0
    assert stat.S_IMODE(executable.stat().st_mode) & 0o300 == 0o100
    assert plain.stat().st_ino != executable.stat().st_ino
    assert executable.read_bytes() == CONTENTS[0]
    assert cache.usage() == Usage(2, 2 * A.size)
    assert cache.path(A, executable=True).stat().st_ino == executable.stat().st_ino


def test_the_empty_blob_is_no_file(opener: Opener) -> None:
    cache = opener()
    cache.add([(NS.empty, b"")])
    assert cache.absent([NS.empty]) == []
    assert files_in(cache) == set()


@pytest.mark.parametrize("wrong", [b"other bytes", b"content 00", b""])
def test_wrong_bytes_are_never_kept(opener: Opener, wrong: bytes) -> None:
    cache = opener()
    with pytest.raises(BlobCorrupt):
        cache.add([(B, CONTENTS[1]), (A, wrong)])
    with pytest.raises(BlobCorrupt):
        cache.add_stream(A, [wrong])
    assert cache.absent([A, B]) == [A, B]
    assert files_in(cache) == set()
    assert leftovers(cache) == []


def test_two_algorithms_share_one_cache(opener: Opener) -> None:
    old = Namespace.parse("sha256-deflate")
    ours, theirs = opener(), opener(old)
    fill(ours, A)
    theirs.add([(old.blob(b"x"), b"x")])
    assert ours.usage() == theirs.usage() == Usage(2, A.size + 1)
    assert theirs.absent([Blob(A.digest, A.size)]) == [A]


def test_a_large_blob_in_pieces_and_in_any_order(opener: Opener) -> None:
    cache = opener()
    content = os.urandom(3 << 20)
    blob = NS.blob(content)
    with cache.writer(blob) as writer:
        for offset in (1 << 20, 0, 2 << 20):
            writer.write_at(offset, content[offset : offset + (1 << 20)])
        writer.commit()
    assert cache.path(blob).read_bytes() == content
    cache.drop(blob.digest)
    cache.add_stream(blob, [content[:100], content[100:]])
    assert cache.read(blob.digest, 4 << 20) == content
    assert leftovers(cache) == []


def test_a_writer_that_is_left_leaves_nothing(opener: Opener) -> None:
    cache = opener()
    with cache.writer(A) as writer:
        writer.write_at(0, CONTENTS[0])
    assert cache.absent([A]) == [A]
    assert leftovers(cache) == []
    with pytest.raises(IsolateError):
        writer.write_at(0, b"late")


def test_read_keeps_its_limit(opener: Opener) -> None:
    cache = opener()
    fill(cache, A)
    assert cache.read(A.digest, A.size) == CONTENTS[0]
    assert cache.read(A.digest, A.size - 1) is None
    assert cache.read(B.digest, 100) is None


def test_adding_twice_keeps_the_first_file(opener: Opener) -> None:
    cache = opener()
    fill(cache, A, A)
    inode = cache.path(A).stat().st_ino
    fill(cache, A)
    assert cache.path(A).stat().st_ino == inode
    assert cache.usage() == Usage(1, A.size)
    assert leftovers(cache) == []


def test_a_size_that_differs_is_absent_and_harmless(opener: Opener) -> None:
    cache = opener()
    fill(cache, A)
    assert cache.absent([Blob(A.digest, A.size + 1)]) == [Blob(A.digest, A.size + 1)]
    assert cache.absent([A]) == []


def test_least_recently_used_goes_first(opener: Opener, clock: ManualClock) -> None:
    roomy, cache = opener(), opener(max_items=2)
    for blob in (A, B, C):
        fill(roomy, blob)
        clock.advance(TOUCH_S)
    cache.absent([A])
    assert cache.is_over()
    assert cache.trim() == Evicted(1, B.size)
    assert not cache.is_over()
    assert cache.absent([A, B, C]) == [B]
    assert files_in(cache) == {A.digest.hex(), C.digest.hex()}


@pytest.mark.parametrize("policy", [{"max_items": 2}, {"max_bytes": 2 * 9}])
def test_limits_hold_while_writing(opener: Opener, clock: ManualClock, policy: dict[str, int]) -> None:
    cache = opener(**policy)
    fill(cache, A, B)
    clock.advance(1)
    cache.add_stream(C, [CONTENTS[2]])
    clock.advance(1)
    fill(cache, D)
    assert files_in(cache) == {C.digest.hex(), D.digest.hex()}
    assert not cache.is_over()


def test_a_tree_in_use_may_be_larger_than_the_limits_until_it_is_not(opener: Opener) -> None:
    cache = opener(max_items=2)
    with cache.pin([blob.digest for blob in BLOBS]):
        for blob in BLOBS:
            fill(cache, blob)
        assert cache.absent(BLOBS) == []
    assert cache.is_over()
    assert cache.trim().items == 8


def test_making_the_executable_variant_counts_as_writing(opener: Opener) -> None:
    cache = opener(max_items=2)
    fill(cache, A, B)
    with cache.pin([B.digest]):
        cache.path(B, executable=True)
    assert files_in(cache) == {B.digest.hex(), B.digest.hex() + ".x"}


def test_what_is_old_or_takes_the_last_space_is_noticed(opener: Opener, clock: ManualClock) -> None:
    aged, tight = opener(max_age_s=100), opener(min_free_bytes=1 << 62)
    assert tight.is_over()
    fill(aged, A)
    clock.advance(100)
    assert not aged.is_over()
    clock.advance(1)
    assert aged.is_over()


def test_the_oldest_give_way_to_others_caches(opener: Opener, clock: ManualClock) -> None:
    cache = opener()
    assert cache.oldest_s() is None
    start_s = clock.now()
    for blob in (A, B, C, D):
        fill(cache, blob)
        clock.advance(1)
    assert cache.oldest_s() == start_s
    with cache.pin([A.digest]):
        assert cache.evict_oldest(start_s + 2, 1) == Evicted(1, B.size)
        assert cache.evict_oldest(start_s + 2, 1000) == Evicted(1, C.size)
        assert not cache.evict_oldest(start_s + 2, 1000)
    assert files_in(cache) == {A.digest.hex(), D.digest.hex()}


def test_using_again_within_a_minute_writes_nothing(opener: Opener, clock: ManualClock) -> None:
    cache = opener()
    fill(cache, A)
    before = (cache.root / "index.sqlite-wal").stat()
    clock.advance(TOUCH_S - 1)
    cache.absent([A])
    after = (cache.root / "index.sqlite-wal").stat()
    assert (before.st_size, before.st_mtime_ns) == (after.st_size, after.st_mtime_ns)


def test_age_limit(opener: Opener, clock: ManualClock) -> None:
    cache = opener(max_age_s=100)
    fill(cache, A)
    clock.advance(50)
    fill(cache, B)
    clock.advance(50)
    assert not cache.trim()
    clock.advance(1)
    assert cache.trim() == Evicted(1, A.size)


def test_variants_are_evicted_one_by_one(opener: Opener, clock: ManualClock) -> None:
    cache = opener(max_items=1)
    fill(cache, A)
    clock.advance(1)
    with cache.pin([A.digest]):
        cache.path(A, executable=True)
    cache.trim()
    assert files_in(cache) == {A.digest.hex() + ".x"}
    with pytest.raises(BlobsMissing):
        cache.path(B, executable=True)


def test_pinned_files_stay(opener: Opener, clock: ManualClock) -> None:
    cache = opener(max_items=1)
    fill(cache, A, B, C)
    with cache.pin([A.digest]) as pin:
        pin.extend([B.digest])
        assert cache.trim() == Evicted(1, C.size)
        assert cache.absent([A, B]) == []
    assert cache.trim().items == 1


def test_memory_does_not_grow_with_what_is_pinned(opener: Opener) -> None:
    cache = opener(max_items=1)
    fill(cache, A, B, C)
    pinned = 50_000
    with cache.pin([A.digest, *(number.to_bytes(NS.algorithm.digest_bytes) for number in range(pinned)), B.digest]):
        tracemalloc.start()
        try:
            assert cache.trim() == Evicted(1, C.size)
            assert tracemalloc.get_traced_memory()[1] < pinned * NS.algorithm.digest_bytes  # less than the digests
        finally:
            tracemalloc.stop()
        assert cache.absent([A, B]) == []


def test_a_pin_that_is_half_written_holds_what_it_has(opener: Opener) -> None:
    mine, other = opener(), opener(max_items=1)
    fill(mine, A, B)
    with mine.pin([A.digest]):
        (pin,) = mine.root.glob("sessions/*/pin-*")
        with open(pin, "ab") as file:
            file.write(B.digest[:-1])
        assert other.trim() == Evicted(1, B.size)


def test_pins_hold_for_every_open_cache(opener: Opener) -> None:
    mine, other = opener(), opener(max_items=1)
    fill(mine, A, B)
    pin = mine.pin([A.digest, B.digest])
    assert not other.trim()
    pin.release()
    assert other.trim().items == 1


def test_pins_can_be_made_before_the_files(opener: Opener) -> None:
    cache = opener(max_items=1)
    with cache.pin([A.digest]):
        fill(cache, A, B)
        assert cache.trim() == Evicted(1, B.size)


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


def test_many_threads_and_openers_agree(opener: Opener) -> None:
    caches = [opener(max_items=5) for _ in range(3)]

    def work(number: int) -> None:
        cache = caches[number % 3]
        for step in range(30):
            blob = BLOBS[(3 * number + step) % 10]
            with cache.pin([blob.digest]):
                if cache.absent([blob]):
                    fill(cache, blob)
                assert cache.path(blob, executable=step % 2 == 0).read_bytes() == CONTENTS[BLOBS.index(blob)]
            cache.trim()

    with ThreadPoolExecutor(6) as executor:
        list(executor.map(work, range(6)))
    caches[0].trim()
    assert caches[0].usage().items == len(files_in(caches[0])) <= 5
    assert leftovers(caches[0]) == []


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


def test_too_little_free_space_evicts_and_then_says_so(opener: Opener, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = opener(min_free_bytes=1 << 62)
    with pytest.raises(NoSpace, match=r"9 bytes are needed, \d+ are free and \d+ must stay free"):
        fill(cache, A)
    assert files_in(cache) == set()


def test_what_is_in_use_is_not_evicted_for_space(opener: Opener) -> None:
    roomy, tight = opener(), opener(min_free_bytes=1 << 62)
    fill(roomy, A, B)
    with roomy.pin([A.digest]), pytest.raises(NoSpace):
        fill(tight, C)
    assert roomy.absent([A, B]) == [B]


def test_a_place_that_cannot_be_a_cache(tmp_path: Path, clock: ManualClock, monitor: TallyMonitor) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(IsolateError, match="Cannot use the cache"):
        LocalCache.open(tmp_path / "file" / "cache", NS, CachePolicy(), clock, monitor)


def test_a_closed_cache_says_so(opener: Opener) -> None:
    cache = opener()
    cache.close()
    with pytest.raises(IsolateError, match="is closed"):
        cache.absent([A])


def test_recheck_repairs_permissions(opener: Opener) -> None:
    cache = opener()
    fill(cache, A)
    path = cache.path(A)
    path.chmod(0o777)
    path.touch()
    assert cache.recheck([(A, False)])
    assert stat.S_IMODE(path.stat().st_mode) & 0o333 == 0
    assert cache.absent([A]) == []


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


def test_a_new_file_is_named_once_and_an_old_one_is_replaced(opener: Opener, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = opener()
    renamed: list[str] = []
    rename = os.rename

    def record(source: str, target: str) -> None:
        renamed.append(target)
        rename(source, target)

    monkeypatch.setattr(os, "rename", record)
    fill(cache, A, B)
    assert renamed == []
    path = Path(cache.files_of([(C, False)])[0])
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(b"left behind by one that was killed")
    fill(cache, C)
    assert renamed == [str(path)]
    assert cache.absent([A, B, C]) == []
    assert path.read_bytes() == CONTENTS[2]


def test_a_file_that_is_swept_away_before_it_is_listed_is_written_again(
    opener: Opener, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache, other = opener(), opener()
    adopt = cache._shelf.adopt

    def swept(created: Sequence[Staged]) -> set[bytes]:
        other._shelf.sweep()
        return adopt(created)

    monkeypatch.setattr(cache._shelf, "adopt", swept)
    fill(cache, A)
    assert cache.absent([A]) == []
    assert cache.path(A).read_bytes() == CONTENTS[0]


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
