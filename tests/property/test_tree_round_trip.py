"""Any tree comes back: archived, fetched into an empty cache, mapped. Any document is a manifest or is refused."""

from __future__ import annotations

import asyncio
import json
import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from isolate.archive import ArchiveOptions, archive_tree
from isolate.cas.cache import CachePolicy, LocalCache
from isolate.cas.digest import Namespace
from isolate.cas.memory import MemoryStore
from isolate.clock import SystemClock
from isolate.denylist import nothing
from isolate.entries import Entry
from isolate.errors import InvalidManifest
from isolate.fetch import fetch
from isolate.isolated import Manifest, dumps, loads
from isolate.monitor import NullMonitor
from run_isolated.mapper import How, apply
from run_isolated.plans import Plans, plan
from tests.examples import examples
from tests.trees import Executable, Link, Tree, read_tree, write_tree

OURS = Namespace.parse("blake3-zstd")

# Names as bytes: everything a Linux file system takes, mostly short and often colliding.
raw_names = st.binary(min_size=1, max_size=6).filter(lambda raw: raw not in {b".", b".."} and not {0, 47} & set(raw))
names = (raw_names | st.sampled_from([b"a", b"A", b"\\", b"a\\b", b"\xff", b"\n", "é".encode(), b"con", b" "])).map(
    os.fsdecode
)

contents = st.binary(max_size=40) | st.sampled_from([b"same", bytes(5_000)])
leaves = contents | contents.map(Executable)


def trees(targets: st.SearchStrategy[str], file_names: st.SearchStrategy[str] = names) -> st.SearchStrategy[Tree]:
    """Return directories of files, links to `targets`, and directories, some of them empty."""
    nodes = st.recursive(
        leaves | targets.map(Link), lambda inner: st.dictionaries(file_names, inner, max_size=4), max_leaves=12
    )
    return st.dictionaries(file_names, nodes, max_size=5)


def without_empty_directories(tree: Tree) -> Tree:
    kept: Tree = {}
    for name, node in tree.items():
        inner = without_empty_directories(node) if isinstance(node, dict) else node
        if inner != {}:
            kept[name] = inner
    return kept


@pytest.fixture
def jail() -> Iterator[Callable[[], Path]]:
    """A new directory for each example."""
    with ExitStack() as stack:
        yield lambda: Path(stack.enter_context(tempfile.TemporaryDirectory()))


def opened(root: Path, namespace: Namespace) -> LocalCache:
    return LocalCache.open(root, namespace, CachePolicy(), SystemClock(), NullMonitor())


async def round_trip(namespace: Namespace, tree: Tree, base: Path, how: How) -> Tree:
    """Archive, fetch and map `tree`, with a store in memory; returns what came back."""
    store = MemoryStore(namespace)
    options = ArchiveOptions(is_denied=nothing, workers=0)
    archived = await archive_tree(write_tree(base / "tree", tree), store, options, NullMonitor())
    with opened(base / "cache", namespace) as cache:
        fetched = await fetch(store, cache, archived.hash, NullMonitor())
        apply(Plans(fetched.tree), cache, base / "back", how)
    return read_tree(base / "back")


NO_DEADLINE = settings(
    deadline=None,
    max_examples=40,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)


@NO_DEADLINE
@given(tree=trees(names), how=st.sampled_from(How))
def test_a_tree_comes_back(jail: Callable[[], Path], tree: Tree, how: How) -> None:
    assert asyncio.run(round_trip(OURS, tree, jail(), how)) == tree


plain_names = names.filter(lambda name: "\\" not in name)


@NO_DEADLINE
@given(tree=trees(st.nothing(), plain_names))
@pytest.mark.parametrize("name", ["default-gzip", "sha512-flat"])
def test_a_tree_of_2020_comes_back_without_empty_directories(jail: Callable[[], Path], name: str, tree: Tree) -> None:
    files = without_empty_directories(tree)
    assert asyncio.run(round_trip(Namespace.parse(name), tree, jail(), How.LINK)) == files


hostile_parts = st.sampled_from(["..", ".", "", "a", "b", "A", "\\", "..\\", "\udcff", "\udcc3\udca9", "é", "\0", "C:"])
hostile_paths = st.lists(hostile_parts, min_size=1, max_size=4).map("/".join)
hostile_entries = (
    st.fixed_dictionaries({"l": hostile_paths | st.just("/") | st.integers()})
    | st.just({"t": "dir"})
    | st.just({"h": OURS.empty.digest.hex(), "s": 0})
    | st.fixed_dictionaries({"h": st.text(max_size=64), "s": st.integers()}, optional={"m": st.integers()})
)


@settings(NO_DEADLINE, max_examples=100)
@given(files=st.dictionaries(hostile_paths, hostile_entries, max_size=6))
def test_nothing_escapes(jail: Callable[[], Path], files: dict[str, Any]) -> None:
    base = jail()
    (base / "sentinel").write_bytes(b"untouched")
    accepted: dict[str, Any] = {}
    manifest = Manifest(algorithm=OURS.algorithm)
    for path, entry in files.items():
        with suppress(InvalidManifest):
            manifest = loads(json.dumps({"files": accepted | {path: entry}, "version": "2.0"}).encode(), OURS)
            accepted[path] = entry
    with opened(base / "cache", OURS) as cache:
        usage = cache.usage()
        apply([plan(empty_files(manifest))], cache, base / "tree")
        assert cache.usage() == usage
    assert sorted(path.name for path in base.iterdir()) == ["cache", "sentinel", "tree"]
    assert (base / "sentinel").read_bytes() == b"untouched"
    assert len(list((base / "tree").rglob("*"))) >= len(empty_files(manifest))


def empty_files(manifest: Manifest) -> tuple[Entry, ...]:
    """Return the entries that need no content."""
    return tuple(entry for entry in manifest.entries if entry.blob is None or not entry.blob.size)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=8,
)
keys = st.sampled_from(["algo", "command", "files", "includes", "read_only", "relative_cwd", "version", "os", "x"])
documents = st.dictionaries(keys, json_values | st.dictionaries(hostile_paths, hostile_entries, max_size=3))


@examples(300)
@given(data=st.binary(max_size=60) | documents.map(lambda record: json.dumps({"version": "2.0"} | record).encode()))
def test_any_bytes_are_a_manifest_or_refused(data: bytes) -> None:
    try:
        manifest = loads(data, OURS)
    except InvalidManifest as error:
        reason = str(error)
    else:
        reason = ""
        assert loads(dumps(manifest), OURS) == manifest
    assert "\n" not in reason
