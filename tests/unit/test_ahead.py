"""isolate.ahead and isolate.scanner: the entries of a scan from another process, whatever becomes of that."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from isolate import scanner
from isolate.ahead import ScanAhead
from isolate.archive import ArchiveOptions, archive_tree
from isolate.cas.digest import Namespace
from isolate.cas.memory import MemoryStore
from isolate.denylist import denylist
from isolate.entries import Kind
from isolate.errors import InvalidInput
from isolate.monitor import NullMonitor
from isolate.partcache import path_of
from isolate.scan import Found, ScanRules, scan
from isolate.scanner import ENTRY_BYTES, HEAD, pack, unpack
from isolate.steps import scanned_ahead
from tests.clock import ManualClock
from tests.trees import Executable, Link, Tree, write_tree

OURS = Namespace.parse("blake3-zstd")
RULES = ScanRules(is_denied=denylist(["skipped"], defaults=False))
TREE: Tree = {
    "a": b"hello", "skipped": b"", "x.pyc": b"kept", "d": {"x": Executable(b"x"), "e": {}, "up": Link("../a")},
    "d.x": b"", "l\nine": b"1", "r\udcffw": b"", "out": Link("../outside"), "gone": Link("nowhere"),
    **{f"{number:03}": b"" for number in range(200)},
}  # fmt: skip


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "outside").write_bytes(b"of another tree")
    return write_tree(tmp_path / "tree", TREE)


def ahead_of(root: Path) -> ScanAhead:
    return ScanAhead(str(root), ["skipped"], defaults=False)


def test_entries_are_those_of_a_scan(root: Path) -> None:
    expected = list(scan(str(root), RULES))
    with ahead_of(root) as ahead:
        assert list(ahead.entries(RULES)) == expected
        (root / "new").touch()
        assert [found.path for found in ahead.entries(RULES) if found not in expected] == ["new"]
    assert {found.kind for found in expected} == {Kind.FILE, Kind.LINK, Kind.DIR}
    assert [found.source for found in expected if found.source] == [str(root.parent / "outside")]


def test_the_process_is_gone_when_the_context_is_left(root: Path) -> None:
    with ahead_of(root) as unread:
        assert Path(f"/proc/{unread.pid}").exists()
    with ahead_of(root) as begun:
        next(begun.entries(RULES))
    assert not Path(f"/proc/{unread.pid}").exists()
    assert not Path(f"/proc/{begun.pid}").exists()


def test_a_scanner_leaves_when_nobody_reads(root: Path) -> None:
    argv = [sys.executable, "-P", "-m", "isolate.scanner", str(root), scanner.WITHOUT_DEFAULTS]
    reading, writing = os.pipe()
    os.close(reading)
    try:
        assert subprocess.run(argv, stdout=writing, check=False).returncode == 1
    finally:
        os.close(writing)


@pytest.fixture(params=["exit 1", "yes", *(f"head -c {cut}" for cut in (3, 6_000, 16_000))])
def broken(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have scanners that end early, or talk nonsense."""
    script = tmp_path / "python"
    real = tmp_path / "real.py"
    # The real one with smaller batches.
    real.write_text(
        "import sys\nfrom isolate import scanner\nscanner.BATCH_ENTRIES = 100\nsys.exit(scanner.main(sys.argv[1:]))\n"
    )
    script.write_text(f'#!/bin/sh\nshift 3\n"{sys.executable}" -P "{real}" "$@" 2>/dev/null | {request.param}\n')
    script.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(script))


@pytest.mark.usefixtures("broken")
def test_a_scanner_that_fails_is_not_needed(root: Path) -> None:
    with ahead_of(root) as ahead:
        assert list(ahead.entries(RULES)) == list(scan(str(root), RULES))


def test_a_scanner_that_cannot_be_started_is_not_needed(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/nowhere/python")
    with ahead_of(root) as ahead:
        assert ahead.pid is None
        assert list(ahead.entries(RULES)) == list(scan(str(root), RULES))


def test_what_is_wrong_with_a_tree_is_told_as_without(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(root)  # the path of a socket is short
    with socket.socket(socket.AF_UNIX) as bound:
        bound.bind("e")
        with ahead_of(root) as ahead, pytest.raises(InvalidInput, match="is a socket"):
            list(ahead.entries(RULES))


@pytest.mark.parametrize("stamp", [(0, -1, -(1 << 63), 0, 0), ((1 << 64) - 1, 0, (1 << 63) - 1, (1 << 64) - 1, 1)])
def test_a_batch_is_read_as_it_was_written(stamp: tuple[int, int, int, int, int]) -> None:
    batch = [
        Found("a\udcff", Kind.FILE, 0o100777, stamp),
        Found("b", Kind.FILE, 0o100000, stamp, "/else where\n/b"),
        Found("c", Kind.LINK, target="\udc80"),
        Found("d", Kind.DIR),
    ]
    packed = pack(batch)
    entries, name_bytes = HEAD.unpack_from(packed)
    assert len(packed) == HEAD.size + entries * ENTRY_BYTES + name_bytes
    assert unpack(entries, packed[HEAD.size :]) == batch
    assert HEAD.unpack(pack([])) == (0, 0)


async def test_an_archive_takes_what_was_scanned_ahead(root: Path) -> None:
    options = ArchiveOptions(clock=ManualClock(), is_denied=RULES.is_denied)
    plain = await archive_tree(root, MemoryStore(OURS), options, NullMonitor())
    with ahead_of(root) as ahead:
        (root / "a").unlink()  # before its bytes are read, and perhaps after it was seen
        (root / "a").write_bytes(b"hello")
        options = ArchiveOptions(clock=ManualClock(), is_denied=RULES.is_denied, ahead=ahead)
        assert (await archive_tree(root, MemoryStore(OURS), options, NullMonitor())).hash == plain.hash


@pytest.fixture
def remembered(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Have the tree be known as a large one."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    path = path_of(tmp_path / "isolate/stat", str(root), OURS.algorithm)
    path.parent.mkdir(parents=True)
    path.touch()
    return path


GIVEN: dict[str, Any] = {"no_stat_cache": False, "skip_broken": False, "collapse": False, "denied": ("skipped",)}


@pytest.mark.parametrize("flag", ["", "no_stat_cache", "skip_broken", "collapse", "2020", "small", "file"])
def test_only_large_trees_are_scanned_ahead(root: Path, remembered: Path, flag: str) -> None:
    if flag == "small":
        remembered.unlink()
    namespace = "default-gzip" if flag == "2020" else OURS.name
    path = root / "a" if flag == "file" else root
    with scanned_ahead([str(path)], namespace, GIVEN | {flag: True}) as ahead:
        assert (ahead is None) is bool(flag)
        if ahead is not None:
            assert list(ahead.entries(RULES)) == list(scan(str(root), RULES))
