"""What the maintenance commands say, on a data directory made without a server."""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from isolate.cas.digest import Namespace
from isolate.clock import SystemClock
from isolate.errors import NoSpace
from isolate.monitor import NullMonitor
from server.maintenance import check_data, collect_garbage, print_stats
from server.stores.blobs import LocalBlobStores
from server.stores.datadir import DataDirectory
from server.stores.janitor import Janitor, Tidied
from server.stores.limits import BlobLimits
from server.stores.rebuild import Rebuild, Rebuilt
from server.stores.sqlite_upkeep import Freed
from tests.records import block_of, stream

LIMITS = BlobLimits(min_free_bytes=0)


@pytest.fixture
def data(tmp_path: Path) -> Iterator[Path]:
    """A data directory with one pack, of one record of 3 KiB."""

    async def fill() -> None:
        stores = await LocalBlobStores.open(tmp_path / "data", SystemClock(), NullMonitor(), LIMITS)
        content = random.Random(1).randbytes(3072)
        await stores.namespace(Namespace.parse("blake3-zstd")).write(stream(block_of(content)))
        await stores.close()

    DataDirectory.open(tmp_path / "data").close()
    asyncio.run(fill())
    yield tmp_path / "data"
    assert not (tmp_path / "data" / "running").exists()


def checked(data: Path) -> tuple[int, list[str]]:
    said: list[str] = []
    return check_data(data, said.append, read_share=0.0, seed=1, rebuild=False), said


def stats(data: Path) -> list[str]:
    said: list[str] = []
    print_stats(data, said.append, as_json=False)
    return said


def test_a_pack_that_is_gone_is_not_on_disk(data: Path) -> None:
    assert stats(data)[0] == f"{data}: 1 pack, 3.1 KiB on disk, 3.1 KiB alive, 0 B dead"
    next(data.rglob("*.pack")).unlink()
    status, said = checked(data)
    assert status == 1
    assert said[-1].endswith("1 bad record quarantined, 1 pack shorter than what was stored")
    assert stats(data)[:2] == [
        f"{data}: 0 packs, 0 B on disk, 0 B alive, 0 B dead",
        "1 pack gone from the disk: its contents count as missing",
    ]
    lines: list[str] = []
    print_stats(data, lines.append, as_json=True)
    found = json.loads(lines[0])
    assert (found["packs"], found["missing_packs"], found["pack_bytes"], found["dead_bytes"]) == (0, 1, 0, 0)


@pytest.mark.parametrize(("dry_run", "words"), [(True, "would still be"), (False, "still")])
def test_what_stays_above_the_limits_is_said(data: Path, words: str, *, dry_run: bool) -> None:
    said: list[str] = []
    collect_garbage(data, BlobLimits(min_free_bytes=0, max_bytes=1024), said.append, dry_run=dry_run)
    (line,) = said
    assert line.endswith(f" 0 packs: 0 B gained; {words} 2.1 KiB above the limits")


@pytest.mark.parametrize(
    ("tidied", "said"),
    [
        (Tidied(Freed(1, 2048), 1, 3072, 0), "1 block (2.0 KiB); compacted 1 pack: 3.0 KiB gained"),
        (
            Tidied(Freed(2, 2048), 2, 6144, 2048),
            "2 blocks (2.0 KiB); compacted 2 packs: 4.0 KiB gained (6.0 KiB deleted, 2.0 KiB of it copied first)",
        ),
        (
            Tidied(Freed(), 0, 0, 1024),
            "0 blocks (0 B); compacted 0 packs: 1.0 KiB more in use (0 B deleted, 1.0 KiB copied)",
        ),
        (
            Tidied(Freed(), 0, 0, 0, cramped_packs=2),
            "0 blocks (0 B); compacted 0 packs: 0 B gained; 2 packs kept, for there is no room to copy what is alive",
        ),
    ],
)
def test_what_was_gained_is_said(data: Path, monkeypatch: pytest.MonkeyPatch, tidied: Tidied, said: str) -> None:
    async def run(_: Janitor, __: float) -> Tidied:
        return tidied

    lines: list[str] = []
    monkeypatch.setattr(Janitor, "run", run)
    collect_garbage(data, LIMITS, lines.append, dry_run=False)
    assert lines == [f"Evicted {said}"]


def test_a_disk_too_full_to_note_what_goes_is_told_what_helps(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def run(_: Janitor, __: float) -> Tidied:
        raise NoSpace("No space left for blobs.sqlite")

    monkeypatch.setattr(Janitor, "run", run)
    with pytest.raises(NoSpace, match=r"noting what goes needs some: free 4\.0 MiB in another way first"):
        collect_garbage(data, LIMITS, lambda _: None, dry_run=False)


def test_rebuilding_takes_the_reserve_when_there_is_no_other_room(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reserve, real = data / "reserve", Rebuild.run

    async def run(rebuild: Rebuild) -> Rebuilt:
        if reserve.exists():
            raise NoSpace("No space left for blobs.sqlite.new")
        return await real(rebuild)

    reserve.write_bytes(b"room")
    monkeypatch.setattr(Rebuild, "run", run)
    said: list[str] = []
    assert check_data(data, said.append, read_share=0.0, seed=1, rebuild=True) == 0
    assert said[0] == "Rebuilt the index from 1 pack: 1 record, 1 blob, 0 bad ranges"
    assert not reserve.exists()
