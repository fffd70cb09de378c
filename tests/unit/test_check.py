"""Checking and rebuilding: what is bad is found and set aside, what the packs still say is restored."""

from __future__ import annotations

import hashlib
import os
import random
import sqlite3
import zlib
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from isolate.cas.block import Absent, Block
from isolate.cas.digest import Algorithm, Blob, Namespace
from isolate.errors import IndexCorrupt, NoSpace
from isolate.monitor import TallyMonitor
from server.stores.blobs import LocalBlobStore, LocalBlobStores
from server.stores.check import Check, Checked
from server.stores.janitor import Janitor
from server.stores.limits import BlobLimits
from server.stores.old_blobs import OldBlobs
from server.stores.pack_scan import PackReader
from server.stores.rebuild import Rebuild, Rebuilt
from server.stores.records import wrong_in
from server.stores.sqlite_index import BlobIndex
from tests.clock import ManualClock
from tests.records import blob_of, block_of, stream

NAMESPACE, OLD = Namespace.parse("blake3-zstd"), Namespace.parse("default-gzip")
GROUPS = [[random.Random(f"{group} {number}").randbytes(2000) for number in range(4)] for group in range(6)]
ALL = [content for group in GROUPS for content in group]
WHOLE = b"".join(GROUPS[1] + GROUPS[4])


class Site:
    def __init__(self, root: Path) -> None:
        self.root, self.clock, self.monitor = root, ManualClock(), TallyMonitor()
        self.said: list[str] = []

    async def open(self) -> None:
        limits = BlobLimits(min_free_bytes=0)
        self.stores = await LocalBlobStores.open(self.root, self.clock, self.monitor, limits, rotate_bytes=20_000)

    @property
    def store(self) -> LocalBlobStore:
        return self.stores.namespace(NAMESPACE)

    @property
    def packs(self) -> list[Path]:
        return sorted((self.root / "packs" / NAMESPACE.name).glob("*.pack"))

    async def fill(self) -> None:
        for group in GROUPS:
            await self.store.write(stream(block_of(*group)))
            self.clock.advance(1)  # names of packs are in the order of time, to the millisecond
        await self.store.compose(blob_of(WHOLE), [blob_of(content) for content in GROUPS[1] + GROUPS[4]])

    async def check(self, read_share: float = 1.0, seed: int = 1) -> Checked:
        """Check as the command does: on a store opened anew."""
        await self.stores.close()
        await self.open()
        check = Check(self.stores, self.root, self.said.append, read_share, random.Random(seed), self.clock.now())
        return await check.run()

    async def rebuild(self) -> Rebuilt:
        await self.stores.close()
        rebuilt = await Rebuild(self.root, self.clock, self.said.append).run()
        await self.open()
        return rebuilt

    async def contents(self) -> dict[Blob, bytes]:
        """Read everything there is, composed blobs too."""
        found: dict[Blob, bytes] = {}
        async for record in self.store.read(list(map(blob_of, ALL))):
            if isinstance(record, Block):
                found.update((blob, bytes(content)) for blob, content in record.contents())
            else:
                assert isinstance(record, Absent)
        whole = blob_of(WHOLE)
        if await self.store.missing([whole]) == []:
            found[whole] = b"".join([bytes(piece) async for piece in self.store.pieces(whole.digest, 0, whole.size)])
        return found

    async def statement(self, text: str) -> None:
        await self.stores.close()
        with sqlite3.connect(self.root / "blobs.sqlite") as connection:
            connection.execute(text)
        connection.close()
        await self.open()


@pytest.fixture
async def site(tmp_path: Path) -> AsyncIterator[Site]:
    site = Site(tmp_path)
    await site.open()
    await site.fill()
    yield site
    await site.stores.close()


EVERYTHING = {blob_of(content): content for content in [*ALL, WHOLE]}


def flip(pack: Path, at: int) -> None:
    data = bytearray(pack.read_bytes())
    data[at] ^= 0x10
    pack.write_bytes(bytes(data))


async def test_a_sound_store_has_no_problems(site: Site) -> None:
    checked = await site.check()
    assert (checked.packs, checked.records, checked.problems, site.said) == (len(site.packs), 7, 0, [])
    assert checked.read_bytes == sum(pack.stat().st_size for pack in site.packs)
    assert await site.contents() == EVERYTHING


async def test_headers_alone_are_a_quick_look(site: Site) -> None:
    checked = await site.check(read_share=0.0)
    assert (checked.records, checked.read_bytes, checked.problems) == (7, 0, 0)
    some = await site.check(read_share=0.5)
    assert 0 < some.read_bytes < sum(pack.stat().st_size for pack in site.packs)


