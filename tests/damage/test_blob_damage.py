"""Damage behind the server's back: never a wrong byte, never an error for ever, always storable again."""

from __future__ import annotations

import errno
import os
import random
import sqlite3
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from isolate.cas.block import Absent, Block, ChunkList
from isolate.cas.digest import Blob, Namespace
from isolate.errors import BlobsMissing, ChunksMissing, IsolateError
from isolate.monitor import TallyMonitor
from server.stores.blobs import LocalBlobStore, LocalBlobStores
from server.stores.limits import BlobLimits
from server.stores.packs import TRUST_S
from tests.clock import ManualClock
from tests.pack_faults import FaultyFiles
from tests.records import blob_of, block_of, stream

NAMESPACE = Namespace.parse("blake3-zstd")
GROUPS = [[random.Random(f"{group} {number}").randbytes(2000) for number in range(4)] for group in range(3)]
ALL = [content for group in GROUPS for content in group]
WHOLE = b"".join(GROUPS[1])
VICTIM = blob_of(GROUPS[1][2])  # in the second of three blocks; a chunk of WHOLE


class Site:
    def __init__(self, root: Path) -> None:
        self.root, self.files, self.clock, self.monitor = root, FaultyFiles(), ManualClock(), TallyMonitor()

    async def open(self) -> None:
        limits = BlobLimits(min_free_bytes=0)
        self.stores = await LocalBlobStores.open(self.root, self.clock, self.monitor, limits, files=self.files)

    @property
    def store(self) -> LocalBlobStore:
        return self.stores.namespace(NAMESPACE)

    async def fill(self) -> None:
        """Store everything there is; whatever is present already does not matter."""
        await refill(self)
        await self.store.compose(blob_of(WHOLE), list(map(blob_of, GROUPS[1])))

    async def contents(self) -> dict[Blob, bytes]:
        """Read everything there is and return what came; each content is verified."""
        found: dict[Blob, bytes] = {}
        absent: set[bytes] = set()
        recipes = 0
        async for record in self.store.read(list(map(blob_of, [*ALL, WHOLE]))):
            match record:
                case Block():
                    found.update((blob, bytes(content)) for blob, content in record.contents())
                case ChunkList():
                    assert record == ChunkList(blob_of(WHOLE), tuple(map(blob_of, GROUPS[1])))
                    recipes += 1
                case Absent(digests):
                    absent.update(digests)
        assert {digest for digest, _ in found}.isdisjoint(absent)
        assert recipes + (blob_of(WHOLE).digest in absent) == 1
        return found


@pytest.fixture
async def site(tmp_path: Path) -> AsyncIterator[Site]:
    site = Site(tmp_path)
    await site.open()
    await site.fill()
    yield site
    await site.stores.close()


