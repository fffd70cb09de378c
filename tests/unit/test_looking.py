"""Looks at files of the cache by several processes: whoever looks, whatever becomes of them, no change is missed."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from isolate.cas.cache import CachePolicy, LocalCache
from isolate.cas.cache_index import identity
from isolate.cas.digest import Blob, Namespace
from isolate.errors import InvalidRecord
from isolate.monitor import NullMonitor
from run_isolated import beside, looking
from run_isolated.facts import Facts
from run_isolated.linked import Variant
from run_isolated.looking import Expected, Look
from run_isolated.result import Stopped
from tests.clock import ManualClock

NS = Namespace.parse("blake3-zstd")
COUNT, PIECE = 100, 4
CONTENTS = [b"content %d" % number for number in range(COUNT)]
CHANGED = (0, 41, COUNT - 1)
Processes = list[subprocess.Popen[bytes]]


@pytest.fixture
def cache(tmp_path: Path) -> Iterator[LocalCache]:
    with LocalCache.open(tmp_path / "cache", NS, CachePolicy(), ManualClock(), NullMonitor()) as cache:
        cache.add([(NS.blob(content), content) for content in CONTENTS])
        yield cache


@pytest.fixture
def expected(cache: LocalCache) -> Expected:
    variants = [variant(number) for number in range(COUNT)]
    variants[7] = (variants[7][0], True)
    files = zip(map(os.stat, cache.paths(variants)), variants, strict=True)
    told = Expected(Facts(NS.algorithm), cache.temporary)
    told.append(told.facts.pack((*identity(status), executable, blob[0]) for status, (blob, executable) in files))
    return told


@pytest.fixture(autouse=True)
def started(monkeypatch: pytest.MonkeyPatch) -> Iterator[Processes]:
    """Have small pieces and two helpers; return the processes that are started, none of which is left in the end."""
    processes: Processes = []
    real = subprocess.Popen

    def watched(command: list[str], **options: Any) -> subprocess.Popen[bytes]:
        processes.append(real(command, **options))
        return processes[-1]

    monkeypatch.setattr(subprocess, "Popen", watched)
    monkeypatch.setattr(beside, "helper_count", lambda: 2)
    monkeypatch.setattr(looking, "MIN_SHARED_OUT", COUNT)
    monkeypatch.setattr(looking, "PIECE", PIECE)
    yield processes
    assert [process for process in processes if process.returncode is None] == []


@pytest.fixture(params=["alone", "helped"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    if request.param == "alone":
        monkeypatch.setattr(looking, "MIN_SHARED_OUT", COUNT + 1)
    return str(request.param)


def variant(number: int) -> Variant:
    return NS.blob(CONTENTS[number]), False


def seen(look: Look) -> list[Blob]:
    return sorted(blob for variants in look.differing() for blob, _ in variants)


def replaced(path: Path) -> None:
    copy = path.with_name("copy")
    copy.write_bytes(path.read_bytes())
    os.utime(copy, ns=(0, path.stat().st_mtime_ns))
    copy.rename(path)


def overwritten(path: Path) -> None:
    before = path.stat()
    path.chmod(0o600)
    path.write_bytes(path.read_bytes() + b"x")
    os.utime(path, ns=(0, before.st_mtime_ns))


def touched(path: Path) -> None:
    os.utime(path, ns=(0, 0))


CHANGES: dict[str, Callable[[Path], None]] = {
    "gone": os.unlink,
    "replaced": replaced,
    "longer": overwritten,
    "touched": touched,
}


@pytest.mark.parametrize("change", CHANGES)
def test_every_change_is_seen(cache: LocalCache, expected: Expected, started: Processes, way: str, change: str) -> None:
    with Look(cache, expected) as look:
        assert seen(look) == []
    for number in CHANGED:
        CHANGES[change](Path(cache.files_of([variant(number)])[0]))
    with Look(cache, expected) as look:
        assert seen(look) == sorted(variant(number)[0] for number in CHANGED)
    assert len(started) == (0 if way == "alone" else 4)


@pytest.mark.usefixtures("way")
def test_a_ctime_that_came_later_is_a_change(cache: LocalCache, expected: Expected) -> None:
    variants = [one for some in expected for one in some]
    times_ns = sorted(os.stat(path).st_ctime_ns for path in cache.files_of(variants))
    with Look(cache, expected, times_ns[-1] + 1) as look:
        assert seen(look) == []
    with Look(cache, expected, times_ns[0]) as look:
        assert len(seen(look)) == COUNT


@pytest.mark.usefixtures("way")
def test_without_the_directory_nothing_is_as_it_was(cache: LocalCache, expected: Expected) -> None:
    (cache.files_dir / NS.algorithm.name).rename(cache.files_dir / "elsewhere")
    with Look(cache, expected) as look:
        assert len(seen(look)) == COUNT
    (cache.files_dir / "elsewhere").rename(cache.files_dir / NS.algorithm.name)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
def test_what_a_process_that_was_killed_or_stopped_did_not_say_is_looked_at_here(
    cache: LocalCache,
    expected: Expected,
    started: Processes,
    monkeypatch: pytest.MonkeyPatch,
    number: signal.Signals,
) -> None:
    monkeypatch.setattr(beside, "PATIENCE_LOOKS", 3)
    monkeypatch.setattr(beside, "LOOK_MS", 10)
    for changed in CHANGED:
        replaced(Path(cache.files_of([variant(changed)])[0]))
    with Look(cache, expected) as look:
        for process in started:
            process.send_signal(number)
        assert seen(look) == sorted(variant(changed)[0] for changed in CHANGED)
        assert [process.returncode for process in started] == [-signal.SIGKILL] * 2


def test_where_no_process_may_be_started_we_look_at_all(
    cache: LocalCache, expected: Expected, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise BlockingIOError(11, "Resource temporarily unavailable")

    monkeypatch.setattr(subprocess, "Popen", refuse)
    os.unlink(cache.files_of([variant(50)])[0])
    with Look(cache, expected) as look:
        assert seen(look) == [variant(50)[0]]


def test_who_is_stopped_waits_for_nobody(
    cache: LocalCache, expected: Expected, started: Processes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(beside, "END_S", 0.01)
    monkeypatch.setattr(beside, "LOOK_MS", 10)

    def check() -> None:
        raise Stopped("wanted no more")

    with Look(cache, expected, check=check) as look:
        for process in started:
            process.send_signal(signal.SIGSTOP)
        with pytest.raises(Stopped):
            seen(look)
    assert [process.returncode for process in started] == [-signal.SIGKILL] * 2


def test_facts_that_are_cut_off_are_not_believed(cache: LocalCache) -> None:
    told = Expected(Facts(NS.algorithm), cache.temporary)
    with pytest.raises(InvalidRecord, match="left over"):
        told.append(b"x" * (told.facts.fact_bytes + 1))
