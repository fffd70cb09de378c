"""Fixtures of several unit tests."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from isolate.cas.cache import CachePolicy, LocalCache
from isolate.cas.digest import Namespace
from isolate.monitor import TallyMonitor
from tests.clock import ManualClock
from tests.unit.caches import NS, Opener


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
