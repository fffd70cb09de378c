"""How far an archive of one large file is, in the words that trees have, while it is read and sent."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from isolate.archive import ArchiveOptions, archive_file, archive_tree
from isolate.cas.digest import Blob, Namespace
from isolate.cas.memory import MemoryStore
from isolate.cas.store import BlobStore
from isolate.clock import SystemClock
from isolate.crew import GrowingCrew
from isolate.errors import FileChanged, Unavailable
from isolate.monitor import Monitor, NullMonitor, TallyMonitor
from isolate.progress import Progress, Stage
from isolate.sender import Sender
from isolate.upload import Wanted
from tests.clock import ManualClock
from tests.faults import ScriptedStore

OURS = Namespace.parse("blake3-zstd")
PLAIN = random.Random(7).randbytes(30 << 20)


class Looking(MemoryStore):
    """Notes how far the work is each time that it is asked for chunks."""

    def __init__(self, monitor: TallyMonitor) -> None:
        super().__init__(OURS)
        self.monitor = monitor
        self.seen: list[list[Stage]] = []

    async def missing(self, blobs: Sequence[Blob]) -> list[Blob]:
        self.seen.append(Progress().stages(dict(self.monitor.counters), self.monitor.expected, 0.0))
        return await super().missing(blobs)


class Impatient(ManualClock):
    async def sleep(self, delay_s: float) -> None:
        self.advance(delay_s)


async def archived(path: Path, store: BlobStore, monitor: Monitor, *, in_tree: bool = True) -> None:
    options = ArchiveOptions(workers=0, clock=Impatient())
    if in_tree:
        await archive_tree(path.parent, store, options, monitor)
    else:
        await archive_file(path, store, options, monitor)


@pytest.mark.parametrize("in_tree", [True, False])
async def test_what_is_sent_of_a_large_file_is_told_while_it_is(tmp_path: Path, *, in_tree: bool) -> None:
    (tmp_path / "f").write_bytes(PLAIN)
    store = Looking(TallyMonitor())
    await archived(tmp_path / "f", store, store.monitor, in_tree=in_tree)
    chunked = [stages for stages in store.seen if stages and stages[0].done_bytes < len(PLAIN)]
    assert [len(stages) for stages in chunked] == [2] * len(chunked)
    for hashing, uploading in chunked:
        assert uploading == replace(hashing, name="uploading")
        assert (uploading.done_files, uploading.total_files, uploading.total_bytes) == (0, 1, len(PLAIN))
    sizes = [uploading.done_bytes for _, uploading in chunked]
    assert (len(sizes) > 2, sizes[0], sorted(set(sizes))) == (True, 0, sizes)


@pytest.mark.parametrize("in_tree", [True, False])
async def test_what_is_known_of_a_large_file_is_told_while_it_is_read(tmp_path: Path, *, in_tree: bool) -> None:
    (tmp_path / "f").write_bytes(PLAIN[: 20 << 20])
    store, monitor = Looking(TallyMonitor()), TallyMonitor()
    await archived(tmp_path / "f", store, NullMonitor())
    (tmp_path / "f").write_bytes(PLAIN)
    store.monitor, store.seen = monitor, []
    await archived(tmp_path / "f", store, monitor, in_tree=in_tree)
    uploading = [stages[1] for stages in store.seen if len(stages) == 2]
    totals = [stage.total_bytes for stage in uploading]
    assert (totals[0], totals, totals[-1] < len(PLAIN) / 2) == (len(PLAIN), sorted(totals, reverse=True), True)
    assert (uploading[0].dedup, uploading[-1].dedup) == ("", f"dedup {len(PLAIN) / totals[-1]:.1f}:1")
    assert (monitor.counters["archived_bytes"], monitor.counters["uploaded_bytes"]) == (len(PLAIN), totals[-1])
    assert monitor.expected["uploaded_bytes"] == totals[-1]


async def test_a_large_file_that_cannot_be_read_is_no_longer_expected(tmp_path: Path) -> None:
    store, monitor = MemoryStore(OURS), TallyMonitor()
    async with GrowingCrew(store, store, 0, SystemClock(), monitor) as crew:
        with pytest.raises(FileChanged):
            await Sender(store, crew, SystemClock(), monitor).read_large(str(tmp_path / "gone"), 9 << 20)
    assert set(monitor.counters.values()) == set(monitor.expected.values()) == {0}


async def test_what_is_read_again_of_a_large_file_is_told_once(tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(PLAIN)
    monitor = TallyMonitor()
    store = Looking(monitor)
    broken = ScriptedStore(store)
    broken.script("write", Unavailable("cut"))
    await archived(tmp_path / "f", broken, monitor)
    assert broken.calls["write"] > 1
    done = [stages[0].done_bytes for stages in store.seen if stages]
    assert (done, max(done)) == (sorted(done), len(PLAIN))
    for counter in ("hashed_bytes", "archived_bytes", "uploaded_bytes"):
        assert monitor.counters[counter] == len(PLAIN)
    assert monitor.expected["uploaded_bytes"] == len(PLAIN)


async def test_what_is_sent_again_of_a_known_file_is_told_once(tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(PLAIN)
    store, monitor = ScriptedStore(MemoryStore(OURS)), TallyMonitor()
    store.script("write", Unavailable("cut"), Unavailable("cut"))
    async with GrowingCrew(store, store, 0, SystemClock(), monitor) as crew:
        sender = Sender(store, crew, Impatient(), monitor)
        sender.expect(1, len(PLAIN))
        await sender.send([Wanted(str(tmp_path / "f"), OURS.blob(PLAIN))])
    assert store.calls["write"] == 3
    assert (monitor.counters["uploaded_bytes"], monitor.expected["uploaded_bytes"]) == (len(PLAIN), len(PLAIN))
