"""A process that uses a cache as runs do, until it is killed: pin, look, add, read, trim; one line for each round."""

from __future__ import annotations

import random
import sys
from pathlib import Path

from isolate.cas.cache import CachePolicy, LocalCache
from isolate.cas.digest import Namespace
from isolate.clock import SystemClock
from isolate.monitor import TallyMonitor

NS = Namespace.parse("blake3-zstd")
CONTENTS = [b"content %d " % number * (1 + number) for number in range(60)]
BLOBS = [NS.blob(content) for content in CONTENTS]
MAX_ITEMS = 30


def opened(root: Path, monitor: TallyMonitor) -> LocalCache:
    return LocalCache.open(root, NS, CachePolicy(max_items=MAX_ITEMS), SystemClock(), monitor)


def use(cache: LocalCache, numbers: list[int]) -> None:
    """One run: everything that was asked for is there, and right, while it is pinned."""
    with cache.pin([BLOBS[number].digest for number in numbers]) as pin:
        lacking = set(cache.absent([BLOBS[number] for number in numbers]))
        cache.add([(BLOBS[number], CONTENTS[number]) for number in numbers if BLOBS[number] in lacking])
        cache.trim()
        for number, path in zip(numbers, cache.paths([(BLOBS[n], n % 3 == 0) for n in numbers]), strict=True):
            assert Path(path).read_bytes() == CONTENTS[number]
        assert cache.poisoned_since(pin) == []


def main() -> None:
    source, monitor = random.Random(int(sys.argv[2])), TallyMonitor()
    with opened(Path(sys.argv[1]), monitor) as cache:
        for _ in range(10_000):
            use(cache, source.sample(range(len(CONTENTS)), 8))
            assert monitor.problems == []
            sys.stdout.write("round\n")
            sys.stdout.flush()


if __name__ == "__main__":
    main()
