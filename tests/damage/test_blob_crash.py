"""Acknowledged survives: a real process is killed while it stores, again and again, on one directory."""

from __future__ import annotations

import random
import subprocess
import sys
from pathlib import Path

from isolate.cas.block import Block, ChunkList
from isolate.cas.digest import Blob
from isolate.clock import SystemClock
from isolate.monitor import TallyMonitor
from server.stores.blobs import LocalBlobStores
from server.stores.limits import BlobLimits
from tests.damage.blob_writer import NAMESPACE, PER_GROUP, composed, content
from tests.records import blob_of

ROUNDS = 5


def stored_until_killed(root: Path, first: int, lines: int) -> list[str]:
    """Let a process store from content `first` on, kill it after `lines` acknowledgements; returns what it said."""
    command = [sys.executable, "-m", "tests.damage.blob_writer", str(root), str(first)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        said = [process.stdout.readline() for _ in range(lines)]
        process.kill()
        said += process.stdout.read().splitlines(keepends=True)
    return [line.strip() for line in said if line.endswith("\n")]


async def test_every_acknowledged_blob_survives_kill_9(tmp_path: Path) -> None:
    source, numbers, recipes = random.Random(5), set[int](), set[int]()
    for _ in range(ROUNDS):
        first = (max(numbers, default=-1) // PER_GROUP + 1) * PER_GROUP
        said = stored_until_killed(tmp_path, first, source.randrange(1, 400))
        recipes |= {int(line.removeprefix("composed ")) for line in said if line.startswith("composed ")}
        numbers |= {int(line) for line in said if line.isdigit()}
        await verify(tmp_path, numbers, recipes)
    assert len(numbers) > 100
    assert recipes


async def verify(root: Path, numbers: set[int], recipes: set[int]) -> None:
    """Open the directory as the next server would and read everything back."""
    monitor = TallyMonitor()
    stores = await LocalBlobStores.open(root, SystemClock(), monitor, BlobLimits(min_free_bytes=0))
    store = stores.namespace(NAMESPACE)
    whole = [composed(range(first, first + PER_GROUP)) for first in recipes]
    wanted = [*(blob_of(content(number)) for number in numbers), *(blob for blob, _ in whole)]
    assert await store.missing(wanted) == []
    found: dict[Blob, bytes] = {}
    made: dict[Blob, tuple[Blob, ...]] = {}
    async for record in store.read(wanted):
        if isinstance(record, Block):
            found.update((blob, bytes(data)) for blob, data in record.contents())
        elif isinstance(record, ChunkList):
            made[record.blob] = record.chunks
    assert [number for number in numbers if found.get(blob_of(content(number))) != content(number)] == []
    assert made == {blob: tuple(chunks) for blob, chunks in whole}
    assert monitor.problems == []
    await stores.close()
