"""Eviction and compaction, stopped at any moment: what is promised stays, and nothing is left to tidy by hand."""

from __future__ import annotations

import errno
import random
import shutil
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from isolate.cas.block import Block
from isolate.errors import IsolateError
from isolate.monitor import TallyMonitor
from server.stores.blobs import LocalBlobStores
from server.stores.check import Check
from server.stores.janitor import Janitor
from server.stores.limits import BlobLimits
from server.stores.sqlite_upkeep import PackState
from tests.clock import ManualClock
from tests.damage.tidying_writer import LASTING, LIMITS, NAMESPACE, PER_GROUP, contents, now_s
from tests.pack_faults import FaultyFiles
from tests.records import blob_of, block_of, stream

DAY_S = 86400.0
ROUNDS = 6
NUMBERS = range(14)
CHUNKS = (0, 2)  # of a composed blob that stays


def content(number: int) -> bytes:
    return random.Random(number).randbytes(3000)


ALIVE = {blob_of(content(number)): content(number) for number in NUMBERS[::2]}
WHOLE = b"".join(map(content, CHUNKS))


class Site:
    """A store of which every second record is old enough to go."""

    def __init__(self, root: Path, files: FaultyFiles | None = None) -> None:
        self.root, self.clock, self.monitor = root, ManualClock(), TallyMonitor()
        self.files = files or FaultyFiles()

    async def open(self) -> None:
        limits = BlobLimits(min_free_bytes=0)
        self.stores = await LocalBlobStores.open(
            self.root, self.clock, self.monitor, limits, files=self.files, rotate_bytes=13_000
        )
        self.janitor = Janitor(self.stores, self.clock)

    async def fill(self) -> None:
        store = self.stores.namespace(NAMESPACE)
        for number in NUMBERS:
            await store.write(stream(block_of(content(number))))
        await store.compose(blob_of(WHOLE), [blob_of(content(number)) for number in CHUNKS])
        self.clock.advance(8 * DAY_S)
        assert await store.missing([*ALIVE, blob_of(WHOLE)]) == []

    async def verify(self) -> None:
        """Everything that was asked for is there, byte for byte."""
        store = self.stores.namespace(NAMESPACE)
        found: dict[object, bytes] = {}
        async for record in store.read(list(ALIVE)):
            assert isinstance(record, Block)
            found.update((blob, bytes(data)) for blob, data in record.contents())
        assert ALIVE.items() <= found.items()
        whole = blob_of(WHOLE)
        pieces = [bytes(piece) async for piece in store.pieces(whole.digest, 0, whole.size)]
        assert b"".join(pieces) == WHOLE

    async def finish(self) -> None:
        """Tidy in peace, as the next server would; then no byte lies around that nobody knows."""
        await self.janitor.run(dead_share=0.01)
        await self.verify()
        with sqlite3.connect(self.root / "blobs.sqlite") as connection:
            rows = connection.execute(
                "SELECT name, state, committed_bytes, live_bytes, dead_bytes FROM pack"
            ).fetchall()
            ((blocks,),) = connection.execute("SELECT COUNT(*) FROM block").fetchall()
        connection.close()
        lengths = {path.stem: path.stat().st_size for path in self.root.rglob("*.pack")}
        assert lengths.keys() == {name for name, *_ in rows}
        assert {state for _, state, *_ in rows} <= {0, 1}
        assert [(live + dead, committed) for _, _, committed, live, dead in rows if live + dead != committed] == []
        assert blocks == len(ALIVE) + 1
        await self.stores.close()
        await self.open()
        check = Check(self.stores, self.root, print, 1.0, random.Random(1), self.clock.now())
        assert (await check.run()).problems == 0
        await self.stores.close()


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO])
async def test_any_system_call_of_a_round_may_fail(tmp_path: Path, code: int) -> None:
    failed = set()
    for call in range(1, 200):
        site = Site(tmp_path / f"{call}")
        site.root.mkdir()
        await site.open()
        await site.fill()
        site.files.fail_any(code, call)
        try:
            await site.janitor.run(dead_share=0.01)
        except IsolateError:
            assert site.files.failed
        armed = site.files.is_armed
        site.files._plans.clear()
        await site.verify()
        await site.stores.close()
        await site.open()
        await site.finish()
        failed.add(site.files.failed)
        shutil.rmtree(site.root)
        if armed:
            break
    assert {"read", "create", "open_end", "write", "sync", "unlink", "sync_directory"} <= failed


async def test_a_crash_before_any_step_of_a_round_loses_nothing(tmp_path: Path) -> None:
    """The directory as it is before each call to the disk is what a killed process leaves behind."""

    class Photographer(FaultyFiles):
        taken = 0
        on = False

        def _count(self, method: str) -> None:
            super()._count(method)
            if self.on:
                self.taken += 1
                shutil.copytree(tmp_path / "live", tmp_path / f"photo-{self.taken}")

    files = Photographer()
    site = Site(tmp_path / "live", files)
    site.root.mkdir()
    await site.open()
    await site.fill()
    files.on = True
    tidied = await site.janitor.run(dead_share=0.01)
    files.on = False
    assert (tidied.evicted.blocks, tidied.packs) == (len(NUMBERS) - len(ALIVE), 4)
    await site.finish()
    assert files.taken > 20
    for number in range(1, files.taken + 1):
        photo = Site(tmp_path / f"photo-{number}")
        photo.clock.advance(site.clock.monotonic())
        await photo.open()
        assert PackState.DEAD not in {row.state for row in await photo.stores.upkeep.packs()}  # finished at the start
        await photo.verify()
        await photo.finish()
        assert photo.monitor.problems == []


def stored_until_killed(root: Path, first: int, lines: int) -> list[int]:
    """Let a process store from group `first` on, kill it after `lines` acknowledgements; returns what it said."""
    command = [sys.executable, "-m", "tests.damage.tidying_writer", str(root), str(first)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        said = [process.stdout.readline() for _ in range(lines)]
        process.kill()
        said += process.stdout.read().splitlines(keepends=True)
    return [int(line) for line in said if line.endswith("\n")]


async def test_kill_9_while_tidying_loses_nothing_promised(tmp_path: Path) -> None:
    source, first = random.Random(7), 0
    for _ in range(ROUNDS):
        last = stored_until_killed(tmp_path, first, source.randrange(20, 120))[-1]
        await verify_after_kill(tmp_path, last)
        first = last + 1
    assert first > 100
    assert sum(path.stat().st_size for path in tmp_path.rglob("*.pack")) <= (LIMITS.max_bytes or 0) * 1.1


async def verify_after_kill(root: Path, last: int) -> None:
    """Open the directory as the next server would, look at what is promised, and at all the rest."""
    monitor, clock = TallyMonitor(), ManualClock(now_s(last + 1))
    stores = await LocalBlobStores.open(root, clock, monitor, LIMITS)
    groups = range(max(0, last - LASTING + 1), last + 1)
    wanted = {blob_of(content): content for group in groups for content in contents(group)}
    found: dict[object, bytes] = {}
    async for record in stores.namespace(NAMESPACE).read(list(wanted)):
        assert isinstance(record, Block)
        found.update((blob, bytes(data)) for blob, data in record.contents())
    assert wanted.items() <= found.items()
    assert len(wanted) == len(groups) * PER_GROUP
    check = Check(stores, root, print, 1.0, random.Random(1), clock.now())
    assert (await check.run()).problems == 0
    assert monitor.problems == []
    await stores.close()
