"""The local blob store beyond the contract: what it spares, what it bounds, how it heals and what it promises."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path

import pytest

from isolate.cas.block import Absent, Block, ChunkList
from isolate.cas.digest import Blob, Namespace
from isolate.cas.store import Written
from isolate.errors import BlobsMissing, InvalidDigest, InvalidInput, NoSpace, TooLarge, UploadCorrupt
from isolate.monitor import TallyMonitor
from server.stores.blobs import LocalBlobStore, LocalBlobStores
from server.stores.limits import BlobLimits
from server.stores.open import open_blob_stores
from server.stores.packs import TRUST_S
from server.stores.sqlite_index import BlockRow
from tests.clock import ManualClock
from tests.pack_faults import FaultyFiles
from tests.records import blob_of, block_of, stream

NAMESPACE = Namespace.parse("blake3-zstd")
LIMITS = BlobLimits(min_free_bytes=0)


class Site:
    """A directory with an open store, its clock and its disk."""

    def __init__(self, root: Path) -> None:
        self.root, self.files, self.clock, self.monitor = root, FaultyFiles(), ManualClock(), TallyMonitor()

    async def open(self, limits: BlobLimits = LIMITS) -> None:
        self.stores = await LocalBlobStores.open(self.root, self.clock, self.monitor, limits, files=self.files)

    @property
    def store(self) -> LocalBlobStore:
        return self.stores.namespace(NAMESPACE)

    @property
    def commits(self) -> int:
        return self.monitor.counters["committed_transactions"]

    @property
    def pack(self) -> Path:
        (path,) = self.root.rglob("*.pack")
        return path

    async def put(self, *contents: bytes) -> Written:
        return await self.store.write(stream(block_of(*contents)))

    async def read(self, *blobs: Blob) -> list[Block | ChunkList | Absent]:
        return [record async for record in self.store.read(blobs)]


@pytest.fixture
async def site(tmp_path: Path) -> AsyncIterator[Site]:
    site = Site(tmp_path)
    await site.open()
    yield site
    assert (site.stores.ingest.used_bytes, site.stores.egress.used_bytes) == (0, 0)
    await site.stores.close()


def contents(count: int, size: int = 1000, seed: int = 1) -> list[bytes]:
    return [random.Random(f"{seed} {number}").randbytes(size) for number in range(count)]


# What is spared


async def test_blocks_are_kept_and_served_unchanged(site: Site) -> None:
    block = block_of(*contents(10))
    await site.store.write(stream(block))
    assert site.pack.read_bytes() == block.encode()
    (served,) = await site.read(blob_of(contents(10)[3]), *map(blob_of, contents(10)[:5]))
    assert isinstance(served, Block)
    assert served.encode() == block.encode()


async def test_many_small_writes_share_syncs_and_transactions(site: Site) -> None:
    await site.put(b"warm")
    site.files.calls.clear()
    before = site.commits
    async with asyncio.TaskGroup() as group:
        for content in contents(50):
            group.create_task(site.put(content))
    assert site.files.calls.count("sync") <= 10
    assert site.commits - before <= 10


async def test_a_block_that_is_all_present_costs_no_disk(site: Site) -> None:
    await site.put(b"a", b"b")
    site.files.calls.clear()
    before = site.commits
    assert await site.put(b"b", b"a") == Written(0, 2, 0)
    assert (site.files.calls, site.commits) == ([], before)


async def test_looking_twice_within_an_hour_writes_once(site: Site) -> None:
    await site.put(b"a")
    site.clock.advance(3600)
    before = site.commits
    for _ in range(3):
        assert await site.store.missing([blob_of(b"a")]) == []
    assert site.commits == before + 1


async def test_start_looks_only_at_packs_that_grow(tmp_path: Path) -> None:
    site = Site(tmp_path)
    site.stores = await LocalBlobStores.open(tmp_path, site.clock, site.monitor, LIMITS, rotate_bytes=1)
    for content in contents(5):
        await site.put(content)
    await site.stores.close()
    await site.open()
    assert len(list(tmp_path.rglob("*.pack"))) == 5
    assert site.files.calls == ["length"]
    await site.stores.close()


async def test_of_a_block_hardly_wanted_only_that_is_sent(site: Site) -> None:
    many = contents(100)
    await site.put(*many)
    (sparse,) = await site.read(*map(blob_of, many[10:34]))
    (whole,) = await site.read(*map(blob_of, many[10:35]))
    assert isinstance(sparse, Block)
    assert isinstance(whole, Block)
    assert sparse.entries == tuple(map(blob_of, many[10:34]))
    assert [bytes(content) for _, content in sparse.contents()] == many[10:34]
    assert len(whole.entries) == 100


async def test_leftovers_of_many_blocks_travel_together(site: Site) -> None:
    wanted = []
    for seed in range(20):
        many = contents(20, seed=seed)
        await site.put(*many)
        wanted.append(blob_of(many[7]))
    (block,) = await site.read(*wanted)
    assert isinstance(block, Block)
    assert block.entries == tuple(wanted)


# What is bounded


async def test_bytes_in_flight_are_bounded_and_all_arrive(tmp_path: Path) -> None:
    site = Site(tmp_path)
    await site.open(BlobLimits(min_free_bytes=0, ingest_bytes=100_000, egress_bytes=100_000))
    blocks = [block_of(*contents(20, seed=seed)) for seed in range(30)]
    most = 0

    async def watched() -> AsyncIterator[Block]:
        nonlocal most
        for block in blocks:
            yield block
            most = max(most, site.stores.ingest.used_bytes)

    assert await site.store.write(watched()) == Written(600, 0, 600_000)
    assert 0 < most <= 100_000
    wanted = [blob for block in blocks for blob in block.entries]
    assert len(await site.read(*wanted)) == 30
    await site.stores.close()


async def test_blocks_of_a_silent_sender_do_not_keep_memory_from_others(tmp_path: Path) -> None:
    site, is_sent, goes_on = Site(tmp_path), asyncio.Event(), asyncio.Event()
    await site.open(BlobLimits(min_free_bytes=0, ingest_bytes=100_000))

    async def silent() -> AsyncIterator[Block]:
        yield block_of(*contents(10))
        is_sent.set()
        await goes_on.wait()

    upload = asyncio.ensure_future(site.store.write(silent()))
    await is_sent.wait()
    other = site.stores.namespace(Namespace.parse("blake3-flat"))
    assert await other.write(stream(block_of(*contents(40, seed=2)))) == Written(40, 0, 40_000)
    assert await site.store.missing([blob_of(contents(1)[0])]) == []
    goes_on.set()
    assert await upload == Written(10, 0, 10_000)
    await site.stores.close()


async def test_the_configured_limit_is_an_answer(tmp_path: Path) -> None:
    site = Site(tmp_path)
    await site.open(BlobLimits(min_free_bytes=0, max_bytes=5_000))
    first, second = contents(2, 3000)
    await site.put(first)
    with pytest.raises(NoSpace, match=r"of at most 4\.9 KiB"):
        await site.put(second)
    assert await site.store.missing([blob_of(first), blob_of(second)]) == [blob_of(second)]
    await site.stores.close()
    await site.open(BlobLimits(min_free_bytes=0, max_bytes=5_000))
    with pytest.raises(NoSpace):
        await site.put(second)
    await site.put(b"small")
    await site.stores.close()


async def test_the_last_bytes_of_a_disk_are_not_ours(tmp_path: Path) -> None:
    site = Site(tmp_path)
    await site.open(BlobLimits(min_free_bytes=1 << 60))
    with pytest.raises(NoSpace, match="disk"):
        await site.put(b"a")
    assert await site.store.missing([blob_of(b"a")]) == [blob_of(b"a")]
    await site.stores.close()


async def test_a_cancelled_write_gives_everything_back(site: Site) -> None:
    asked = asyncio.Event()

    async def endless() -> AsyncIterator[Block]:
        for content in contents(5):
            yield block_of(content)
        asked.set()
        await asyncio.Event().wait()

    task = asyncio.ensure_future(site.store.write(endless()))
    await asked.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await site.store.settle()
    assert site.stores.ingest.used_bytes == 0


async def test_a_composed_blob_has_a_limit(tmp_path: Path) -> None:
    site = Site(tmp_path)
    await site.open(BlobLimits(min_free_bytes=0, max_blob_bytes=2000))
    one, two = contents(2)
    await site.put(one, two, b"x")
    await site.store.compose(blob_of(one + two), [blob_of(one), blob_of(two)])
    with pytest.raises(TooLarge):
        await site.store.compose(blob_of(one + two + b"x"), [blob_of(one), blob_of(two), blob_of(b"x")])
    await site.stores.close()


@pytest.mark.parametrize(("promised_s", "kept_s"), [(3599.0, 86400.0), (7200.0, 7199.0)])
def test_a_promise_that_protects_nobody_is_refused(promised_s: float, kept_s: float) -> None:
    with pytest.raises(InvalidInput, match="at least an hour"):
        BlobLimits(promised_s=promised_s, kept_s=kept_s, temporary_kept_s=kept_s)


def test_temporary_namespaces_are_kept_shorter() -> None:
    limits = BlobLimits()
    assert limits.kept_in_s(Namespace.parse("temporary-test")) < limits.kept_in_s(NAMESPACE)


# How it heals


async def test_a_deleted_pack_turns_into_missing_and_can_be_stored_again(site: Site) -> None:
    many = contents(20)
    await site.put(*many)
    site.pack.unlink()
    assert await site.store.missing([blob_of(many[0])]) == []  # seen seconds ago
    site.clock.advance(TRUST_S)
    assert await site.store.missing([blob_of(many[0])]) == [blob_of(many[0])]
    assert await site.put(*many) == Written(20, 0, 20_000)
    assert [type(record) for record in await site.read(*map(blob_of, many))] == [Block]


async def test_a_pack_that_comes_back_is_used_again(site: Site) -> None:
    """A disk that was not mounted for a minute must not cost its content."""
    await site.put(b"a")
    hidden = site.pack.rename(site.root / "hidden")
    site.clock.advance(TRUST_S)
    assert await site.store.missing([blob_of(b"a")]) == [blob_of(b"a")]
    (name, committed) = (await site.stores.index.open_packs())[0]
    assert committed == hidden.stat().st_size
    hidden.rename(site.root / "packs" / name.namespace / f"{name.name}.pack")
    site.clock.advance(TRUST_S)
    assert await site.store.missing([blob_of(b"a")]) == []


async def test_a_composed_blob_lives_and_dies_with_its_chunks(site: Site) -> None:
    one, two = contents(2)
    await site.put(one)
    site.clock.advance(7200)
    await site.put(two)
    whole = blob_of(one + two)
    await site.store.compose(whole, [blob_of(one), blob_of(two)])
    lookup = await site.stores.index.find(NAMESPACE.name, [whole.digest])
    assert {row.touched_h for row in lookup.blocks.values()} == {int(site.clock.now() // 3600) + 1}
    place = (await site.stores.index.find(NAMESPACE.name, [blob_of(one).digest])).places[blob_of(one).digest]
    await site.stores.index.quarantine(place.block, "for the test", 0.0)
    assert await site.store.missing([whole, blob_of(two)]) == [whole]
    assert await site.read(whole) == [Absent((whole.digest,))]
    await site.put(one)
    await site.store.compose(whole, [blob_of(one), blob_of(two)])
    assert await site.store.missing([whole]) == []


async def test_missing_refreshes_the_chunks_of_a_composed_blob(site: Site) -> None:
    one, two = contents(2)
    await site.put(one)
    await site.put(two)
    whole = blob_of(one + two)
    await site.store.compose(whole, [blob_of(one), blob_of(two)])
    site.clock.advance(5 * 3600)
    assert await site.store.missing([whole]) == []
    lookup = await site.stores.index.find(NAMESPACE.name, [whole.digest])
    assert len(lookup.blocks) == 3
    assert {row.touched_h for row in lookup.blocks.values()} == {int(site.clock.now() // 3600) + 1}


async def test_times_round_up(site: Site) -> None:
    """What is asked for at the end of an hour is noted as asked for at the end of that hour, never at its start."""
    await site.put(b"a")
    lookup = await site.stores.index.find(NAMESPACE.name, [blob_of(b"a").digest])
    assert all(row.touched_h * 3600 > site.clock.now() for row in lookup.blocks.values())


async def test_an_index_that_refuses_takes_the_group_back(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    await site.put(b"kept")
    length = site.pack.stat().st_size

    async def full(*_: object) -> None:
        raise NoSpace("index")

    with monkeypatch.context() as patch:
        patch.setattr(site.stores.index, "add", full)
        with pytest.raises(NoSpace, match="index"):
            await site.put(b"lost")
    assert site.pack.stat().st_size == length
    assert await site.put(b"lost") == Written(1, 0, 4)
    assert await site.store.missing([blob_of(b"kept"), blob_of(b"lost")]) == []


async def test_reading_goes_on_where_nothing_can_be_written(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    await site.put(b"a")
    site.clock.advance(3600)

    async def full(*_: object) -> bool:
        raise NoSpace("index")

    monkeypatch.setattr(site.stores.index, "touch", full)
    assert [type(record) for record in await site.read(blob_of(b"a"))] == [Block]
    assert await plain(site, blob_of(b"a")) == b"a"
    assert site.monitor.problems
    with pytest.raises(NoSpace):  # what is not noted is not promised
        await site.store.missing([blob_of(b"a")])


async def test_chunks_of_another_size_than_said_are_refused(site: Site) -> None:
    one, two = contents(2)
    await site.put(one, two)
    with pytest.raises(UploadCorrupt):
        await site.store.compose(blob_of(one + two), [Blob(blob_of(one).digest, 999), Blob(blob_of(two).digest, 1001)])


async def test_a_digest_of_another_length_is_refused(site: Site) -> None:
    with pytest.raises(InvalidDigest):
        await site.store.missing([blob_of(b"a"), Blob(b"short", 1)])


# Plain bytes


async def plain(site: Site, blob: Blob, start: int = 0, stop: int | None = None) -> bytes:
    stop = blob.size if stop is None else stop
    return b"".join([bytes(piece) async for piece in site.store.pieces(blob.digest, start, stop)])


async def test_plain_bytes_of_a_blob_among_others(site: Site) -> None:
    many = contents(10, 400_000)
    await site.put(*many)
    assert await plain(site, blob_of(many[4])) == many[4]
    assert await plain(site, blob_of(many[4]), 299_999, 300_001) == many[4][299_999:300_001]


async def test_plain_bytes_of_a_composed_blob(site: Site) -> None:
    parts = contents(7, 100_000)
    for part in parts:
        await site.put(part)
    whole = b"".join(parts)
    await site.store.compose(blob_of(whole), list(map(blob_of, parts)))
    assert await plain(site, blob_of(whole)) == whole
    for start, stop in [(0, 1), (99_999, 100_001), (100_000, 200_000), (50_000, 650_000), (699_999, 700_000)]:
        assert await plain(site, blob_of(whole), start, stop) == whole[start:stop]


async def test_a_part_of_a_composed_blob_opens_only_its_chunks(site: Site) -> None:
    parts = contents(7, 100_000)
    for part in parts:
        await site.put(part)
    whole = blob_of(b"".join(parts))
    await site.store.compose(whole, list(map(blob_of, parts)))
    site.files.calls.clear()
    await plain(site, whole, 150_000, 250_000)
    assert site.files.calls.count("read") == 3  # the recipe and two chunks


async def test_plain_bytes_of_nothing(site: Site) -> None:
    with pytest.raises(BlobsMissing):
        await plain(site, blob_of(b"never stored"))


# Where it is


@pytest.mark.parametrize("spelling", [str, lambda path: f"file:{path}"])
async def test_a_place_is_a_directory(tmp_path: Path, spelling: Callable[[Path], str]) -> None:
    stores = await open_blob_stores(spelling(tmp_path), ManualClock(), TallyMonitor(), LIMITS)
    await stores.namespace(NAMESPACE).write(stream(block_of(b"a")))
    await stores.close()
    assert (tmp_path / "blobs.sqlite").is_file()


async def test_other_places_are_not_known(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="carrier-pigeon"):
        await open_blob_stores("carrier-pigeon://loft", ManualClock(), TallyMonitor())


async def test_readers_of_one_tree_at_a_time_share_what_one_of_them_has_read(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = contents(30, size=200_000)  # three batches
    for number in range(0, 30, 3):
        await site.put(*wanted[number : number + 3])
    loaded: list[int] = []
    load = site.stores.presence.load

    async def counted(rows: Sequence[BlockRow]) -> tuple[list[BlockRow], list[bytes | None]]:
        loaded.extend(row.id for row in rows)
        return await load(rows)

    monkeypatch.setattr(site.stores.presence, "load", counted)
    blobs = [blob_of(content) for content in wanted]
    found = await asyncio.gather(*[site.read(*blobs) for _ in range(5)])
    assert [record for record in found[0] if isinstance(record, Block)] == found[1] == found[4]
    assert len(found[0]) == 10
    assert sorted(loaded) == sorted(set(loaded))
    # Nobody reads any more, so nothing is held that the disk would not give.
    flipped = bytearray(site.pack.read_bytes())
    flipped[300] ^= 1
    site.pack.write_bytes(bytes(flipped))
    assert [type(record) for record in await site.read(*blobs)] == [Block] * 9 + [Absent]


async def test_of_what_readers_share_little_is_kept_and_part_of_a_record_is_made_anew(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("server.stores.reading.SHARED_BYTES", 700_000)  # of eight times as much
    wanted = contents(30, size=200_000)
    await site.store.write(stream(*[block_of(*wanted[number : number + 5]) for number in range(0, 30, 5)]))
    blobs = [blob_of(content) for content in wanted]
    whole, part, other = await asyncio.gather(site.read(*blobs), site.read(*blobs[::5]), site.read(*blobs))
    assert whole == other
    # One of five contents each, with nothing else.
    assert [blob for record in part if isinstance(record, Block) for blob in record.entries] == blobs[::5]
