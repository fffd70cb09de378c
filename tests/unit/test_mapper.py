"""From a manifest to a directory: planning, linking, copying, refusing."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from isolate.cas.cache import CachePolicy, LocalCache
from isolate.cas.digest import Namespace
from isolate.cas.memory import MemoryStore
from isolate.entries import Entry, Kind
from isolate.errors import BlobsMissing, InvalidInput, InvalidManifest, IsolateError, NoSpace
from isolate.fetch import fetch
from isolate.isolated import Manifest
from isolate.monitor import NullMonitor
from run_isolated import linux
from run_isolated.linked import Variant
from run_isolated.mapper import How, Mapped, apply
from run_isolated.plans import Plans, plan
from tests.clock import ManualClock
from tests.stored import put, put_manifest, put_tree
from tests.trees import Executable, Link, Tree, read_tree

NS = Namespace.parse("blake3-zstd")
TREE: Tree = {
    "a": b"same",
    "d": {"b": b"other", "x": Executable(b"same"), "none": {}, "n\udcff": b"name"},
    "empty": b"",
    "run": Executable(b""),
    "l": Link("d/b"),
    "out": Link("/etc/../nowhere"),
    "dl": Link("d"),
}


@pytest.fixture
def store() -> MemoryStore:
    return MemoryStore(NS)


@pytest.fixture
def cache(tmp_path: Path) -> Iterator[LocalCache]:
    with LocalCache.open(tmp_path / "cache", NS, CachePolicy(), ManualClock(), NullMonitor()) as cache:
        yield cache


async def planned(store: MemoryStore, cache: LocalCache, tree: Tree) -> Plans:
    return Plans((await fetch(store, cache, await put_tree(store, tree), NullMonitor())).tree)


def shared(mapped: Mapped) -> list[Variant]:
    return [variant for variants in mapped.linked for variant in variants]


def file_entry(path: str, content: bytes = b"x", mode: int | None = 0o640) -> Entry:
    return Entry(path, Kind.FILE, NS.blob(content), mode)


def test_plan_puts_parents_first() -> None:
    manifest = Manifest(
        algorithm=NS.algorithm,
        entries=(
            file_entry("a/b/c/f"),
            Entry("a/b/e", Kind.DIR),
            file_entry("a/z", b""),
            Entry("k/l", Kind.LINK, target="x"),
            Entry("t/x.tar", Kind.TAR, NS.blob(b"tar")),
        ),
    )
    tree = plan(manifest.entries)
    assert tree.directories == ("a", "a/b", "a/b/c", "a/b/e", "k", "t")
    assert list(tree.files_before) == [0, 0, 0, 1, 1, 1]
    assert [entry.path for entry in tree.files] == ["a/b/c/f"]
    assert [entry.path for entry in tree.empty_files] == ["a/z"]
    assert [entry.path for entry in tree.links] == ["k/l"]
    assert [entry.path for entry in tree.tars] == ["t/x.tar"]


@pytest.mark.parametrize("how", How)
async def test_the_tree_comes_back(store: MemoryStore, cache: LocalCache, tmp_path: Path, how: How) -> None:
    apply(await planned(store, cache, TREE), cache, tmp_path / "tree", how)
    assert read_tree(tmp_path / "tree") == TREE


async def test_links_share_the_cache_and_are_read_only(store: MemoryStore, cache: LocalCache, tmp_path: Path) -> None:
    root = tmp_path / "tree"
    mapped = apply(await planned(store, cache, TREE), cache, root)
    same = NS.blob(b"same")
    assert (root / "a").samefile(cache.path(same))
    assert (root / "d/x").samefile(cache.path(same, executable=True))
    assert not (root / "a").samefile(root / "d/x")
    assert {*shared(mapped)} >= {(same, False), (same, True)}
    assert mapped.copied_files == 0
    for path in (root / "a", root / "d/x", root / "d/b"):
        assert path.stat().st_mode & 0o222 == 0
    assert (root / "empty").stat().st_nlink == 1


async def test_copies_are_ones_own_with_the_mode_of_the_manifest(
    store: MemoryStore, cache: LocalCache, tmp_path: Path
) -> None:
    root = tmp_path / "tree"
    mapped = apply(await planned(store, cache, TREE), cache, root, How.COPY)
    assert (shared(mapped), mapped.copied_files) == ([], 4)
    assert stat.S_IMODE((root / "a").stat().st_mode) == 0o600
    assert stat.S_IMODE((root / "d/x").stat().st_mode) == 0o700
    (root / "a").write_bytes(b"changed")
    assert cache.path(NS.blob(b"same")).read_bytes() == b"same"


async def test_files_of_their_own_share_bytes_where_they_can(
    store: MemoryStore, cache: LocalCache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []

    def share(reading: int, writing: int) -> str:
        asked.append(reading)
        os.write(writing, os.pread(reading, 100, 0))  # what the call of the system amounts to
        return ""

    monkeypatch.setattr(linux, "share_bytes", share)
    root = tmp_path / "tree"
    mapped = apply(await planned(store, cache, TREE), cache, root, How.REFLINK)
    assert read_tree(root) == TREE
    assert (shared(mapped), mapped.copied_files, mapped.problem, len(asked)) == ([], 0, "", 4)
    assert stat.S_IMODE((root / "a").stat().st_mode) == 0o600


async def test_where_no_bytes_can_be_shared_it_copies_and_says_so_once(
    store: MemoryStore, cache: LocalCache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []

    def refuse(reading: int, _writing: int) -> str:
        asked.append(reading)
        return "nothing is shared here"

    monkeypatch.setattr(linux, "share_bytes", refuse)
    mapped = apply(await planned(store, cache, TREE), cache, tmp_path / "tree", How.REFLINK)
    assert read_tree(tmp_path / "tree") == TREE
    assert (shared(mapped), mapped.copied_files) == ([], 4)
    assert mapped.problem == "Files were copied: nothing is shared here"
    assert len(asked) == 1


@pytest.mark.parametrize("mode", [None, 0, 0o500, 0o400, 0o644, 0o7777])
async def test_modes_as_2020_applies_them(store: MemoryStore, cache: LocalCache, tmp_path: Path, mode: int) -> None:
    await put(store, [b"x"])
    entries = (file_entry("a", b"x", mode), file_entry("e", b"", mode))
    root = await put_manifest(store, Manifest(algorithm=NS.algorithm, entries=entries))
    apply(Plans((await fetch(store, cache, root, NullMonitor())).tree), cache, tmp_path / "tree", How.COPY)
    for name in "ae":
        assert stat.S_IMODE((tmp_path / "tree" / name).stat().st_mode) == (mode or 0o500) & 0o700


@pytest.mark.parametrize(
    ("number", "linked"), [(errno.EXDEV, 0), (errno.EPERM, 0), (errno.ENOTSUP, 0), (errno.EMLINK, 3)]
)
async def test_where_no_link_is_possible_it_copies(
    store: MemoryStore, cache: LocalCache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, linked: int
) -> None:
    tree = await planned(store, cache, TREE)
    real, calls = os.link, 0

    def link(source: str, path: str, **options: Any) -> None:
        nonlocal calls
        calls += 1
        if calls == 1:
            raise OSError(number, os.strerror(number))
        real(source, path, **options)

    monkeypatch.setattr(os, "link", link)
    mapped = apply(tree, cache, tmp_path / "tree")
    assert read_tree(tmp_path / "tree") == TREE
    assert len(shared(mapped)) == linked
    assert mapped.copied_files == 4 - linked
    assert calls == 1 + linked
    assert (tmp_path / "tree/a").stat().st_mode & 0o222 == 0


async def test_only_links_says_what_else_there_is(
    store: MemoryStore, cache: LocalCache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tree = await planned(store, cache, {"a": b"x"})

    def refuse(source: str, path: str, **_: Any) -> None:
        raise OSError(errno.EXDEV, "Invalid cross-device link", source, None, path)

    monkeypatch.setattr(os, "link", refuse)
    with pytest.raises(IsolateError, match=r"^Cannot link a to the cache: Invalid .* link; --map auto copies such"):
        apply(tree, cache, tmp_path / "tree", How.ONLY_LINK)


async def test_copies_between_file_systems(
    store: MemoryStore, cache: LocalCache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = os.urandom((3 << 20) + 1)
    tree = await planned(store, cache, {"big": content})

    def refuse(*_: object) -> int:
        raise OSError(errno.EXDEV, "Invalid cross-device link")

    monkeypatch.setattr(os, "copy_file_range", refuse)
    apply(tree, cache, tmp_path / "tree", How.COPY)
    assert (tmp_path / "tree/big").read_bytes() == content


async def test_the_destination_is_empty_or_absent(store: MemoryStore, cache: LocalCache, tmp_path: Path) -> None:
    tree = await planned(store, cache, {"a": b"x"})
    (tmp_path / "empty").mkdir()
    apply(tree, cache, tmp_path / "empty")
    apply(tree, cache, tmp_path / "new/deeper")
    (tmp_path / "link").symlink_to(tmp_path)
    (tmp_path / "file").touch()
    for name in ("empty", "link", "file"):
        with pytest.raises(InvalidInput, match="not an empty directory"):
            apply(tree, cache, tmp_path / name)


async def test_a_file_the_cache_lost(store: MemoryStore, cache: LocalCache, tmp_path: Path) -> None:
    tree = await planned(store, cache, {"a": b"x", "b": b"y"})
    cache.path(NS.blob(b"x")).unlink()
    with pytest.raises(BlobsMissing, match=NS.blob(b"x").digest.hex()):
        apply(tree, cache, tmp_path / "linked")
    with pytest.raises(BlobsMissing, match=NS.blob(b"x").digest.hex()):
        apply(tree, cache, tmp_path / "copied", How.COPY)


async def test_names_that_no_file_system_holds(store: MemoryStore, cache: LocalCache, tmp_path: Path) -> None:
    for index, name in enumerate(("n" * 300, "/".join(["n" * 200] * 25))):
        tree = [plan([file_entry(name, b"")])]
        with pytest.raises(InvalidManifest, match="File name too long"):
            apply(tree, cache, tmp_path / str(index))


async def test_a_full_disk(
    store: MemoryStore, cache: LocalCache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tree = await planned(store, cache, TREE)

    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "symlink", full)
    with pytest.raises(NoSpace, match="No space left to map the tree"):
        apply(tree, cache, tmp_path / "tree")


async def test_links_are_made_last_whatever_the_names(cache: LocalCache, tmp_path: Path) -> None:
    """A file system may take two names for one; even an unchecked plan writes nothing through a link."""
    outside = tmp_path / "outside"
    outside.mkdir()
    link = Entry("a", Kind.LINK, target=str(outside))
    unchecked = [plan([link, file_entry("a/f", b"")])]
    with pytest.raises(InvalidManifest, match="another entry of the tree or its tars has this name"):
        apply(unchecked, cache, tmp_path / "tree")
    assert list(outside.iterdir()) == []
