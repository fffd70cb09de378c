"""A tree whose manifest is cut into parts is fetched and mapped as the tree it is in one piece, or refused as that."""

from __future__ import annotations

import asyncio
import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from isolate import parts
from isolate.cas.cache import CachePolicy, LocalCache
from isolate.cas.digest import Namespace
from isolate.cas.memory import MemoryStore
from isolate.clock import SystemClock
from isolate.entries import Entry, Kind, check_tree
from isolate.errors import InvalidManifest
from isolate.fetch import fetch
from isolate.monitor import NullMonitor
from run_isolated import linked
from run_isolated.mapper import How, apply
from run_isolated.plans import Plans, plan
from tests.stored import put, put_parts, put_split
from tests.trees import Executable, Link, Tree, read_tree

OURS = Namespace.parse("blake3-zstd")
EXAMPLES = settings(deadline=None, max_examples=20, suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.fixture
def jail() -> Iterator[Callable[[], Path]]:
    """A new directory for each example."""
    with ExitStack() as stack:
        yield lambda: Path(stack.enter_context(tempfile.TemporaryDirectory()))


@pytest.fixture(autouse=True)
def _streamed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have no tree in memory as a whole."""
    for module, limit in ((parts, "HELD_ENTRIES"), (parts, "STEP_ENTRIES"), (linked, "HELD_FILES")):
        monkeypatch.setattr(module, limit, -1)


async def come_back(store: MemoryStore, root: str, base: Path, how: How = How.LINK) -> Tree:
    with LocalCache.open(base / "cache", OURS, CachePolicy(), SystemClock(), NullMonitor()) as cache:
        fetched = await fetch(store, cache, root, NullMonitor())
        assert fetched.tree.whole is None
        apply(Plans(fetched.tree), cache, base / "back", how)
    return read_tree(base / "back")


# Names that sort before and behind the "/" of what is below another one.
names = st.sampled_from(["a", "b", "a-", "a.b", "a0", "aé", os.fsdecode(b"a\xff"), "!"])
contents = st.sampled_from([b"", b"same", b"other", bytes(5_000)])
nodes = st.recursive(
    contents | contents.map(Executable) | names.map(Link),
    lambda inner: st.dictionaries(names, inner, max_size=4),
    max_leaves=16,
)
trees = st.dictionaries(names, nodes, min_size=2, max_size=6)


@EXAMPLES
@given(tree=trees, cuts=st.sets(st.integers(1, 20)), how=st.sampled_from(How))
def test_a_tree_in_parts_comes_back(jail: Callable[[], Path], tree: Tree, cuts: set[int], how: How) -> None:
    async def round_trip() -> Tree:
        store = MemoryStore(OURS)
        return await come_back(store, await put_split(store, tree, cuts), jail(), how)

    assert asyncio.run(round_trip()) == tree


hostile_names = st.sampled_from(["a", "b", "A", "a-", "é", "a0"])
hostile_paths = st.lists(hostile_names, min_size=1, max_size=3).map("/".join)
hostile_entries = st.one_of(
    st.builds(lambda path, up: Entry(path, Kind.LINK, target=f"{'../' * up}outside"), hostile_paths, st.integers(0, 3)),
    st.builds(lambda path: Entry(path, Kind.LINK, target="/"), hostile_paths),
    st.builds(lambda path: Entry(path, Kind.DIR), hostile_paths),
    st.builds(lambda path: Entry(path, Kind.FILE, OURS.empty, 0o640), hostile_paths),
)
hostile_parts = st.lists(st.lists(hostile_entries, max_size=3, unique_by=lambda entry: entry.path), max_size=5)


def united(found: Sequence[Sequence[Entry]]) -> list[Entry]:
    entries: dict[str, Entry] = {}
    for part in found:
        for entry in part:
            entries.setdefault(entry.path, entry)
    return sorted(entries.values())


@settings(EXAMPLES, max_examples=30)
@given(found=hostile_parts)
def test_parts_of_any_kind_are_mapped_as_one_or_refused(jail: Callable[[], Path], found: list[list[Entry]]) -> None:
    sound = [part for part in found if part and _is_tree(part)]
    base = jail()
    (base / "outside").mkdir()

    async def fetched() -> Tree | None:
        store = MemoryStore(OURS)
        try:
            return await come_back(store, await put_parts(store, [[], *map(sorted, sound)]), base)
        except InvalidManifest:
            return None

    whole = united(sound)
    result = asyncio.run(fetched())
    if _is_tree(whole):
        with LocalCache.open(base / "other", OURS, CachePolicy(), SystemClock(), NullMonitor()) as cache:
            apply([plan(whole)], cache, base / "whole")
        assert result == read_tree(base / "whole")
    else:
        assert result is None
    assert list((base / "outside").iterdir()) == []


def _is_tree(entries: Sequence[Entry]) -> bool:
    try:
        check_tree(sorted(entries))
    except InvalidManifest:
        return False
    return True


@pytest.mark.parametrize("is_forgotten", [False, True])
def test_a_blob_has_one_size_in_all_parts(
    jail: Callable[[], Path], monkeypatch: pytest.MonkeyPatch, *, is_forgotten: bool
) -> None:
    if is_forgotten:
        monkeypatch.setattr("isolate.found.MAX_SEEN", 0)
    right = Entry("a", Kind.FILE, OURS.blob(b"content"))
    wrong = Entry("b", Kind.FILE, OURS.blob(b"content")._replace(size=8))

    async def round_trip() -> None:
        store = MemoryStore(OURS)
        await put(store, [b"content"])
        await come_back(store, await put_parts(store, [[right], [wrong]]), jail())

    with pytest.raises(InvalidManifest, match=r"second size, 8 bytes|has 7 bytes, its manifest says 8"):
        asyncio.run(round_trip())


def test_what_is_in_parts_far_from_each_other_is_transferred_once(
    jail: Callable[[], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("isolate.found.MAX_SEEN", 0)
    monkeypatch.setattr("isolate.found.MAX_READ", 1)
    monkeypatch.setattr("isolate.transfer.STREAMS", 1)
    base = jail()

    async def round_trip() -> list[int]:
        store = MemoryStore(OURS)
        root = await put_split(store, {"a": b"one", "b": b"other", "c": b"one"}, (1, 2))
        with LocalCache.open(base / "cache", OURS, CachePolicy(), SystemClock(), NullMonitor()) as cache:
            return sorted((await fetch(store, cache, root, NullMonitor())).cold)[:3]

    assert asyncio.run(round_trip())[:2] == [3, 5]
    assert len(list((base / "cache/files").rglob("*/*/*"))) == 2 + 4
