"""Waiting for what another process has locked: it ends when that lets go, or when who waits wants it no more."""

from __future__ import annotations

import fcntl
import os
from functools import partial
from pathlib import Path

import pytest

from isolate.cas.cache import CachePolicy, LocalCache
from isolate.errors import InternalFailure
from isolate.locks import when_free
from isolate.monitor import NullMonitor, TallyMonitor
from run_isolated.named_caches import NamedCaches
from tests.clock import ManualClock
from tests.unit.caches import NS


class Asked:
    """Wants to wait a few times, and then lets go of the lock, or gives up."""

    def __init__(self, lock: int | None = None) -> None:
        self.times, self._lock = 0, lock

    def __call__(self) -> None:
        self.times += 1
        if self.times == 3:
            if self._lock is None:
                raise InternalFailure("wanted no more")
            os.close(self._lock)


def held(path: Path) -> int:
    lock = os.open(path, os.O_RDWR | os.O_CREAT)
    fcntl.flock(lock, fcntl.LOCK_EX)
    return lock


def test_it_is_tried_until_it_is_free() -> None:
    tries: list[int] = []

    def lock() -> str:
        tries.append(1)
        if len(tries) < 5:
            raise BlockingIOError
        return "ours"

    assert when_free(lock, lambda: None) == "ours"
    assert len(tries) == 5


def test_what_is_free_is_had_without_a_question() -> None:
    assert when_free(lambda: "ours", lambda: pytest.fail("asked")) == "ours"


def test_another_failure_is_not_waited_for() -> None:
    def lock() -> None:
        raise PermissionError

    with pytest.raises(PermissionError):
        when_free(lock, lambda: pytest.fail("asked"))


def test_who_opens_a_cache_that_is_locked_may_stop_waiting(tmp_path: Path) -> None:
    root = tmp_path / "cache"
    opening = partial(LocalCache.open, root, NS, CachePolicy(), ManualClock(), NullMonitor())
    opening().close()
    lock = held(root / "lock")
    with pytest.raises(InternalFailure, match="wanted no more"):
        opening(check=Asked())
    assert os.listdir(root / "sessions") == []
    let_go = Asked(lock)
    with opening(check=let_go) as cache:
        assert cache.usage() == (0, 0)
    assert let_go.times == 3


def test_who_wants_a_named_cache_may_stop_waiting(tmp_path: Path) -> None:
    caches = NamedCaches(tmp_path / "root", CachePolicy(), ManualClock(), TallyMonitor())
    assert caches.touch(["a"]) == ["a"]
    lock = held(tmp_path / "root" / "lock")
    with pytest.raises(InternalFailure, match="wanted no more"):
        caches.touch(["a"], Asked())
    with pytest.raises(InternalFailure, match="wanted no more"):
        caches.install("a", tmp_path / "place", Asked())
    assert not (tmp_path / "place").exists()
    assert caches.install("a", tmp_path / "place", Asked(lock)) == 0
    assert (tmp_path / "place").is_dir()
