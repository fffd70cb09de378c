"""isolate.ahead and isolate.scanner: the entries of a scan from another process, whatever becomes of that."""

from __future__ import annotations

import errno
import os
import queue
import signal
import socket
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from isolate import scanner
from isolate.ahead import ScanAhead, _received
from isolate.archive import ArchiveOptions, archive_tree
from isolate.cas.digest import Namespace
from isolate.cas.memory import MemoryStore
from isolate.denylist import denylist
from isolate.entries import Kind
from isolate.errors import FileChanged, InvalidInput
from isolate.monitor import NullMonitor
from isolate.partcache import PartCache, beginnings, path_of, proof_of
from isolate.scan import Found, ScanRules, place_of, scan
from isolate.scanned import HEAD, Run, body_bytes, flat, pack, pack_end
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

KNOWN = [("000", 50), ("050", 30), ("080", 60), ("140", 60), ("d.x", 2)]  # of the last two there are more


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "outside").write_bytes(b"of another tree")
    return write_tree(tmp_path / "tree", TREE)


def ahead_of(root: Path, known: Sequence[tuple[str, int]] = ()) -> ScanAhead:
    return ScanAhead(str(root), RULES, known)


def told(ahead: ScanAhead) -> list[Found]:
    return list(flat(ahead.runs(RULES)))


def test_entries_are_those_of_a_scan(root: Path) -> None:
    expected = list(scan(str(root), RULES))
    with ahead_of(root) as ahead:
        assert told(ahead) == expected
        (root / "new").touch()
        assert [found.path for found in told(ahead) if found not in expected] == ["new"]
    assert {found.kind for found in expected} == {Kind.FILE, Kind.LINK, Kind.DIR}
    assert [found.source for found in expected if found.source] == [str(root.parent / "outside")]


def test_parts_that_are_looked_for_come_with_their_proof(root: Path) -> None:
    expected = list(scan(str(root), RULES))
    with ahead_of(root, KNOWN) as ahead:
        runs = list(ahead.runs(RULES))
    assert list(flat(runs)) == expected
    proven = [run for run in runs if isinstance(run, Run)]
    assert [(run.first, len(run)) for run in proven] == [("000", 50), ("050", 30), ("080", 60)]
    assert all(proof_of(list(run)) == run.proof == proof_of(run) for run in proven)


@given(st.data())
@settings(max_examples=40, deadline=None)
def test_a_scan_may_begin_anywhere(data: st.DataObject) -> None:
    name = st.sampled_from(["a", "b", "a.b", "a-", "ab", "0"])
    paths = data.draw(st.lists(st.lists(name, min_size=1, max_size=4).map("/".join), max_size=12))
    with tempfile.TemporaryDirectory() as folder:
        for path in paths:
            with suppress(OSError):
                if data.draw(st.booleans()):
                    os.makedirs(os.path.join(folder, path))
                else:
                    os.makedirs(os.path.join(folder, os.path.dirname(path)), exist_ok=True)
                    Path(folder, path).touch()
        entries = list(scan(folder, RULES))
        assert [place_of(found) for found in entries] == sorted(place_of(found) for found in entries)
        start = data.draw(st.one_of(st.sampled_from([*paths, ""]), st.text("ab.-/0", max_size=6)))
        assert list(scan(folder, RULES, start)) == [found for found in entries if place_of(found) >= start]


def test_both_scanners_see_one_place_between_them(root: Path) -> None:
    """As if a directory above that place had changed while one of them had seen it and the other had not."""
    with ahead_of(root, KNOWN) as ahead:
        ahead.start_all()
        _received(ahead._scanners[1].line)
        with pytest.raises(FileChanged, match="140"):
            told(ahead)
        assert told(ahead) == list(scan(str(root), RULES))  # which is what an archive does next


def test_the_process_is_gone_when_the_context_is_left(root: Path) -> None:
    with ahead_of(root, KNOWN) as unread:
        unread.start_all()
        assert all(Path(f"/proc/{pid}").exists() for pid in unread.pids)
    with ahead_of(root, KNOWN) as begun:
        next(begun.runs(RULES))
    assert (len(unread.pids), len(begun.pids)) == (2, 2)
    assert not any(Path(f"/proc/{pid}").exists() for pid in unread.pids + begun.pids)


def test_a_scanner_leaves_when_nobody_reads(root: Path) -> None:
    with ahead_of(root) as ahead:
        ahead._scanners[0].line.close()
        ended = os.waitid(os.P_PID, ahead.pids[0], os.WEXITED | os.WNOWAIT)
        assert ended is not None
        assert (ended.si_code, ended.si_status) == (os.CLD_EXITED, 1)


