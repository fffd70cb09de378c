"""isolate.archive and isolate.pipeline: what reaches the store, in which order, and when the world moves."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from isolate import crew, sender, slab, split
from isolate.archive import ArchiveOptions, archive_file, archive_files, archive_tree
from isolate.archived import Archived
from isolate.cas.block import Block, ChunkList
from isolate.cas.digest import Blob, Namespace
from isolate.cas.memory import MemoryStore
from isolate.cas.store import BlobStore, Written
from isolate.cas.wire import CHUNKED_ABOVE_BYTES, StoreInfo
from isolate.entries import Entry, Kind
from isolate.errors import FileChanged, InvalidInput, Refused, Unavailable
from isolate.hashing import FileReader
from isolate.isolated import Manifest, loads
from isolate.monitor import NullMonitor, TallyMonitor
from isolate.parts import Parts
from isolate.retry import BUSY_TOTAL_S
from isolate.scan import Found, stamp_of
from isolate.selection import Variables, select
from isolate.statcache import StatCache
from tests.clock import ManualClock
from tests.faults import ScriptedStore
from tests.trees import Executable, Link, Tree, write_tree

OURS = Namespace.parse("blake3-zstd")
TREE: Tree = {"a": b"hello", "b": {"c": b"hello", "x": Executable(b"#!/bin/sh"), "e": {}}, "empty": b"", "l": Link("a")}


def options(**changes: object) -> ArchiveOptions:
    return ArchiveOptions(**{"clock": ManualClock(), **changes})  # type: ignore[arg-type]


async def archive(root: Path, store: BlobStore, monitor: TallyMonitor | None = None, **changes: object) -> Archived:
    return await archive_tree(root, store, options(**changes), monitor or TallyMonitor())


async def content(store: BlobStore, digest: bytes) -> bytes:
    """Return a small blob of `store`."""
    async for record in store.read([Blob(digest, 0)]):
        if isinstance(record, Block):
            for blob, plain in record.contents():
                if blob.digest == digest:
                    return bytes(plain)
    raise AssertionError(f"{digest.hex()} is not in the store")


async def manifest_of(store: BlobStore, root: bytes) -> Manifest:
    """Return a tree with its includes."""
    found, pending = {}, [root]
    parts = Parts(store.namespace.algorithm)
    while pending:
        digest = pending.pop()
        found[digest] = loads(await content(store, digest), store.namespace)
        parts.add(digest, found[digest])
        pending += found[digest].includes
    return replace(found[root], entries=tuple(parts.tree(root, found.__getitem__).entries()), includes=())


async def test_a_tree_becomes_a_manifest_and_its_blobs(tmp_path: Path) -> None:
    store, monitor = MemoryStore(OURS), TallyMonitor()
    archived = await archive(write_tree(tmp_path, TREE), store, monitor)
    manifest = loads(archived.manifest, OURS)
    hello = OURS.blob(b"hello")
    assert [entry.path for entry in manifest.entries] == ["a", "b/c", "b/e", "b/x", "empty", "l"]
    assert manifest.entries[1] == Entry("b/c", Kind.FILE, hello, 0o640)
    assert manifest.entries[2] == Entry("b/e", Kind.DIR)
    assert manifest.entries[5] == Entry("l", Kind.LINK, target="a")
    assert (manifest.command, manifest.relative_cwd, manifest.read_only) == ((), None, None)
    assert await content(store, archived.root.digest) == archived.manifest
    assert await content(store, hello.digest) == b"hello"
    assert (archived.files, archived.size_bytes, archived.uploaded_blobs) == (5, 19, 3)
    assert monitor.counters["hashed_files"] == 4
    assert archived.hash == archived.root.digest.hex()


async def test_the_tree_of_2020s_documentation_has_its_hash(tmp_path: Path) -> None:
    write_tree(tmp_path, {"a.txt": b"hello\n", "bin": {"x": Executable(b"#!/bin/sh\necho hi\n")}, "empty": b"",
                          "lnk": Link("a.txt"), "é.txt": b"n\n", "nothing": {}})  # fmt: skip
    for name, mode in (("a.txt", 0o644), ("é.txt", 0o644), ("empty", 0o600)):
        (tmp_path / name).chmod(mode)
    archived = await archive(tmp_path, MemoryStore(Namespace.parse("default-gzip")))
    assert archived.hash == "af6898aa06b8c92a0a77458ca9dbaef1ac5989be"


async def test_a_second_archive_asks_once_and_sends_nothing(tmp_path: Path) -> None:
    store = ScriptedStore(MemoryStore(OURS))
    first = await archive(write_tree(tmp_path, TREE), store)
    store.calls.clear()
    monitor = TallyMonitor()
    second = await archive(tmp_path, store, monitor)
    assert store.calls == {"missing": 2}  # the leaves, then the manifest
    assert (second.root, second.uploaded_blobs, second.uploaded_bytes) == (first.root, 0, 0)
    assert monitor.counters["present_blobs"] == 2


async def test_many_small_files_are_few_requests(tmp_path: Path) -> None:
    store = ScriptedStore(MemoryStore(OURS))
    tree: Tree = {f"{number:04}": f"content {number}".encode() for number in range(crew.JOB_FILES * 4)}
    await archive(write_tree(tmp_path, tree), store)
    # For each job of files at most one question and one upload; the manifest has its own.
    assert store.calls["write"] <= 5
    assert store.calls["missing"] <= 5


async def test_the_manifest_is_sent_last_and_not_at_all_when_a_leaf_fails(tmp_path: Path) -> None:
    store = ScriptedStore(MemoryStore(OURS))
    store.script("write", Refused("no"))
    with pytest.raises(Refused, match="no"):
        await archive(write_tree(tmp_path, TREE), store)
    assert store.calls["write"] == 1


async def test_an_upload_that_was_cut_off_goes_on_with_what_is_missing(tmp_path: Path) -> None:
    tree: Tree = {f"{number:02}": os.urandom(300_000) for number in range(20)}
    store = ScriptedStore(MemoryStore(OURS))
    store.script("write", Unavailable("cut"))
    monitor = TallyMonitor()
    archived = await archive(write_tree(tmp_path, tree), store, monitor, clock=_Impatient())
    assert await store.missing([entry.blob for entry in loads(archived.manifest, OURS).entries if entry.blob]) == []
    assert monitor.counters["uploaded_blobs"] < 21  # what had arrived before the cut was not sent again


async def test_a_store_that_stays_away_is_given_up(tmp_path: Path) -> None:
    store = ScriptedStore(MemoryStore(OURS))
    store.script("write", *[Unavailable("gone")] * 10)
    tree: Tree = {f"{number:02}": os.urandom(1_000_000) for number in range(5)}
    with pytest.raises(Unavailable, match="gone"):
        await archive(write_tree(tmp_path, tree), store, clock=_Impatient())
    assert store.calls["write"] == 1 + len(sender.RETRY_DELAYS_S)


class _Full(MemoryStore):
    """Takes nothing a number of times, and asks to come again."""

    def __init__(self, times: int) -> None:
        super().__init__(OURS)
        self.times = times

    async def write(self, blocks: AsyncIterator[Block]) -> Written:
        if self.times:
            self.times -= 1
            raise Unavailable("full", retry_after_s=5)
        return await super().write(blocks)


@pytest.mark.parametrize("size_bytes", [1_000_000, 6 << 20])
async def test_a_store_that_asks_to_come_again_is_waited_for(tmp_path: Path, size_bytes: int) -> None:
    write_tree(tmp_path, {"f": os.urandom(size_bytes)})
    store, clock = _Full(10), _Impatient()
    await archive(tmp_path, store, monitor := TallyMonitor(), clock=clock)
    assert (store.times, monitor.problems) == (0, ["full; waiting, for 5 minutes at most"])
    assert clock.monotonic() - _Impatient().monotonic() == 50
    clock = _Impatient()
    with pytest.raises(Unavailable, match="full"):
        await archive(tmp_path, _Full(1_000), clock=clock)
    assert clock.monotonic() - _Impatient().monotonic() == BUSY_TOTAL_S


async def test_who_was_waited_for_is_not_waited_for_again(tmp_path: Path) -> None:
    store, clock = ScriptedStore(MemoryStore(OURS)), _Impatient()
    store.script("write", Unavailable("full", retry_after_s=5, waited_s=BUSY_TOTAL_S))
    with pytest.raises(Unavailable, match="full"):
        await archive(write_tree(tmp_path, TREE), store, clock=clock)
    assert (store.calls["write"], clock.monotonic()) == (1, _Impatient().monotonic())


class _Impatient(ManualClock):
    """A clock on which no sleep takes time."""

    async def sleep(self, delay_s: float) -> None:
        self.advance(delay_s)


@pytest.mark.parametrize("size", [CHUNKED_ABOVE_BYTES, CHUNKED_ABOVE_BYTES + 1, 20 << 20])
async def test_large_files_travel_in_chunks(tmp_path: Path, size: int) -> None:
    plain = os.urandom(1 << 20) * (size // (1 << 20)) + bytes(size % (1 << 20))
    (tmp_path / "f").write_bytes(plain)
    store = MemoryStore(OURS)
    archived = await archive(tmp_path, store)
    blob = Blob(OURS.algorithm.digest(plain), size)
    assert loads(archived.manifest, OURS).entries[0].blob == blob
    records = [record async for record in store.read([blob])]
    if size <= CHUNKED_ABOVE_BYTES:
        assert isinstance(records[0], Block)
    else:
        assert isinstance(records[0], ChunkList)
        assert b"".join([await content(store, chunk.digest) for chunk in records[0].chunks]) == plain


async def test_of_a_large_file_only_new_chunks_are_sent(tmp_path: Path) -> None:
    plain = os.urandom(24 << 20)
    store = MemoryStore(OURS)
    (tmp_path / "f").write_bytes(plain)
    await archive(tmp_path, store)
    (tmp_path / "f").write_bytes(plain[: 12 << 20] + b"inserted" + plain[12 << 20 :])
    again = await archive(tmp_path, store)
    assert again.uploaded_bytes < 6 << 20


async def test_digests_are_remembered_and_forgotten_with_the_stamp(tmp_path: Path) -> None:
    root, cache = write_tree(tmp_path / "tree", TREE), tmp_path / "cache"
    # A clock that is ahead: the files of this test are old.
    clock, store = ManualClock(10_000_000_000.0), MemoryStore(OURS)
    for _ in range(2):
        monitor = TallyMonitor()
        await archive(root, store, monitor, clock=clock, stat_cache=cache)
    assert (monitor.counters["hashed_files"], monitor.counters["cached_files"]) == (0, 4)
    (root / "a").write_bytes(b"HELLO")
    monitor = TallyMonitor()
    archived = await archive(root, store, monitor, clock=clock, stat_cache=cache)
    assert (monitor.counters["hashed_files"], monitor.counters["cached_files"]) == (1, 3)
    assert loads(archived.manifest, OURS).entries[0].blob == OURS.blob(b"HELLO")


@pytest.mark.parametrize(("stale", "read"), [(1, 1), (2, 5)])  # the first that is wrong, then all
async def test_digests_that_turn_out_wrong_are_dropped_and_their_files_read(
    tmp_path: Path, stale: int, read: int
) -> None:
    """A content that changed under the stamp that was remembered: the clock was set, a disk was restored."""
    tree: Tree = {"a": b"AAA", "b": b"BBB", "c": b"CCC", "d": b"DDD"}
    root, clock = write_tree(tmp_path / "tree", tree), ManualClock(10_000_000_000.0)
    with StatCache(tmp_path / "cache", str(root), OURS.algorithm, clock, NullMonitor()) as cache:
        for number, (name, content) in enumerate(tree.items()):
            remembered = b"other" + content if number < stale else content  # type: ignore[operator]
            stamp = stamp_of((root / name).stat())
            assert cache.find(name, stamp) is None
            cache.store([(name, stamp, OURS.algorithm.digest(remembered))])  # type: ignore[arg-type]
    for expected in (read, 0):
        monitor = TallyMonitor()
        archived = await archive(root, MemoryStore(OURS), monitor, clock=clock, stat_cache=tmp_path / "cache")
        blobs = [entry.blob for entry in loads(archived.manifest, OURS).entries]
        assert blobs == [OURS.blob(content) for content in tree.values()]  # type: ignore[arg-type]
        assert monitor.counters["hashed_files"] == expected
        assert monitor.counters["cached_files"] == max(0, len(tree) - expected)  # of the pass that counts
        assert monitor.expected["hashed_files"] == monitor.counters["hashed_files"]
        assert monitor.counters["archived_bytes"] == 12
        assert archived.uploaded_blobs - archived.uploaded_manifests == len(tree)
        assert monitor.expected["uploaded_blobs"] == monitor.counters["uploaded_blobs"] == len(tree)


async def test_young_files_are_read_every_time(tmp_path: Path) -> None:
    root = write_tree(tmp_path / "tree", TREE)
    clock = ManualClock((root / "a").stat().st_ctime + 1)
    for _ in range(2):
        monitor = TallyMonitor()
        await archive(root, MemoryStore(OURS), monitor, clock=clock, stat_cache=tmp_path / "cache")
    assert monitor.counters["hashed_files"] == 4


async def test_a_remembered_digest_whose_blob_is_gone_is_uploaded(tmp_path: Path) -> None:
    root, clock = write_tree(tmp_path / "tree", TREE), ManualClock(10_000_000_000.0)
    await archive(root, MemoryStore(OURS), clock=clock, stat_cache=tmp_path / "cache")
    store = MemoryStore(OURS)
    archived = await archive(root, store, clock=clock, stat_cache=tmp_path / "cache")
    assert archived.uploaded_blobs == 3
    assert await content(store, OURS.blob(b"hello").digest) == b"hello"


class _Meddling(FileReader):
    """Changes a file between its hashing and its upload, a number of times."""

    times = 0

    def read(self, path: str, blob: Blob) -> bytes:
        if type(self).times > 0:
            type(self).times -= 1
            Path(path).write_bytes(os.urandom(8))
        return super().read(path, blob)


@pytest.mark.parametrize(("times", "succeeds"), [(1, True), (2, True), (3, False)])
async def test_a_tree_that_changes_is_read_anew_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, times: int, succeeds: bool
) -> None:
    monkeypatch.setattr("isolate.hands.FileReader", _Meddling)
    monkeypatch.setattr(_Meddling, "times", times)
    write_tree(tmp_path, {"f": b"before"})
    store = MemoryStore(OURS)
    if succeeds:
        archived = await archive(tmp_path, store)
        assert loads(archived.manifest, OURS).entries[0].blob == OURS.blob((tmp_path / "f").read_bytes())
    else:
        with pytest.raises(FileChanged, match="f' changed while it was being archived"):
            await archive(tmp_path, store)


class _Slow(MemoryStore):
    """Takes its time for the first writes, and promises an hour."""

    def __init__(self, clock: ManualClock, *durations_s: float) -> None:
        super().__init__(OURS)
        self.asked: list[Sequence[Blob]] = []
        self._clock, self._durations_s = clock, list(durations_s)

    async def info(self) -> StoreInfo:
        return StoreInfo(promised_s=7_200.0, kept_s=86_400.0, server_version="test")

    async def missing(self, blobs: Sequence[Blob]) -> list[Blob]:
        self.asked.append(blobs)
        self._clock.advance(self._durations_s.pop(0) if self._durations_s else 0.0)
        return await super().missing(blobs)

    async def write(self, blocks: AsyncIterator[Block]) -> Written:
        return await super().write(blocks)


@pytest.mark.parametrize(("duration_s", "passes"), [(0.0, 1), (3_600.0, 1), (3_601.0, 2)])
async def test_after_half_of_the_promise_the_store_is_asked_again(
    tmp_path: Path, duration_s: float, passes: int
) -> None:
    clock = ManualClock()
    store = _Slow(clock, duration_s)
    await archive(write_tree(tmp_path, TREE), store, clock=clock)
    assert len(store.asked) == passes + 1


async def test_a_store_that_cannot_keep_its_promise_gets_no_manifest(tmp_path: Path) -> None:
    clock = ManualClock()
    store = _Slow(clock, *[4_000.0] * 3)
    with pytest.raises(Unavailable, match="takes longer than the server promises"):
        await archive(write_tree(tmp_path, TREE), store, clock=clock)


async def test_a_large_tree_is_split_and_is_the_same_tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(split, "RULE", split.Rule(50, 5, 0xF))
    monkeypatch.setattr(slab, "JOB_FILES", 7)
    tree: Tree = {f"d{number % 9}": {} for number in range(9)}
    for number in range(400):
        tree[f"d{number % 9}"][f"{number:03}"] = str(number % 100).encode()  # type: ignore[index]
    store = MemoryStore(OURS)
    archived = await archive(write_tree(tmp_path, tree), store)
    root = loads(archived.manifest, OURS)
    whole = await manifest_of(store, archived.root.digest)
    assert len(root.includes) > 8
    assert not root.entries
    assert [entry.path for entry in whole.entries] == sorted(f"d{number % 9}/{number:03}" for number in range(400))
    assert archived.uploaded_blobs == 100 + len(root.includes) + 1
    (tmp_path / "d4/new").write_bytes(b"7")
    again = await archive(tmp_path, store)
    assert again.uploaded_blobs <= 4  # the root and the parts around the new file


@pytest.mark.parametrize(("namespace", "algorithm"), [("default-gzip", "sha1"), ("sha512-flat", "sha512")])
async def test_a_hash_of_2020_is_that_of_one_canonical_manifest_whatever_its_size(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, namespace: str, algorithm: str
) -> None:
    paths = [f"d/{number:05}" for number in range(split.LIMIT + 1)]
    found = [Found(path, Kind.LINK, target="x") for path in paths]
    monkeypatch.setattr("isolate.archive.scan", lambda *_: iter(found))
    archived = await archive(tmp_path, MemoryStore(Namespace.parse(namespace)))
    record = {"algo": algorithm.replace("sha", "sha-"), "files": {path: {"l": "x"} for path in paths}, "version": "1.6"}
    canonical = json.dumps(record, sort_keys=True, separators=(",", ":")).encode()
    assert archived.hash == hashlib.new(algorithm, canonical).hexdigest()
    assert archived.uploaded_blobs == 1


async def test_a_selection_brings_command_and_directory(tmp_path: Path) -> None:
    write_tree(tmp_path, {"src": {"a": b"1", "b": b"2"}})
    (tmp_path / "src/t.isolate").write_text("{'variables': {'command': ['x', '<(n)'], 'files': ['a']}}")
    selection = select(tmp_path / "src/t.isolate", Variables(config={"n": "1"}), tmp_path)
    archived = await archive_files(selection, MemoryStore(OURS), options(), TallyMonitor())
    manifest = loads(archived.manifest, OURS)
    assert [entry.path for entry in manifest.entries] == ["a"]
    assert (manifest.command, manifest.relative_cwd, manifest.read_only) == (("x", "1"), ".", 1)


async def test_groups_have_parts_of_their_own_in_the_namespaces_of_2020(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(split, "RULE", split.Rule(20, 2, 1))
    tree: Tree = {"m": {f"{n:02}": b"m" for n in range(50)}, "p": {"x": b"1"}, "test": {"data": {"t": b"2"}}}
    write_tree(tmp_path, {**tree, "t.isolate": b"{'variables': {'files': ['m/', 'test/', 'p/']}}"})
    selection = select(tmp_path / "t.isolate", Variables(paths={"PRODUCT_DIR": "p"}), tmp_path)
    store, monitor = MemoryStore(Namespace.parse("default")), TallyMonitor()
    archived = await archive_files(selection, store, options(), monitor)
    root = loads(archived.manifest, store.namespace)
    parts = [loads(part, store.namespace) for part in archived.group_parts]
    assert [[entry.path for entry in part.entries] for part in parts] == [["test/data/t"], ["p/x"]]
    assert list(root.includes[:2]) == [store.namespace.blob(part).digest for part in archived.group_parts]
    assert len(root.includes) == 2
    assert len(root.entries) == 50
    whole = await manifest_of(store, archived.root.digest)
    assert [entry.path for entry in whole.entries] == [*(f"m/{n:02}" for n in range(50)), "p/x", "test/data/t"]
    ours = await archive_files(selection, MemoryStore(OURS), options(), monitor)
    assert not ours.group_parts


async def test_what_will_be_read_and_sent_is_announced(tmp_path: Path) -> None:
    write_tree(tmp_path / "one", {"a": b"1234", "b": b"56", "c": b"1234"})
    write_tree(tmp_path / "two", {"a": b"1234", "d": b"789"})
    (tmp_path / "small").write_bytes(b"x")
    (tmp_path / "large").write_bytes(large := os.urandom(CHUNKED_ABOVE_BYTES + 1))
    monitor, store = TallyMonitor(), MemoryStore(OURS)
    await archive(tmp_path / "one", store, monitor)
    expected = {"hashed_files": 3, "hashed_bytes": 10, "uploaded_blobs": 2, "uploaded_bytes": 6}
    assert monitor.expected == expected
    # What comes next adds to it, and at no end is there more or less than was expected.
    await archive(tmp_path / "two", store, monitor)
    for name in ("small", "large", "large"):
        await archive_file(tmp_path / name, store, options(), monitor)
    expected = {"hashed_files": 8, "hashed_bytes": 18 + 2 * len(large), "uploaded_bytes": 10 + len(large)}
    assert monitor.counters["archived_bytes"] == expected["hashed_bytes"]
    for counter, number in expected.items():
        assert (monitor.expected[counter], monitor.counters[counter]) == (number, number), counter
    assert monitor.expected["uploaded_blobs"] == monitor.counters["uploaded_blobs"] > 4


async def test_a_large_file_that_was_cut_off_is_no_more_than_was_expected(tmp_path: Path) -> None:
    root = write_tree(tmp_path / "tree", {"large": (large := os.urandom(CHUNKED_ABOVE_BYTES + 1))})
    clock = _Impatient(10_000_000_000.0)
    for read_bytes in (len(large), 0):  # of the second time its digest is remembered, and sent as what is missing
        store, monitor = ScriptedStore(MemoryStore(OURS)), TallyMonitor()
        store.script("write", Unavailable("cut"))
        await archive(root, store, monitor, clock=clock, stat_cache=tmp_path / "cache")
        assert store.calls["write"] >= 2
        assert monitor.counters["hashed_bytes"] == read_bytes
        assert monitor.counters["uploaded_bytes"] >= len(large)
        for counter in ("hashed_bytes", "hashed_files", "uploaded_bytes", "uploaded_blobs"):
            assert monitor.expected[counter] == monitor.counters[counter], counter


@pytest.mark.parametrize("plain", [b"", b"x", bytes(CHUNKED_ABOVE_BYTES + 1)])
async def test_a_single_file_is_its_blob(tmp_path: Path, plain: bytes) -> None:
    (tmp_path / "real").write_bytes(plain)
    (tmp_path / "f").symlink_to("real")
    store = MemoryStore(OURS)
    archived = await archive_file(tmp_path / "f", store, options(), NullMonitor())
    assert archived.root == OURS.blob(plain)
    assert await store.missing([archived.root]) == []


async def test_broken_items_are_left_out_when_asked_for(tmp_path: Path) -> None:
    os.mkfifo(write_tree(tmp_path, {"a": b"1"}) / "pipe")
    with pytest.raises(InvalidInput, match="pipe' is a named pipe"):
        await archive(tmp_path, MemoryStore(OURS))
    monitor = TallyMonitor()
    archived = await archive(tmp_path, MemoryStore(OURS), monitor, skip_broken=True)
    assert [entry.path for entry in loads(archived.manifest, OURS).entries] == ["a"]
    assert len(monitor.problems) == 1


async def test_names_that_2020_would_change_are_refused_there(tmp_path: Path) -> None:
    write_tree(tmp_path, {"a\\b": b"", "c": b""})
    with pytest.raises(InvalidInput, match="which manifests of 2020 take for"):
        await archive(tmp_path, MemoryStore(Namespace.parse("default")))
    assert (await archive(tmp_path, MemoryStore(OURS))).files == 2


async def test_an_empty_directory_is_an_archive_too(tmp_path: Path) -> None:
    archived = await archive(tmp_path, MemoryStore(OURS))
    assert archived.manifest == b'{"algo":"blake3-256","files":{},"version":"2.0"}'


async def test_names_of_arbitrary_bytes_round_trip(tmp_path: Path) -> None:
    name = os.fsdecode(b"\xff\xfe name\n")
    archived = await archive(write_tree(tmp_path, {name: b"x"}), MemoryStore(OURS))
    assert loads(archived.manifest, OURS).entries[0].path == name
