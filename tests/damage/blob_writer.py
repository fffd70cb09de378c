"""A process that stores blobs until it is killed and says, line by line, what was acknowledged.

`python -m tests.damage.blob_writer DIR FIRST` stores the contents number FIRST, FIRST + 1, … and prints each number
once its `write` (or, for every fifth group, its `compose`) has returned.
"""

from __future__ import annotations

import asyncio
import itertools
import random
import sys
from collections.abc import AsyncIterator
from pathlib import Path

from isolate.cas.block import Block
from isolate.cas.digest import Blob, Namespace
from isolate.clock import SystemClock
from isolate.monitor import NullMonitor
from server.stores.blobs import LocalBlobStore, LocalBlobStores
from server.stores.limits import BlobLimits
from tests.records import blob_of, block_of

NAMESPACE = Namespace.parse("blake3-zstd")
WRITERS, PER_GROUP = 3, 20


def content(number: int) -> bytes:
    """Return content number `number`: 1 to 8,000 bytes, half of them compressible."""
    source = random.Random(number)
    size = source.randrange(1, 4000)
    return source.randbytes(size) + bytes(size)


def composed(numbers: range) -> tuple[Blob, list[Blob]]:
    """Return the blob that is the contents `numbers` behind each other, and its chunks."""
    return blob_of(b"".join(map(content, numbers))), [blob_of(content(number)) for number in numbers]


async def stream(numbers: range) -> AsyncIterator[Block]:
    middle = numbers.start + PER_GROUP // 2
    for part in (range(numbers.start, middle), range(middle, numbers.stop)):
        yield block_of(*map(content, part))


async def writer(store: LocalBlobStore, groups: itertools.count[int]) -> None:
    for first in groups:
        numbers = range(first, first + PER_GROUP)
        await store.write(stream(numbers))
        said = [f"{number}\n" for number in numbers]
        if first % (5 * PER_GROUP) == 0:
            await store.compose(*composed(numbers))
            said.append(f"composed {first}\n")
        sys.stdout.writelines(said)
        sys.stdout.flush()


async def main(root: Path, first: int) -> None:
    limits = BlobLimits(min_free_bytes=0)
    stores = await LocalBlobStores.open(root, SystemClock(), NullMonitor(), limits, rotate_bytes=1 << 20)
    groups = itertools.count(first, PER_GROUP)
    async with asyncio.TaskGroup() as tasks:
        for _ in range(WRITERS):
            tasks.create_task(writer(stores.namespace(NAMESPACE), groups))


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1]), int(sys.argv[2])))
