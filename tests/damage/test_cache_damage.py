"""Damage to a cache: {delete, truncate, flip, replace} x {file, index, its journal} x {fetch and map, open, trim}."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from isolate.cas.cache import CachePolicy, LocalCache
from isolate.cas.digest import Namespace
from isolate.cas.memory import MemoryStore
from isolate.fetch import fetch
from isolate.monitor import NullMonitor, TallyMonitor
from run_isolated.mapper import apply
from run_isolated.mapping import layout_of
from run_isolated.plans import Plans
from run_isolated.proof import Proof
from tests.clock import ManualClock
from tests.stored import put_tree
from tests.trees import Executable, Tree, read_tree

NS = Namespace.parse("blake3-zstd")
TREE: Tree = {
    "a": b"plain input",
    "x": Executable(b"program"),
    "d": {f"f{index}": b"%d" % index for index in range(60)},
}
A = NS.blob(b"plain input")


def deleted(path: Path) -> None:
    if path.exists():
        path.unlink()


def truncated(path: Path) -> None:
    if path.exists():
        os.truncate(path, path.stat().st_size // 2)


def emptied(path: Path) -> None:
    if path.exists():
        os.truncate(path, 0)


def flipped(path: Path) -> None:
    if path.exists() and path.stat().st_size:
        content = bytearray(path.read_bytes())
        for at in range(0, len(content), 1 + len(content) // 50):
            content[at] ^= 0x10
        path.chmod(0o600)
        path.write_bytes(content)


def garbage(path: Path) -> None:
    path.unlink(missing_ok=True)
    path.write_bytes(b"garbage " * 1000)


def a_directory(path: Path) -> None:
    path.unlink(missing_ok=True)
    path.mkdir()


def a_link_elsewhere(path: Path) -> None:
    path.unlink(missing_ok=True)
    path.symlink_to("/etc/hostname")


Damage = Callable[[Path], None]


@pytest.fixture
def store() -> MemoryStore:
    return MemoryStore(NS)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "cache"


def opened(root: Path, monitor: TallyMonitor | None = None, **policy: int) -> LocalCache:
    return LocalCache.open(root, NS, CachePolicy(**policy), ManualClock(), monitor or TallyMonitor(), boot_id="boot")


async def run(store: MemoryStore, cache: LocalCache, where: Path) -> Tree:
    """Fetch and map the tree; returns what was mapped."""
    fetched = await fetch(store, cache, await put_tree(store, TREE), NullMonitor())
    with fetched.pin:
        plans = Plans(fetched.tree)
        mapped = apply(plans, cache, where)
        assert Proof.start(cache, mapped.linked, fetched.pin, layout_of(where, plans)).check().problem is None
    return read_tree(where)


@pytest.mark.parametrize("damage", [deleted, truncated, emptied, flipped, garbage, a_link_elsewhere])
@pytest.mark.parametrize("executable", [False, True])
async def test_a_damaged_file_is_replaced_before_use(
    store: MemoryStore, root: Path, tmp_path: Path, damage: Damage, executable: bool
) -> None:
    monitor = TallyMonitor()
    blob = NS.blob(b"program") if executable else A
    with opened(root, monitor) as cache:
        assert await run(store, cache, tmp_path / "first") == TREE
        path = cache.path(blob, executable=executable)
        path.rename(path.with_suffix(".mapped"))  # the mapped tree keeps its inode
        shutil.copyfile(path.with_suffix(".mapped"), path)
        damage(path)
        assert await run(store, cache, tmp_path / "second") == TREE
        assert cache.path(blob, executable=executable).read_bytes() == (b"program" if executable else b"plain input")
    assert monitor.counters["damaged_cache_files"] == 1


@pytest.mark.parametrize("damage", [deleted, truncated, emptied, flipped, garbage])
@pytest.mark.parametrize("suffix", ["", "-wal", "-shm"])
@pytest.mark.parametrize("is_open", [False, True])
async def test_a_damaged_index_heals_itself(
    store: MemoryStore, root: Path, tmp_path: Path, damage: Damage, suffix: str, is_open: bool
) -> None:
    with opened(root) as cache:
        await run(store, cache, tmp_path / "first")
        if is_open and suffix == "-shm":
            return  # shared memory of a living process; whoever writes there could write to the process as well
        if is_open:
            damage(root / f"index.sqlite{suffix}")
            assert await run(store, cache, tmp_path / "second") == TREE
    if not is_open:
        damage(root / f"index.sqlite{suffix}")
    with opened(root) as cache:
        assert await run(store, cache, tmp_path / "third") == TREE
        cache.trim()
        assert cache.absent([A]) == []


@pytest.mark.parametrize("damage", [deleted, truncated, emptied, flipped, garbage, a_link_elsewhere])
@pytest.mark.parametrize("executable", [False, True])
async def test_a_file_damaged_while_the_index_is_lost_is_replaced_before_use(
    store: MemoryStore, root: Path, tmp_path: Path, damage: Damage, executable: bool
) -> None:
    with opened(root) as cache:
        await run(store, cache, tmp_path / "first")
        path = cache.path(NS.blob(b"program") if executable else A, executable=executable)
    path.rename(path.with_suffix(".mapped"))
    shutil.copyfile(path.with_suffix(".mapped"), path)
    damage(path)
    for index in root.glob("index.sqlite*"):
        index.unlink()
    with opened(root) as cache:
        assert await run(store, cache, tmp_path / "second") == TREE
        assert await run(store, cache, tmp_path / "third") == TREE


async def test_every_byte_of_the_index_in_turn(store: MemoryStore, root: Path, tmp_path: Path) -> None:
    with opened(root) as cache:
        await run(store, cache, tmp_path / "first")
    good = (root / "index.sqlite").read_bytes()
    for at in [*range(100), *range(100, len(good), 1999)]:
        flipped_once = bytearray(good)
        flipped_once[at] ^= 0xFF
        (root / "index.sqlite").write_bytes(flipped_once)
        with opened(root, max_items=10_000) as cache:
            assert cache.absent([A]) in ([], [A])
            cache.add([(A, b"plain input")])
            assert cache.path(A).read_bytes() == b"plain input"
            cache.trim()


async def test_an_index_without_its_files(store: MemoryStore, root: Path, tmp_path: Path) -> None:
    with opened(root) as cache:
        await run(store, cache, tmp_path / "first")
        shutil.rmtree(root / "files")
        assert await run(store, cache, tmp_path / "second") == TREE


async def test_files_without_their_index_are_hashed_and_kept(store: MemoryStore, root: Path, tmp_path: Path) -> None:
    with opened(root) as cache:
        await run(store, cache, tmp_path / "first")
        usage = cache.usage()
        path = cache.path(A)
    (root / "index.sqlite").unlink()
    flipped(path)
    with opened(root) as cache:
        assert cache.usage() == usage
        fetched = await fetch(store, cache, await put_tree(store, TREE), NullMonitor())
        assert list(fetched.cold) == [A.size]


async def test_strangers_in_the_cache_are_left_alone(store: MemoryStore, root: Path, tmp_path: Path) -> None:
    with opened(root) as cache:
        await run(store, cache, tmp_path / "first")
        directory = cache.path(A).parent
    (directory / "README").touch()
    (directory / "zz").mkdir()
    (root / "index.sqlite").unlink()
    with opened(root) as cache:
        assert await run(store, cache, tmp_path / "second") == TREE
        cache.trim()
    assert (directory / "README").exists()


async def test_another_process_rebuilds_the_index_under_us(store: MemoryStore, root: Path, tmp_path: Path) -> None:
    with opened(root) as ours:
        assert await run(store, ours, tmp_path / "first") == TREE
        garbage(root / "index.sqlite")
        with opened(root) as theirs:
            assert await run(store, theirs, tmp_path / "second") == TREE
        assert await run(store, ours, tmp_path / "third") == TREE
        assert ours.usage().items > 60


@pytest.mark.parametrize("name", ["files", "sessions", "lock", "index.sqlite", "index.sqlite-wal"])
@pytest.mark.parametrize("kind", ["file", "directory", "pipe", "link to nothing"])
async def test_something_of_another_kind_in_the_place_of_ours(tmp_path: Path, name: str, kind: str) -> None:
    def opened() -> LocalCache:
        return LocalCache.open(tmp_path / "cache", NS, CachePolicy(), ManualClock(), NullMonitor())

    store = MemoryStore(NS)
    root = await put_tree(store, TREE)
    with opened() as cache:
        (await fetch(store, cache, root, NullMonitor())).pin.release()
    place = tmp_path / "cache" / name
    if place.is_dir():
        shutil.rmtree(place)
    else:
        place.unlink(missing_ok=True)
    match kind:
        case "file":
            place.write_text("foreign")
        case "directory":
            (place / "inner").mkdir(parents=True)
        case "pipe":
            os.mkfifo(place)
        case _:
            place.symlink_to(tmp_path / "nothing")
    with opened() as cache:
        fetched = await fetch(store, cache, root, NullMonitor())
        apply(Plans(fetched.tree), cache, tmp_path / "tree")
        assert read_tree(tmp_path / "tree") == TREE
    assert not list((tmp_path / "cache").glob("foreign-*"))
    assert not (tmp_path / "nothing").exists()
