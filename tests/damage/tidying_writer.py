"""A process that stores under a small limit while its janitor evicts and compacts, until it is killed.

`python -m tests.damage.tidying_writer DIR FIRST` stores the groups number FIRST, FIRST + 1, … and prints each number
once its `write` has returned. Half an hour passes between two groups, by a clock of its own.
"""

from __future__ import annotations

import asyncio
import itertools
import random
import sys
from pathlib import Path

from isolate.cas.digest import Namespace
from isolate.monitor import NullMonitor
from server.stores.blobs import LocalBlobStores
from server.stores.janitor import Janitor
from server.stores.limits import BlobLimits
from tests.clock import ManualClock
from tests.records import block_of, stream

NAMESPACE = Namespace.parse("blake3-zstd")
LIMITS = BlobLimits(min_free_bytes=0, max_bytes=400_000)
STEP_S, START_S = 1800.0, 1_700_000_000.0
PER_GROUP, ROTATE_BYTES = 4, 15_000
LASTING = (
    int(LIMITS.promised_s / STEP_S) - 1
)  # so many of the last groups are promised for sure, whenever the kill came


def contents(group: int) -> list[bytes]:
    source = random.Random(group)
    return [source.randbytes(source.randrange(1, 4000)) for _ in range(PER_GROUP)]


def now_s(group: int) -> float:
    """Return what the clock shows while `group` is stored."""
    return START_S + group * STEP_S


async def main(root: Path, first: int) -> None:
    clock = ManualClock(now_s(first))
    stores = await LocalBlobStores.open(root, clock, NullMonitor(), LIMITS, rotate_bytes=ROTATE_BYTES)
    janitor = Janitor(stores, clock)  # as if every stop had been clean: else nothing would ever go
    stores.make_room = janitor.make_room
    store = stores.namespace(NAMESPACE)
    for group in itertools.count(first):
        async with asyncio.TaskGroup() as together:
            together.create_task(janitor.run(dead_share=0.2))
            await store.write(stream(*(block_of(content) for content in contents(group))))
            sys.stdout.write(f"{group}\n")
            sys.stdout.flush()
        clock.advance(STEP_S)


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1]), int(sys.argv[2])))