async def test_a_share_of_few_records_is_at_least_one_of_each_pack(site: Site) -> None:
    for seed in range(5):
        checked = await site.check(read_share=0.01, seed=seed)
        assert checked.whole_records == len(site.packs)
        assert checked.read_bytes > 0


async def test_one_seed_chooses_the_same_records_and_others_choose_others(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: set[bytes] = set()

    def recorded(record: bytes, algorithm: Algorithm) -> str | None:
        read.add(record)
        return wrong_in(record, algorithm)

    monkeypatch.setattr("server.stores.check.wrong_in", recorded)

    async def chosen(seed: int) -> set[bytes]:
        read.clear()
        await site.check(read_share=0.01, seed=seed)
        return set(read)

    first = await chosen(1)
    assert first == await chosen(1)
    assert len(first) < len(first.union(*[await chosen(seed) for seed in range(2, 12)])) == 7


@pytest.mark.parametrize("action", ["delete", "truncate", "flip"])
@pytest.mark.parametrize("place", ["record", "pack tail", "index row"])
async def test_damage_is_found_set_aside_and_can_be_stored_again(site: Site, action: str, place: str) -> None:
    pack = site.packs[0]
    lengths = [len(block_of(*group).encode()) for group in GROUPS[:2]]
    if place == "index row":
        await site.statement(
            {
                "delete": f"DELETE FROM blob WHERE digest = x'{blob_of(ALL[5]).digest.hex()}'",
                "truncate": "UPDATE block SET length = length - 1 WHERE id = 2",
                "flip": "UPDATE blob SET entry = entry + 1 WHERE block = 2",
            }[action]
        )
    elif action == "flip":
        flip(pack, lengths[0] // 2 if place == "record" else pack.stat().st_size - 5)
    elif action == "truncate":
        os.truncate(pack, lengths[0] // 2 if place == "record" else pack.stat().st_size - 5)
    elif place == "record":
        data = pack.read_bytes()
        pack.write_bytes(data[lengths[0] :])
    else:
        pack.unlink()
    checked = await site.check()
    assert checked.bad_records + checked.wrong_rows > 0
    assert len(site.said) >= checked.problems > 0
    found = await site.contents()
    assert all(found[blob] == EVERYTHING[blob] for blob in found)
    if place == "index row" and action != "truncate":
        assert found == EVERYTHING  # the pack knows what the index forgot
    again = await site.check()
    assert (again.bad_records, again.wrong_rows) == (0, 0)
    await site.fill()
    assert await site.contents() == EVERYTHING
    assert (await site.check()).incomplete_blobs == 0


async def test_a_pack_that_is_gone_is_a_problem_until_nothing_is_to_be_in_it(site: Site) -> None:
    pack = site.packs[0]
    pack.unlink()
    assert (await site.check()).short_packs == 1
    assert (again := await site.check()).short_packs == again.problems - again.incomplete_blobs == 1
    assert sum(line.startswith(f"Pack {pack} has 0 bytes, ") for line in site.said) == 2
    await Janitor(site.stores, site.clock).run(dead_share=0.1)
    assert (await site.check()).short_packs == 0


async def test_looking_at_a_sound_store_writes_nothing(site: Site) -> None:
    assert (await site.check()).problems == 0
    assert (site.root / "blobs.sqlite-wal").stat().st_size == 0


async def test_a_full_disk_takes_no_note_of_what_is_reported_all_the_same(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def full(*_: object) -> None:
        raise NoSpace("No space left for blobs.sqlite")

    flip(site.packs[0], 100)
    with monkeypatch.context() as patch:
        patch.setattr(BlobIndex, "quarantine", full)
        checked = await site.check()
    assert (checked.bad_records, checked.unnoted, len(site.said)) == (1, 1, 1)
    checked = await site.check()
    assert (checked.bad_records, checked.unnoted) == (1, 0)


async def test_a_pipe_in_place_of_a_pack_is_a_pack_that_is_gone(site: Site) -> None:
    pipe = site.packs[0]
    size = pipe.stat().st_size
    pipe.unlink()
    os.mkfifo(pipe)
    checked = await site.check()
    assert site.said[0] == f"Pack {pipe} is no regular file: it has no bytes, {size} were stored"
    assert (checked.short_packs, checked.bad_records > 0) == (1, True)
    await site.fill()
    assert await site.contents() == EVERYTHING
    await Janitor(site.stores, site.clock, work_share=1.0).run(0.1)
    assert not pipe.exists()
    assert await site.contents() == EVERYTHING


async def test_a_pipe_in_place_of_a_pack_is_left_alone_by_rebuilding(site: Site) -> None:
    pipe = site.packs[0]
    pipe.unlink()
    os.mkfifo(pipe)
    rebuilt = await site.rebuild()
    assert (rebuilt.bad_ranges, site.said) == (1, [f"Pack {pipe} is no regular file and is left alone"])
    assert (await site.check()).unknown_packs == 1
    assert site.said[-1] == f"Pack {pipe} is not in the index (it is no regular file: remove it)"
    await site.fill()
    assert await site.contents() == EVERYTHING


async def test_a_pipe_in_place_of_the_index_is_a_damaged_index(site: Site) -> None:
    await site.stores.close()
    index = site.root / "blobs.sqlite"
    index.unlink()
    os.mkfifo(index)
    with pytest.raises(IndexCorrupt, match=r"blobs\.sqlite is damaged: it is no regular file"):
        await site.open()
    await Rebuild(site.root, site.clock, site.said.append).run()
    await site.open()
    assert await site.contents() == EVERYTHING


async def test_a_bad_record_keeps_its_bytes(site: Site) -> None:
    before = site.packs[0].stat().st_size
    flip(site.packs[0], 300)
    assert (await site.check()).bad_records == 1
    assert site.packs[0].stat().st_size == before
    assert (await site.stores.upkeep.quarantined()).blocks == 1
    assert "Record at 0 of pack" in site.said[0]


async def test_rotten_content_under_a_right_header_is_found_by_reading_only(site: Site) -> None:
    flip(site.packs[0], 2000)
    assert (await site.check(read_share=0.0)).problems == 0
    assert (await site.check()).bad_records == 1


async def test_a_part_that_the_index_forgot_is_restored(site: Site) -> None:
    """Else the composed blob would be called present while a chunk of it is gone."""
    await site.statement("DELETE FROM recipe WHERE part = (SELECT MIN(part) FROM recipe)")
    checked = await site.check()
    assert (checked.wrong_rows, checked.bad_records) == (1, 0)
    assert (await site.check()).problems == 0


async def test_a_composed_blob_without_a_chunk_is_named(site: Site) -> None:
    await site.statement("DELETE FROM block WHERE id = 2")
    checked = await site.check()
    assert checked.incomplete_blobs == 1
    assert f"Composed blob {blob_of(WHOLE).digest.hex()} misses a chunk: it counts as missing" in site.said


async def test_unknown_packs_are_named_and_left_alone(site: Site) -> None:
    stranger = site.packs[0].with_name("0190a000-0000-7000-8000-000000000000.pack")
    stranger.write_bytes(block_of(b"a stranger").encode())
    checked = await site.check()
    assert (checked.unknown_packs, checked.bad_records) == (1, 0)
    assert stranger.exists()
    await site.rebuild()
    assert await site.store.missing([blob_of(b"a stranger")]) == []


async def test_rows_of_what_was_evicted_are_dropped(site: Site) -> None:
    await site.statement("DELETE FROM block WHERE id = 1")
    checked = await site.check()
    assert (checked.stale_rows, checked.wrong_rows) == (4, 0)
    assert (await site.check()).stale_rows == 0


async def test_a_damaged_index_is_an_error_that_names_it(site: Site) -> None:
    await site.stores.close()
    index = site.root / "blobs.sqlite"
    data = bytearray(index.read_bytes())
    data[4096:12288] = b"\xa5" * 8192
    index.write_bytes(bytes(data))
    try:
        with pytest.raises(IndexCorrupt, match=r"blobs\.sqlite is damaged"):
            await site.check()
    finally:
        await site.rebuild()
    assert await site.contents() == EVERYTHING


# Rebuilding


async def test_a_rebuilt_index_gives_the_same_answers(site: Site) -> None:
    rebuilt = await site.rebuild()
    assert (rebuilt.packs, rebuilt.records, rebuilt.blobs, rebuilt.bad_ranges) == (len(site.packs), 7, 25, 0)
    assert await site.contents() == EVERYTHING
    assert await site.store.missing([*EVERYTHING, blob_of(b"never")]) == [blob_of(b"never")]
    assert (await site.check()).problems == 0
    assert (site.root / "blobs.sqlite.replaced-1").exists()
    await site.rebuild()
    assert (site.root / "blobs.sqlite.replaced-2").exists()


@pytest.mark.parametrize("lost", ["deleted", "nonsense", "empty"])
async def test_packs_alone_are_enough(site: Site, lost: str) -> None:
    await site.stores.close()
    for file in site.root.glob("blobs.sqlite*"):
        file.unlink()
    if lost != "deleted":
        (site.root / "blobs.sqlite").write_bytes(b"nonsense" * 1000 if lost == "nonsense" else b"")
    await Rebuild(site.root, site.clock, site.said.append).run()
    await site.open()
    assert await site.contents() == EVERYTHING


async def test_touch_times_of_a_rebuilt_index_are_now(site: Site) -> None:
    site.clock.advance(30 * 86400)
    await site.rebuild()
    assert (await Janitor(site.stores, site.clock).run()).evicted.blocks == 0
    assert await site.contents() == EVERYTHING


async def test_rebuilding_after_eviction_and_compaction(site: Site) -> None:
    site.clock.advance(8 * 86400)
    alive = [blob_of(content) for content in GROUPS[2] + GROUPS[5]]
    await site.store.missing(alive)
    await Janitor(site.stores, site.clock).run(dead_share=0.1)
    await site.rebuild()
    assert await site.store.missing(alive) == []
    assert (await site.check()).problems == 0
    found = await site.contents()
    assert all(found[blob] == EVERYTHING[blob] for blob in found)


async def test_copies_of_a_compaction_that_was_interrupted_count_once(site: Site) -> None:
    copy = site.packs[0].with_name("ffffffff-0000-7000-8000-000000000000.pack")
    copy.write_bytes(site.packs[0].read_bytes())
    rebuilt = await site.rebuild()
    assert rebuilt.blobs == 25
    assert (await site.check()).problems == 0
    assert await site.contents() == EVERYTHING


@pytest.mark.parametrize("at", [0, 10, 40, 300])
async def test_one_rotten_record_hides_nothing_behind_it(site: Site, at: int) -> None:
    """Whether the magic, the lengths, an entry or the content is rotten."""
    flip(site.packs[0], at)
    rebuilt = await site.rebuild()
    assert (rebuilt.bad_ranges, rebuilt.records) == (1, 6)
    assert len(site.said) == 1
    lost = {blob_of(content) for content in GROUPS[0]}
    assert await site.contents() == {blob: content for blob, content in EVERYTHING.items() if blob not in lost}
    assert (await site.stores.upkeep.quarantined()).blocks == 1


async def test_a_torn_tail_and_foreign_bytes_are_noted(site: Site) -> None:
    with site.packs[-1].open("ab") as pack:
        pack.write(b"IBK1" * 3 + block_of(b"torn").encode()[:-3])
    rebuilt = await site.rebuild()
    assert (rebuilt.bad_ranges, rebuilt.blobs) == (1, 25)
    assert await site.contents() == EVERYTHING


async def test_directories_that_are_no_namespace_are_left_alone(site: Site) -> None:
    (site.root / "packs" / "not a namespace").mkdir()
    await site.rebuild()
    assert "is left alone" in site.said[0]


async def test_nothing_is_replaced_when_rebuilding_fails(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    await site.stores.close()
    before = (site.root / "blobs.sqlite").read_bytes()

    def fail(*_: object) -> bytes:
        raise OSError(5, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr(PackReader, "read", fail)
        with pytest.raises(OSError, match="Input/output"):
            await Rebuild(site.root, site.clock, site.said.append).run()
    assert (site.root / "blobs.sqlite").read_bytes() == before
    assert not list(site.root.glob("*.new*"))
    await site.open()
    assert await site.contents() == EVERYTHING


# Old bytes


def old_content(megabytes: int) -> tuple[Blob, bytes]:
    plain = random.Random(megabytes).randbytes(megabytes << 20)
    return Blob(hashlib.sha1(plain, usedforsecurity=False).digest(), len(plain)), zlib.compress(plain, 1)


async def pieces(data: bytes) -> AsyncIterator[bytes]:
    for start in range(0, len(data), 4 << 20):
        yield data[start : start + (4 << 20)]


async def test_old_bytes_are_checked_and_rebuilt_with_all_their_segments(site: Site) -> None:
    encoded: dict[Blob, bytes] = {}
    old = OldBlobs(site.stores, OLD)
    for megabytes in (1, 9):
        blob, data = old_content(megabytes)
        encoded[blob] = data
        await old.store(blob, pieces(data), len(data), bulk=True)
    await old.settle()
    for _ in range(2):
        assert (await site.check()).problems == 0
        old = OldBlobs(site.stores, OLD)
        found = await old.find([blob.digest for blob in encoded])
        for blob, data in encoded.items():
            segments = [bytes(segment.data) async for segment in old.segments(found[blob.digest])]
            assert b"".join(segments) == data
        await site.rebuild()


async def test_old_bytes_without_a_segment_are_not_restored(site: Site) -> None:
    blob, data = old_content(9)
    old = OldBlobs(site.stores, OLD)
    await old.store(blob, pieces(data), len(data), bulk=True)
    await old.settle()
    pack = min((site.root / "packs" / "default-gzip~old").glob("*.pack"))
    flip(pack, 1000)
    assert (await site.rebuild()).bad_ranges == 1
    assert await OldBlobs(site.stores, OLD).find([blob.digest]) == {}
