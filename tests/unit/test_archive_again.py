"""isolate.archive of a large tree that it knows: the same hash for less work, and nothing taken for granted."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from isolate import pipeline, split
from isolate.archive import ArchiveOptions, archive_tree
from isolate.archived import Archived
from isolate.cas.digest import Namespace
from isolate.cas.memory import MemoryStore
from isolate.cas.store import BlobStore
from isolate.entries import Entry, Kind
from isolate.isolated import Manifest, dumps, loads
from isolate.lookahead import Lookahead
from isolate.monitor import TallyMonitor
from isolate.partcache import PartCache, beginnings, proof_of
from isolate.scan import Found, ScanRules, scan, stamp_of
from isolate.scanned import HEAD, Run, pack
from isolate.scanner import runs_of
from isolate.statcache import StatCache
from tests.clock import ManualClock
from tests.faults import ScriptedStore
from tests.stored import put
from tests.trees import Tree, write_tree

OURS = Namespace.parse("blake3-zstd")
FILES = 300
AHEAD = ManualClock(10_000_000_000.0)  # the files of these tests are old


class Told:
    """What scanners tell of `root` that know the parts in `folder`, without a process."""

    scan = staticmethod(scan)

    def __init__(self, root: Path, folder: Path) -> None:
        self.root = str(root)
        self._known = dict(beginnings(folder, self.root, OURS.algorithm))

    def runs(self, rules: ScanRules) -> Iterator[Found | Run]:
        for batch, is_known in runs_of(self.scan(self.root, rules), self._known):
            packed = pack(batch, proof_of(batch)) if is_known else pack(batch)
            run = Run(packed[: HEAD.size], packed[HEAD.size :])
            yield from [run] if is_known else run


@dataclass(slots=True)
class Bench:
    """A tree, its memory, and what each archive of it took."""

    root: Path
    cache: Path
    store: BlobStore
    made: list[bytes]  # the parts of the last archive that were not remembered
    monitor: TallyMonitor
    is_told: bool  # by scanners, which know the parts that there were

    async def archive(self, store: BlobStore | None = None, **changes: object) -> Archived:
        self.made.clear()
        self.monitor = TallyMonitor()
        ahead = Told(self.root, self.cache) if self.is_told else None
        options = ArchiveOptions(**{"clock": AHEAD, "stat_cache": self.cache, "ahead": ahead, **changes})  # type: ignore[arg-type]
        return await archive_tree(self.root, store or self.store, options, self.monitor)

    async def anew(self) -> str:
        """Return the hash that the tree has for who remembers nothing."""
        options = ArchiveOptions(clock=AHEAD, stat_cache=None)
        return (await archive_tree(self.root, MemoryStore(OURS), options, TallyMonitor())).hash


@pytest.fixture(params=[False, True], ids=["found", "told"])
def bench(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bench:
    monkeypatch.setattr(split, "RULE", split.Rule(50, 5, 0xF))
    made: list[bytes] = []

    def counted(manifest: Manifest) -> bytes:
        made.append(dumps(manifest))
        return made[-1]

    monkeypatch.setattr(pipeline, "dumps", counted)
    tree: Tree = {f"d{number % 9}": {} for number in range(9)}
    for number in range(FILES):
        tree[f"d{number % 9}"][f"{number:03}"] = str(number % 200).encode()  # type: ignore[index]
    root = write_tree(tmp_path / "tree", tree)
    return Bench(root, tmp_path / "cache", MemoryStore(OURS), made, TallyMonitor(), request.param)


async def test_an_unchanged_tree_is_compared_and_asked_for(bench: Bench) -> None:
    first = await bench.archive()
    parts = len(bench.made)
    assert parts == len(loads(first.manifest, OURS).includes) > 8
    store = ScriptedStore(bench.store)
    again = await bench.archive(store)
    assert again == replace(first, uploaded_blobs=0, uploaded_bytes=0, uploaded_manifests=0, uploaded_manifest_bytes=0)
    assert not bench.made
    assert store.calls == {"missing": store.calls["missing"]}
    # Of 200 contents and all parts, then of the root.
    assert bench.monitor.counters["present_blobs"] == 200 + parts
    assert (bench.monitor.counters["cached_files"], bench.monitor.counters["hashed_files"]) == (FILES, 0)


async def test_one_change_makes_the_parts_around_it_once_more(bench: Bench) -> None:
    await bench.archive()
    for read, change in (
        (1, lambda: (bench.root / "d4/031").write_bytes(b"31 more")),
        (1, lambda: (bench.root / "d4/zzz").write_bytes(b"new")),
        (0, (bench.root / "d0/000").unlink),
        (1, lambda: (bench.root / "d5/005").chmod(0o755)),
        (33, lambda: (bench.root / "d8").rename(bench.root / "d9")),
        (0, (bench.root / "a").mkdir),
    ):
        change()
        archived = await bench.archive()
        made = len(bench.made)
        assert bench.monitor.counters["hashed_files"] == read
        assert archived.hash == await bench.anew()
        assert 1 <= made <= 4
        assert (await bench.archive()).hash == archived.hash
        assert (len(bench.made), bench.monitor.counters["hashed_files"]) == (0, 0)


async def test_what_the_store_lost_is_sent_again(bench: Bench) -> None:
    first = await bench.archive()
    parts = [*bench.made]
    contents = [*parts, first.manifest, *(str(number).encode() for number in range(200))]
    for lost in ([b"7"], [b"7", parts[0], b"50"], [parts[0], parts[3], parts[-1]], [first.manifest], contents):
        store = MemoryStore(OURS)
        await put(store, [content for content in contents if content not in lost])
        again = await bench.archive(store)
        assert (again.hash, again.uploaded_blobs) == (first.hash, len(lost))
        assert not await store.missing([OURS.blob(content) for content in contents])
        assert bench.monitor.counters["hashed_files"] == 0


@pytest.mark.parametrize("left", [0, 20, 49, 50, 51])
async def test_a_tree_that_became_small_is_one_manifest(bench: Bench, left: int) -> None:
    await bench.archive()
    for path in sorted(path for path in bench.root.rglob("*") if path.is_file())[left:]:
        path.unlink()
    for directory in bench.root.iterdir():
        if not any(directory.iterdir()):
            directory.rmdir()
    archived = await bench.archive()
    assert archived.hash == await bench.anew()
    assert bool(loads(archived.manifest, OURS).includes) is (left > 50)


async def test_a_memory_that_turns_out_wrong_is_dropped(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """A content that changed under the stamp that was remembered: the clock was set, a disk was restored."""
    first = await bench.archive()
    victim = bench.root / "d4/031"
    old = stamp_of(victim.stat())
    victim.write_bytes(b"32")

    def lying(root: str, rules: ScanRules) -> Iterator[Found]:
        for found in scan(root, rules):
            yield found._replace(stamp=old) if found.path == "d4/031" else found

    monkeypatch.setattr("isolate.archive.scan", lying)
    monkeypatch.setattr(Told, "scan", staticmethod(lying))
    assert (await bench.archive()).hash == first.hash  # nobody can tell
    for _ in range(2):
        again = await bench.archive(MemoryStore(OURS))  # but who has to send the content
        assert again.hash == await bench.anew() != first.hash


async def test_young_files_leave_no_part_behind(bench: Bench) -> None:
    clock = ManualClock((bench.root / "d0/000").stat().st_ctime + 1)
    await bench.archive(clock=clock)
    await bench.archive(clock=clock)
    assert (len(bench.made) > 8, bench.monitor.counters["hashed_files"]) == (True, FILES)


@pytest.mark.parametrize("lost", ["-parts", ""])
async def test_either_memory_may_be_lost(bench: Bench, lost: str) -> None:
    first = await bench.archive()
    for path in bench.cache.iterdir():
        if path.name.endswith("-parts") is bool(lost):
            path.unlink()
    assert (await bench.archive()).hash == first.hash
    assert bench.monitor.counters["hashed_files"] == 0
    (bench.root / "d4/031").write_bytes(b"31 more")
    assert (await bench.archive()).hash == await bench.anew()
    assert not bench.monitor.problems


async def test_a_moved_tree_is_another_one(bench: Bench) -> None:
    first = await bench.archive()
    moved = bench.root.with_name("moved")
    shutil.move(bench.root, moved)
    bench.root = moved
    assert (await bench.archive()).hash == first.hash
    assert bench.monitor.counters["hashed_files"] == FILES


async def test_where_all_entries_are_wanted_all_are_made(bench: Bench) -> None:
    class Everything:
        def __init__(self) -> None:
            self.paths: list[str] = []

        def begin(self) -> None:
            self.paths.clear()

        def add(self, entries: Sequence[Entry]) -> None:
            self.paths += [entry.path for entry in entries]

    first = await bench.archive()
    record = Everything()
    assert (await bench.archive(record=record)).hash == first.hash
    assert len(record.paths) == FILES
    assert (await bench.archive()).hash == first.hash
    assert len(bench.made) == 0


def test_the_caches_have_names_of_their_own(tmp_path: Path) -> None:
    with (
        StatCache(tmp_path, "/tree", OURS.algorithm, AHEAD, TallyMonitor()) as cache,
        PartCache(tmp_path, "/tree", OURS.algorithm, AHEAD, TallyMonitor()) as parts,
    ):
        cache.store([("a", (1, 2, 3, 4, 5), bytes(32))])
        assert parts.is_empty
    assert [path.name.endswith("-parts") for path in tmp_path.iterdir()] == [False]


@settings(max_examples=25, deadline=None)
@given(st.lists(st.integers(1, 9), max_size=8), st.data())
def test_what_is_looked_at_is_taken_once_and_in_order(sizes: list[int], data: st.DataObject) -> None:
    names = iter([Found(f"{number:02}", Kind.FILE, 0o100644, (0, 0, 0, 0, 0)) for number in range(sum(sizes))])
    batches = [list(islice(names, size)) for size in sizes]
    packed = [pack(batch) for batch in batches]
    entries: list[Found | Run] = []
    for batch, one in zip(batches, packed, strict=True):
        entries += [Run(one[: HEAD.size], one[HEAD.size :])] if data.draw(st.booleans()) else batch
    ahead, taken = Lookahead(entries), list[str]()
    expected = [found.path for batch in batches for found in batch]
    while ahead.hold(1):
        left = expected[len(taken) :]
        wanted = data.draw(st.integers(1, 12))
        assert ahead.hold(wanted + 1) is (len(left) > wanted)
        assert ahead.first == left[0]
        if data.draw(st.booleans()):
            looked, behind = ahead.look(wanted)
            assert [found.path for found in looked] == left[:wanted]
            assert behind == next(iter(left[wanted:]), None)
        some = ahead.take()
        kept = data.draw(st.integers(0, len(some)))
        if kept < len(some):
            ahead.give_back(some[kept:])
        taken += [found.path for found in some[:kept]]
    assert taken == expected
