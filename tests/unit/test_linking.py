"""Links made by several processes: each once, none forgotten, and nobody at it afterwards."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from isolate.cas.cache import CachePolicy, LocalCache
from isolate.cas.digest import Namespace
from isolate.cas.memory import MemoryStore
from isolate.errors import BlobsMissing, InvalidManifest
from isolate.fetch import fetch
from isolate.found import found, ignore
from isolate.monitor import NullMonitor
from run_isolated import beside, linking, many_links
from run_isolated.linking import Linkers
from run_isolated.many_links import ManyLinks, Places
from run_isolated.mapper import How, apply, directory
from run_isolated.plans import Plans
from run_isolated.result import Stopped
from tests.clock import ManualClock
from tests.stored import put_tree
from tests.trees import Tree, read_tree

NS = Namespace.parse("blake3-zstd")
COUNT = 300
BATCH, OWN_BATCH, MIN_SHARED_OUT = 16, 4, 100
TREE: Tree = {
    f"d{folder}": {f"f{number}\udcff": b"%d" % ((30 * folder + number) % 70) for number in range(30)}
    for folder in range(10)
}


class Work:
    """Files to be linked; `made_here` are the numbers of the links that were left to us."""

    def __init__(self, place: Path, files: int, root: int) -> None:
        self.place, self.files, self.root = place, files, root
        self.places = Places(str(place / "files"), str(place / "root"))
        self.sources = [f"s{number}" for number in range(COUNT)]
        self.paths = [f"d/p{number}\n\udcff" for number in range(COUNT)]
        self.made_here: list[int] = []
        for source in self.sources:
            (place / "files" / source).write_text(source)

    def make_one(self, number: int) -> None:
        os.link(self.sources[number], self.paths[number], src_dir_fd=self.files, dst_dir_fd=self.root)
        self.made_here.append(number)

    def make(self, linkers: Linkers, numbers: range = range(COUNT)) -> None:
        linkers.make(self.places, numbers, self.sources, self.paths, self.make_one)

    def check(self) -> None:
        made = {path: (self.place / "root" / path).read_text() for path in self.paths}
        assert made == dict(zip(self.paths, self.sources, strict=True))


@pytest.fixture
def work(tmp_path: Path) -> Iterator[Work]:
    (tmp_path / "files").mkdir()
    (tmp_path / "root/d").mkdir(parents=True)
    with directory(tmp_path / "files") as files, directory(tmp_path / "root") as root:
        yield Work(tmp_path, files, root)


@pytest.fixture(autouse=True)
def started(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[subprocess.Popen[bytes]]]:
    """Have small batches; return the processes that are started, none of which is left in the end."""
    processes: list[subprocess.Popen[bytes]] = []
    real = subprocess.Popen

    def watched(command: list[str], **options: Any) -> subprocess.Popen[bytes]:
        processes.append(real(command, **options))
        return processes[-1]

    monkeypatch.setattr(subprocess, "Popen", watched)
    for module, name, value in (
        (many_links, "MIN_SHARED_OUT", MIN_SHARED_OUT),
        (linking, "BATCH", BATCH),
        (linking, "OWN_BATCH", OWN_BATCH),
    ):
        monkeypatch.setattr(module, name, value)
    yield processes
    assert [process for process in processes if process.returncode is None] == []


def test_each_link_is_made_by_one_process(work: Work, started: list[subprocess.Popen[bytes]]) -> None:
    with Linkers(2) as linkers:
        work.make(linkers, range(1, COUNT))
        work.make_one(0)
        work.check()
        assert len(started) == 2
        assert 0 < len(work.made_here) <= COUNT - 2 * 2 * BATCH  # each has had two batches at the least
        assert len(set(work.made_here)) == len(work.made_here)
        os.mkdir("e", dir_fd=work.root)
        linkers.make(
            work.places, range(COUNT), work.sources, [f"e/{number}" for number in range(COUNT)], lambda _: None
        )
    assert len(started) == 2  # the same two
    assert len(os.listdir(work.place / "root/e")) >= 2 * 2 * BATCH


def test_what_links_need_is_made_while_others_are_at_the_links_before(work: Work) -> None:
    prepared: list[tuple[int, int]] = []  # up to which number, and how many links there were
    work.paths = [f"d/{number}/p" for number in range(COUNT)]

    def prepare(number: int) -> None:
        made = prepared[-1][0] if prepared else 0
        prepared.append((number, len(work.made_here)))
        for folder in range(made, number):
            os.mkdir(f"d/{folder}", dir_fd=work.root)

    with Linkers(2) as linkers:
        linkers.make(work.places, range(COUNT), work.sources, work.paths, work.make_one, prepare)
    work.check()
    assert 0 < len(work.made_here) < COUNT  # nothing that another process tried was left to us
    assert prepared[0][0] <= OWN_BATCH + BATCH
    assert prepared[-1] > (COUNT - 1, OWN_BATCH - 1)


def test_what_another_process_cannot_link_is_left_to_us(work: Work) -> None:
    lacking = COUNT // 2
    (work.place / "files" / f"s{lacking}").unlink()
    work.paths[10] = "absent/p"
    tried: list[int] = []

    def make_one(number: int) -> None:
        tried.append(number)
        if number not in {lacking, 10}:
            work.make_one(number)

    with Linkers(3) as linkers:
        linkers.make(work.places, range(COUNT), work.sources, work.paths, make_one)
    assert sorted(set(tried) - set(work.made_here)) == [10, lacking]
    assert len(os.listdir(work.place / "root/d")) == COUNT - 2


def test_nobody_is_started_without_a_processor(work: Work, started: list[subprocess.Popen[bytes]]) -> None:
    with Linkers(0) as linkers:
        work.make(linkers)
    assert work.made_here == list(range(COUNT))
    assert started == []


async def test_nobody_is_started_for_little(
    cache: LocalCache, tmp_path: Path, started: list[subprocess.Popen[bytes]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(many_links, "MIN_SHARED_OUT", COUNT + 1)
    with ManyLinks() as others:
        apply(await planned(cache, others), cache, tmp_path / "tree", others=others)
    assert read_tree(tmp_path / "tree") == TREE
    assert started == []


def test_where_no_process_may_be_started_we_do_it_all(work: Work, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise BlockingIOError(11, "Resource temporarily unavailable")

    monkeypatch.setattr(subprocess, "Popen", refuse)
    with Linkers(2) as linkers:
        work.make(linkers)
    assert work.made_here == list(range(COUNT))
    work.check()


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
@pytest.mark.parametrize("moment", [0, 2 * OWN_BATCH])  # both early enough for it to be given more
def test_what_a_process_that_was_killed_or_stopped_did_not_link_is_linked_here(
    work: Work,
    started: list[subprocess.Popen[bytes]],
    monkeypatch: pytest.MonkeyPatch,
    number: signal.Signals,
    moment: int,
) -> None:
    monkeypatch.setattr(beside, "PATIENCE_LOOKS", 3)
    monkeypatch.setattr(beside, "LOOK_MS", 10)
    checks: list[int] = []

    def make_one(link: int) -> None:
        if len(work.made_here) == moment:
            for process in started:
                process.send_signal(number)
        work.make_one(link)

    with Linkers(2, lambda: checks.append(1)) as linkers:
        linkers.make(work.places, range(COUNT), work.sources, work.paths, make_one)
        assert [process.returncode for process in started] == [-signal.SIGKILL] * 2
    work.check()
    assert len(set(work.made_here)) == len(work.made_here)
    assert checks or number == signal.SIGKILL


def test_a_name_that_is_another_files_is_told_also_after_a_process_was_killed(
    work: Work, started: list[subprocess.Popen[bytes]]
) -> None:
    work.paths[2 * OWN_BATCH] = work.paths[0]  # in the first batch that another process gets

    def make_one(number: int) -> None:
        for process in started:
            process.kill()
        work.make_one(number)

    with pytest.raises(FileExistsError), Linkers(2) as linkers:
        linkers.make(work.places, range(COUNT), work.sources, work.paths, make_one)


def test_a_process_that_is_stopped_keeps_nobody_from_ending(
    work: Work, started: list[subprocess.Popen[bytes]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(beside, "END_S", 0.01)

    def make_one(number: int) -> None:
        for process in started:
            process.send_signal(signal.SIGSTOP)
        work.make_one(number)

    def check() -> None:
        raise Stopped("wanted no more")

    with pytest.raises(Stopped), Linkers(2, check) as linkers:
        linkers.make(work.places, range(COUNT), work.sources, work.paths, make_one)
    assert [process.returncode for process in started] == [-signal.SIGKILL] * 2


def test_nobody_makes_links_after_an_error(work: Work, started: list[subprocess.Popen[bytes]]) -> None:
    def refuse(_: int) -> None:
        raise NotADirectoryError

    linkers = Linkers(2)
    with pytest.raises(NotADirectoryError):
        linkers.make(work.places, range(COUNT), work.sources, work.paths, refuse)
    assert [process.returncode for process in started] == [0, 0]


async def planned(cache: LocalCache, others: ManyLinks | None = None) -> Plans:
    store, counted = MemoryStore(NS), ignore if others is None else others.expect
    return Plans((await fetch(store, cache, await put_tree(store, TREE), NullMonitor(), counted=counted)).tree)


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[LocalCache]:
    monkeypatch.setattr(beside, "helper_count", lambda: 2)
    with LocalCache.open(tmp_path / "cache", NS, CachePolicy(), ManualClock(), NullMonitor()) as cache:
        yield cache


@pytest.mark.parametrize("how", [How.LINK, How.ONLY_LINK, How.COPY])
async def test_a_tree_is_the_same_whoever_makes_it(
    cache: LocalCache, tmp_path: Path, started: list[subprocess.Popen[bytes]], how: How
) -> None:
    with ManyLinks() as others:
        mapped = apply(await planned(cache, others), cache, tmp_path / "tree", how, others=others)
    assert read_tree(tmp_path / "tree") == TREE
    assert len(started) == 2
    assert mapped.copied_files == (0 if how.is_shared else COUNT)
    assert mapped.linked.files == (70 if how.is_shared else 0)


async def test_who_helps_is_there_before_the_tree_is_in_memory_and_found_again_in_the_cache(
    cache: LocalCache, started: list[subprocess.Popen[bytes]]
) -> None:
    """A process that is being born counts as one of our size, so we have to be small."""
    root = await put_tree(store := MemoryStore(NS), TREE)
    content = [NS.blob(b"%d" % number) for number in range(70)]
    seen: list[tuple[int, int, int]] = []

    def counted(entries: int) -> None:
        others.expect(entries)
        seen.append((entries, len(started), len(cache.absent(content))))

    with ManyLinks() as others:
        (await fetch(store, cache, root, NullMonitor(), counted=counted)).pin.release()
    with ManyLinks() as others:
        assert found(cache, bytes.fromhex(root), NullMonitor(), counted) is not None
    others.expect(COUNT)  # by a thread that heard too late that it is over
    assert seen == [(COUNT, 2, 70), (COUNT, 4, 0)]
    assert len(started) == 4


async def test_a_tree_that_is_wanted_no_more_is_not_finished(
    cache: LocalCache, tmp_path: Path, started: list[subprocess.Popen[bytes]]
) -> None:
    checks = 0

    def check() -> None:
        nonlocal checks
        checks += 1
        if checks == 20:
            raise Stopped("wanted no more")

    with ManyLinks(check) as others:
        plans = await planned(cache, others)
        with pytest.raises(Stopped):
            apply(plans, cache, tmp_path / "tree", check=check, others=others)
        assert others.for_links(COUNT) is not None  # who is left has none to ask
    assert checks == 20
    assert [process.returncode for process in started] == [0, 0]
    assert len(list((tmp_path / "tree").glob("*/*"))) < COUNT


async def test_a_tree_that_cannot_be_made_is_told_as_ever(cache: LocalCache, tmp_path: Path) -> None:
    tree = await planned(cache)
    (plan,) = tree
    twice = replace(plan, files=(*plan.files, plan.files[150]))
    with pytest.raises(InvalidManifest, match="another entry of the tree"):
        apply([twice], cache, tmp_path / "clash")
    cache.path(NS.blob(b"33")).unlink()
    with pytest.raises(BlobsMissing, match=NS.blob(b"33").digest.hex()):
        apply(tree, cache, tmp_path / "lost")