async def damage(site: Site, action: str, place: str) -> None:
    """Delete, truncate or flip a record, the tail of a pack, or an index row."""
    (pack,) = site.root.rglob("*.pack")
    if place == "index row":
        await site.stores.close()
        with sqlite3.connect(site.root / "blobs.sqlite") as connection:
            connection.execute(
                {
                    "delete": "DELETE FROM block WHERE id = 2",
                    "truncate": "UPDATE block SET length = length - 1 WHERE id = 2",
                    "flip": "UPDATE blob SET entry = entry + 1",
                }[action]
            )
        connection.close()
        await site.open()
        return
    records = [block_of(*group).encode() for group in GROUPS]
    start, length = len(records[0]), len(records[1])
    if place == "pack tail":
        start, length = sum(map(len, records[:2])), len(records[2])
    if action == "flip":
        with pack.open("r+b") as file:
            file.seek(start + length // 2)
            byte = file.read(1)
            file.seek(start + length // 2)
            file.write(bytes([byte[0] ^ 0x10]))
    elif action == "truncate":
        os.truncate(pack, start + length // 2)
    elif place == "record":
        data = pack.read_bytes()
        pack.write_bytes(data[:start] + data[start + length :])
    else:
        pack.unlink()
    site.clock.advance(TRUST_S)


MATRIX = [
    (action, place) for action in ("delete", "truncate", "flip") for place in ("record", "pack tail", "index row")
]


@pytest.mark.parametrize(("action", "place"), MATRIX)
async def test_damage_is_absent_then_missing_then_stored_again(site: Site, action: str, place: str) -> None:
    await damage(site, action, place)
    found = await site.contents()
    assert all(found[blob] == content for content in ALL if (blob := blob_of(content)) in found)
    gone = [blob_of(content) for content in ALL if blob_of(content) not in found]
    assert gone
    # What a reader was told is absent is missing from then on, so that the next archive brings it back.
    missing = await site.store.missing(list(map(blob_of, [*ALL, WHOLE])))
    assert [blob for blob in missing if blob != blob_of(WHOLE)] == gone
    await site.fill()
    assert await site.store.missing(list(map(blob_of, [*ALL, WHOLE]))) == []
    assert await site.contents() == {blob_of(content): content for content in ALL}


@pytest.mark.parametrize(("action", "place"), MATRIX)
async def test_single_blobs_of_a_damaged_store_are_right_or_absent(site: Site, action: str, place: str) -> None:
    await damage(site, action, place)
    for content in [*ALL, WHOLE]:
        blob = blob_of(content)
        try:
            data = b"".join([bytes(piece) async for piece in site.store.pieces(blob.digest, 0, blob.size)])
        except BlobsMissing:
            continue
        assert data == content


@pytest.mark.parametrize(("action", "place"), MATRIX)
async def test_composing_on_a_damaged_store_works_or_names_chunks(site: Site, action: str, place: str) -> None:
    await damage(site, action, place)
    blobs = [blob_of(content) for content in reversed(ALL)]
    whole = blob_of(b"".join(reversed(ALL)))
    for _ in range(3):  # chunks known to be gone are named first; whether the others are good shows in reading them
        named: set[bytes] = set()
        try:
            await site.store.compose(whole, blobs)
        except ChunksMissing as error:
            named.update(error.digests)
        assert named <= {blob.digest for blob in await site.store.missing(blobs)}
        await refill(site)
    assert await site.store.missing([whole]) == []


async def refill(site: Site) -> None:
    """Store again what is missing, as an archive would."""
    for group in GROUPS:
        await site.store.write(stream(block_of(*group)))


async def test_a_bad_record_is_set_aside_counted_and_its_bytes_kept(site: Site) -> None:
    (pack,) = site.root.rglob("*.pack")
    await damage(site, "flip", "record")
    length = pack.stat().st_size
    await site.contents()
    assert site.monitor.counters["quarantined_records"] == 1
    assert len(site.monitor.problems) == 1
    assert pack.stat().st_size == length
    await site.contents()
    assert site.monitor.counters["quarantined_records"] == 1


async def test_a_cut_pack_is_not_continued_after_a_restart(site: Site) -> None:
    """Its old offsets must not come to name new records."""
    await site.stores.close()
    (pack,) = site.root.rglob("*.pack")
    os.truncate(pack, 10)
    await site.open()
    await site.fill()
    assert pack.stat().st_size == 10
    assert await site.contents() == {blob_of(content): content for content in ALL}


async def test_a_tail_nobody_acknowledged_is_dropped(site: Site) -> None:
    await site.stores.close()
    (pack,) = site.root.rglob("*.pack")
    content = pack.read_bytes()
    pack.write_bytes(content + block_of(b"never acknowledged").encode()[:-5])
    await site.open()
    assert pack.read_bytes() == content
    assert await site.contents() == {blob_of(content): content for content in ALL}


async def test_a_damaged_index_says_so_in_one_line(site: Site) -> None:
    await site.stores.close()
    (site.root / "blobs.sqlite").write_bytes(b"nonsense" * 1000)
    with pytest.raises(IsolateError, match=r"blobs\.sqlite is damaged"):
        await site.open()
    (site.root / "blobs.sqlite").unlink()
    await site.open()


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO])
async def test_any_system_call_may_fail(tmp_path: Path, code: int) -> None:
    """Fail the first, second, … call of the disk: what was acknowledged stays, and the store goes on afterwards."""
    failures = 0
    for call in range(1, 100):
        (tmp_path / f"{call}").mkdir()
        site = Site(tmp_path / f"{call}")
        await site.open()
        await site.store.write(stream(block_of(*GROUPS[0])))
        site.files.fail_any(code, call)
        acknowledged = list(GROUPS[0])
        for group in GROUPS[1:]:
            try:
                await site.store.write(stream(block_of(*group)))
                acknowledged += group
            except IsolateError:
                failures += 1
        try:
            found = await site.contents()
        except IsolateError:
            failures += 1
            found = await site.contents()
        lost = [content for content in acknowledged if found.get(blob_of(content)) != content]
        assert not lost or site.files.failed == "read"  # what cannot be read is absent
        finished = site.files.is_armed
        await site.stores.close()
        await site.open()
        await site.fill()
        assert await site.contents() == {blob_of(content): content for content in ALL}
        await site.stores.close()
        if finished:
            break
    else:
        pytest.fail("the failures never came to an end")
    assert failures > 3
