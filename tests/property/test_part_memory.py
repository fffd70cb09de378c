"""Whatever happens to a large tree, what is remembered of it gives the hash that reading all of it gives."""

from __future__ import annotations

import asyncio
import itertools
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from isolate import slab, split
from isolate.archive import ArchiveOptions, archive_tree
from isolate.archived import Archived
from isolate.cas.digest import Namespace
from isolate.cas.memory import MemoryStore
from isolate.monitor import TallyMonitor
from tests.clock import ManualClock

OURS = Namespace.parse("blake3-zstd")
CLOCK = ManualClock(10_000_000_000.0)  # all files are old

# Names that sort before and behind the "/" of what is below another one.
names = st.sampled_from(["a", "a-", "a.b", "a0", "b", "é", "b\udcff"])
places = st.lists(names, min_size=1, max_size=3).map("/".join)
changes = st.tuples(st.sampled_from(["write", "write", "remove", "link", "mkdir", "mode", "fill"]), places)


@pytest.fixture(autouse=True)
def _small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(split, "RULE", split.Rule(12, 2, 1))
    monkeypatch.setattr(slab, "SLAB_ENTRIES", 5)


def change(root: Path, what: str, place: str, sizes: Iterator[int]) -> None:
    """Do `what` at `place`; what is in the way goes. Each content has a size of its own: stamps may be coarse."""
    path = root / place
    for above in [*reversed(path.relative_to(root).parents)][1:]:
        if (root / above).is_symlink() or (root / above).is_file():
            (root / above).unlink()
    path.parent.mkdir(parents=True, exist_ok=True)
    if what == "mode" and path.is_file() and not path.is_symlink():
        path.chmod(path.stat().st_mode ^ 0o100)
        return
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    path.unlink(missing_ok=True)
    match what:
        case "write":
            path.write_bytes(bytes(next(sizes)))
        case "link":
            path.symlink_to("nowhere")
        case "mkdir":
            path.mkdir()
        case "fill":
            path.mkdir()
            for number in range(9):
                (path / f"{number}").write_bytes(bytes(next(sizes)))


async def archived(root: Path, store: MemoryStore, memory: Path | None) -> Archived:
    options = ArchiveOptions(clock=CLOCK, stat_cache=memory, workers=0)
    return await archive_tree(root, store, options, TallyMonitor())


@settings(deadline=None, max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.lists(changes, min_size=1, max_size=3), min_size=1, max_size=5), st.integers(0, 5))
def test_memory_never_changes_a_hash(steps: list[list[tuple[str, str]]], forgets_at: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        root, memory, sizes = Path(folder, "tree"), Path(folder, "memory"), itertools.count(1)
        for place in ("a", "b/a", "b/b", "é"):
            change(root, "fill", place, sizes)
        store = MemoryStore(OURS)
        for number, step in enumerate([[], *steps]):
            for what, place in step:
                change(root, what, place, sizes)
            if number == forgets_at:
                store = MemoryStore(OURS)  # the server lost everything
            remembering = asyncio.run(archived(root, store, memory))
            reading = asyncio.run(archived(root, store, None))
            assert reading.uploaded_blobs == 0  # everything was brought
            assert (remembering.hash, remembering.manifest) == (reading.hash, reading.manifest)
            assert (remembering.files, remembering.size_bytes) == (reading.files, reading.size_bytes)
