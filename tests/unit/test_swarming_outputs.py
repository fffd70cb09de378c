"""swarming.outputs: files of tasks, from a real blob store over HTTP."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from isolate.cas.cache import CachePolicy, LocalCache
from isolate.cas.digest import Namespace
from isolate.cas.remote import HttpStore
from isolate.clock import SystemClock
from isolate.errors import BlobsMissing, InvalidInput, IsolateError, NoSpace
from isolate.fetch import fetch as fetch_tree
from isolate.found import Fetched
from isolate.http import HttpClient
from isolate.monitor import NullMonitor, TallyMonitor
from server.stores.blobs import LocalBlobStores
from server.stores.limits import BlobLimits
from swarming import outputs as outputs_module
from swarming.client import OutputsRef
from swarming.outputs import OutputDownloader
from tests.cas_server import serving_cas
from tests.stored import put_tree
from tests.trees import Link, Tree

NS = Namespace.parse("blake3-zstd")


@pytest.fixture
async def outputs(tmp_path: Path) -> AsyncIterator[OutputsRef]:
    """A tree of outputs on a server."""
    limits = BlobLimits(min_free_bytes=0)
    (tmp_path / "store").mkdir()
    stores = await LocalBlobStores.open(tmp_path / "store", SystemClock(), NullMonitor(), limits)
    tree: Tree = {"a.txt": b"a", "logs": {"b.txt": b"bb", "deep": {"c.txt": b"ccc"}}, "link": Link("a.txt")}
    try:
        root = await put_tree(stores.namespace(NS), tree)
        async with serving_cas(stores) as url:
            yield OutputsRef(root, NS.name, url)
    finally:
        await stores.close()


async def bring(place: Path, outputs: OutputsRef, path_filter: str | None = None) -> TallyMonitor:
    monitor = TallyMonitor()
    pattern = None if path_filter is None else re.compile(path_filter)
    async with OutputDownloader(place / "out", place / "cache", pattern, monitor) as downloader:
        await downloader.fetch(3, outputs)
    return monitor


async def test_a_tree_comes_into_the_folder_of_its_shard(tmp_path: Path, outputs: OutputsRef) -> None:
    await bring(tmp_path, outputs)
    folder = tmp_path / "out" / "3"
    assert (folder / "logs/deep/c.txt").read_bytes() == b"ccc"
    assert (folder / "link").readlink() == Path("a.txt")
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["3"], "nothing else is left"


async def test_only_what_matches_is_fetched(tmp_path: Path, outputs: OutputsRef) -> None:
    monitor = await bring(tmp_path, outputs, "logs/[a-z.]+$")
    assert sorted(path.name for path in (tmp_path / "out").rglob("*.txt")) == ["b.txt"]
    assert (monitor.counters["fetched_manifests"], monitor.counters["fetched_blobs"]) == (1, 1)


async def test_it_may_be_repeated_over_what_is_there(tmp_path: Path, outputs: OutputsRef) -> None:
    await bring(tmp_path, outputs, "a")
    folder = tmp_path / "out" / "3"
    (folder / "a.txt").chmod(0o600)
    (folder / "a.txt").write_text("of an older try")
    (folder / "mine.txt").write_text("kept")
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (folder / "logs").symlink_to(elsewhere)  # not to be written through
    await bring(tmp_path, outputs)
    assert (folder / "a.txt").read_bytes() == b"a"
    assert (folder / "mine.txt").read_text() == "kept"
    assert (folder / "logs/b.txt").read_bytes() == b"bb"
    assert list(elsewhere.iterdir()) == []


async def test_a_second_shard_with_the_same_files_costs_no_transfer(tmp_path: Path, outputs: OutputsRef) -> None:
    await bring(tmp_path, outputs)
    assert "fetched_blobs" not in (await bring(tmp_path, outputs)).counters


async def test_the_connections_of_the_scheduler_serve_when_it_is_the_same_server(
    tmp_path: Path, outputs: OutputsRef
) -> None:
    async with HttpClient(outputs.server, user_agent="test", connections=1) as http:
        other = OutputsRef(outputs.isolated, outputs.namespace, outputs.server + "/")
        async with OutputDownloader(tmp_path / "out", tmp_path / "cache", None, NullMonitor(), http) as downloader:
            await downloader.fetch(0, other)
            assert list(downloader.clients) == [outputs.server]


async def test_outputs_that_are_gone_are_named(tmp_path: Path, outputs: OutputsRef) -> None:
    with pytest.raises(BlobsMissing):
        await bring(tmp_path, OutputsRef("0" * 64, NS.name, outputs.server))


async def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path, outputs: OutputsRef) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "3").write_text("in the way")
    with pytest.raises(IsolateError, match=r"Cannot write outputs to .*/out/3: File exists") as failed:
        await bring(tmp_path, outputs)
    assert not isinstance(failed.value, InvalidInput)
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["3"]


@pytest.mark.parametrize("kind", ["unusable", "full"])
async def test_outputs_come_without_a_cache_that_serves(
    tmp_path: Path, outputs: OutputsRef, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if kind == "unusable":
        (tmp_path / "cache").write_text("in the way")
    else:
        monkeypatch.setattr(outputs_module, "POLICY", CachePolicy(min_free_bytes=1 << 60))
    tally = await bring(tmp_path, outputs)
    assert [problem for problem in tally.problems if "through a temporary cache in" in problem] == tally.problems != []
    assert (tmp_path / "out" / "3" / "logs" / "b.txt").read_bytes() == b"bb"
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["3"]


async def test_a_cache_that_gets_full_is_left(
    tmp_path: Path, outputs: OutputsRef, monkeypatch: pytest.MonkeyPatch
) -> None:
    caches = list[LocalCache]()

    async def fetch(store: HttpStore, cache: LocalCache, *rest: Any, **options: Any) -> Fetched:
        caches.append(cache)
        if cache is caches[0]:
            raise NoSpace("Not enough space for the cache")
        return await fetch_tree(store, cache, *rest, **options)

    monkeypatch.setattr(outputs_module, "fetch", fetch)
    async with OutputDownloader(tmp_path / "out", tmp_path / "cache", None, NullMonitor()) as downloader:
        await asyncio.gather(downloader.fetch(0, outputs), downloader.fetch(1, outputs))
    assert len(set(caches)) == 2
    assert (tmp_path / "out" / "1" / "a.txt").read_bytes() == b"a"
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["0", "1"]