def test_a_scanner_that_waits_leaves_with_who_started_it(root: Path) -> None:
    with ahead_of(root, KNOWN) as ahead:
        waiting = ahead._scanners[1]
        os.close(waiting._tell)
        waiting._tell = -1
        ended = os.waitid(os.P_PID, waiting.pid, os.WEXITED | os.WNOWAIT)
        assert ended is not None
        assert (ended.si_code, ended.si_status) == (os.CLD_EXITED, 1)
        assert told(ahead) == list(scan(str(root), RULES))


def test_a_scanner_has_nothing_of_its_parent(root: Path) -> None:
    """Else somebody who waits for the end of our output would wait for the scanners as well."""
    reading, writing = os.pipe()
    os.set_inheritable(writing, True)
    with ahead_of(root, KNOWN) as ahead, open(reading, "rb") as output:
        os.close(writing)
        assert output.read() == b""  # while one of them waits to be told
        assert told(ahead) == list(scan(str(root), RULES))


@pytest.fixture(params=["nonsense", 0, 3, 6_000, 16_000])
def broken(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have scanners that end early, or talk nonsense; they are forks of this process."""

    def write(pieces: queue.Queue[bytes], descriptor: int) -> None:
        if request.param == "nonsense":
            while True:
                os.write(descriptor, b"y\n" * 4096)
        os.write(descriptor, b"".join(iter(pieces.get, b""))[: request.param])
        os._exit(0)

    monkeypatch.setattr(scanner, "BATCH_ENTRIES", 100)
    monkeypatch.setattr(scanner, "_write", write)


@pytest.mark.usefixtures("broken")
@pytest.mark.parametrize("known", [(), KNOWN])
def test_a_scanner_that_fails_is_not_needed(root: Path, known: Sequence[tuple[str, int]]) -> None:
    with ahead_of(root, known) as ahead:
        assert told(ahead) == list(scan(str(root), RULES))


@pytest.mark.parametrize("number", [0, 1])
def test_either_scanner_may_be_killed(root: Path, number: int) -> None:
    with ahead_of(root, KNOWN) as ahead:
        ahead.start_all()
        os.kill(ahead.pids[number], signal.SIGKILL)
        assert told(ahead) == list(scan(str(root), RULES))


def refused() -> int:
    raise BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable")


def test_a_scanner_that_cannot_be_started_is_not_needed(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fork", refused)
    before = len(os.listdir("/proc/self/fd"))
    with ahead_of(root) as ahead:
        assert ahead.pids == []
        assert len(os.listdir("/proc/self/fd")) == before
        assert told(ahead) == list(scan(str(root), RULES))


def test_what_is_wrong_with_a_tree_is_told_as_without(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(root)  # the path of a socket is short
    with socket.socket(socket.AF_UNIX) as bound:
        bound.bind("e")
        with ahead_of(root) as ahead, pytest.raises(InvalidInput, match="is a socket"):
            told(ahead)


@pytest.mark.parametrize("stamp", [(0, -1, -(1 << 63), 0, 0), ((1 << 64) - 1, 0, (1 << 63) - 1, (1 << 64) - 1, 1)])
def test_a_batch_is_read_as_it_was_written(stamp: tuple[int, int, int, int, int]) -> None:
    batch = [
        Found("a\udcff", Kind.FILE, 0o100777, stamp),
        Found("b", Kind.FILE, 0o100000, stamp, "/else where\n/b"),
        Found("c", Kind.LINK, target="\udc80"),
        Found("d", Kind.DIR),
    ]
    for part in (batch, batch[:1], batch[2:], batch[3:]):
        for proof in (None, b"p" * 32):
            run = received(pack(part) if proof is None else pack(part, proof))
            assert (len(run), run.first, run.last, run.proof) == (len(part), part[0].path, part[-1].path, proof)
            assert run.links == sum(found.kind is Kind.LINK for found in part)
            assert run.sizes() == [found.stamp and found.stamp[0] for found in part]
            assert (list(run), run[-1], run[1:]) == (part, part[-1], part[1:])
    end = received(pack_end("a\udcff"))
    assert (len(end), end.first, list(end)) == (0, "a\udcff", [])


def received(packed: bytes) -> Run:
    assert len(packed) == HEAD.size + body_bytes(packed[: HEAD.size])
    return Run(packed[: HEAD.size], packed[HEAD.size :])


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
    with PartCache(path.parent, str(root), OURS.algorithm, ManualClock(), NullMonitor()) as parts:
        entries = list(scan(str(root), RULES))
        parts.take(entries, [None] * len(entries), settled=True)
        parts.made(len(entries), OURS.blob(b""))
    assert beginnings(path.parent, str(root), OURS.algorithm) == [(entries[0].path, len(entries))]
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
            assert told(ahead) == list(scan(str(root), RULES))
