"""Promise 4: what a command does to its inputs does not reach the next run."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from isolate.cas import cache_checks
from isolate.cas.cache import CachePolicy, LocalCache
from isolate.cas.cache_files import Hashed, hash_file
from isolate.cas.digest import Namespace
from isolate.cas.inode_flags import make_removable
from isolate.cas.memory import MemoryStore
from isolate.fetch import fetch
from isolate.found import Fetched
from isolate.monitor import NullMonitor, TallyMonitor
from run_isolated.deletion import delete_tree
from run_isolated.mapper import How, apply
from run_isolated.mapping import layout_of
from run_isolated.plans import Plans
from run_isolated.proof import Proof, Verdict
from tests.clock import ManualClock
from tests.inodes import IMMUTABLE, NO_DUMP, marks_at, set_flags
from tests.stored import put_tree
from tests.trees import Executable, Tree, read_tree

NS = Namespace.parse("blake3-zstd")
TREE: Tree = {"a": b"plain input", "x": Executable(b"program"), "b": b"other input", "e": b""}
A = NS.blob(b"plain input")


@pytest.fixture
def store() -> MemoryStore:
    return MemoryStore(NS)


@pytest.fixture
def cache(tmp_path: Path, clock: ManualClock, monitor: TallyMonitor) -> Iterator[LocalCache]:
    with LocalCache.open(tmp_path / "cache", NS, CachePolicy(), clock, monitor) as cache:
        yield cache


class Run:
    """One mapped tree and its proof."""

    def __init__(self, cache: LocalCache, fetched: Fetched, root: Path, how: How = How.LINK) -> None:
        self.root, self.fetched = root, fetched
        plans = Plans(fetched.tree)
        self.mapped = apply(plans, cache, root, how)
        self.proof = Proof.start(cache, self.mapped.linked, fetched.pin, layout_of(root, plans))

    @classmethod
    async def start(cls, store: MemoryStore, cache: LocalCache, root: Path, how: How = How.LINK) -> Run:
        return cls(cache, await fetch(store, cache, await put_tree(store, TREE), NullMonitor()), root, how)


def appended(path: Path) -> None:
    path.chmod(0o600)
    with path.open("ab") as file:
        file.write(b"!")


def overwritten_in_place(path: Path) -> None:
    before = path.stat()
    path.chmod(0o600)
    with path.open("r+b") as file:
        file.write(b"P")
    path.chmod(0o444)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))  # size and mtime tell nothing


def truncated(path: Path) -> None:
    path.chmod(0o600)
    os.truncate(path, 3)


def emptied_as_root(path: Path) -> None:
    os.chmod(path, 0o666)
    path.write_bytes(b"")


def replaced(path: Path) -> None:
    path.unlink()
    path.write_bytes(b"replaced")


def unlinked(path: Path) -> None:
    path.unlink()


def renamed(path: Path) -> None:
    path.rename(path.with_name("elsewhere"))


def made_writable(path: Path) -> None:
    path.chmod(0o777)


def touched(path: Path) -> None:
    os.utime(path, (1, 1))


def rewritten_with_the_same(path: Path) -> None:
    content = path.read_bytes()
    path.chmod(0o600)
    path.write_bytes(content)


Attack = Callable[[Path], None]


async def test_a_command_that_writes_nothing_costs_no_hash(
    store: MemoryStore, cache: LocalCache, tmp_path: Path
) -> None:
    run = await Run.start(store, cache, tmp_path / "run")
    (tmp_path / "run/a").read_bytes()
    assert run.proof.check() == Verdict(0, ())
    assert run.proof.check().problem is None


@pytest.mark.parametrize("name", ["a", "x"])
@pytest.mark.parametrize("attack", [appended, overwritten_in_place, truncated, emptied_as_root])
async def test_what_was_overwritten_is_dropped_and_the_next_run_is_right(
    store: MemoryStore, cache: LocalCache, tmp_path: Path, monitor: TallyMonitor, attack: Attack, name: str
) -> None:
    run = await Run.start(store, cache, tmp_path / "run")
    attack(tmp_path / "run" / name)
    verdict = run.proof.check()
    digest = A.digest if name == "a" else NS.blob(b"program").digest
    assert verdict.overwritten == (digest,)
    assert verdict.problem == f"Input {digest.hex()} was overwritten while the command ran"
    assert monitor.counters["damaged_cache_files"] == 1
    await Run.start(store, cache, tmp_path / "next")
    assert read_tree(tmp_path / "next") == TREE


@pytest.mark.parametrize("attack", [replaced, unlinked, renamed, made_writable, touched, rewritten_with_the_same])
async def test_what_does_not_change_the_bytes_is_no_failure(
    store: MemoryStore, cache: LocalCache, tmp_path: Path, attack: Attack
) -> None:
    run = await Run.start(store, cache, tmp_path / "run")
    attack(tmp_path / "run/a")
    assert run.proof.check().problem is None
    fetched = await fetch(store, cache, await put_tree(store, TREE), NullMonitor())
    assert not fetched.cold
    follower = Run(cache, fetched, tmp_path / "next")
    assert read_tree(tmp_path / "next") == TREE
    assert (tmp_path / "next/a").stat().st_mode & 0o222 == 0
    assert follower.proof.check().problem is None


async def test_a_run_that_never_ended_is_found_by_the_next(
    store: MemoryStore, cache: LocalCache, tmp_path: Path
) -> None:
    await Run.start(store, cache, tmp_path / "run")
    appended(tmp_path / "run/a")
    run = await Run.start(store, cache, tmp_path / "next")
    assert read_tree(tmp_path / "next") == TREE
    assert run.proof.check().problem is None


@pytest.mark.parametrize("finder", ["first", "second"])
async def test_overlapping_runs_all_learn_of_it(
    store: MemoryStore, cache: LocalCache, tmp_path: Path, finder: str
) -> None:
    first = await Run.start(store, cache, tmp_path / "first")
    second = await Run.start(store, cache, tmp_path / "second")
    appended(tmp_path / "first/a")
    order = [first, second] if finder == "first" else [second, first]
    assert [run.proof.check().overwritten for run in order] == [(A.digest,), (A.digest,)]
    late = await Run.start(store, cache, tmp_path / "late")
    assert late.proof.check().problem is None


async def test_an_overlapping_run_learns_what_a_fetch_found(
    store: MemoryStore, cache: LocalCache, tmp_path: Path
) -> None:
    run = await Run.start(store, cache, tmp_path / "run")
    appended(tmp_path / "run/a")
    await Run.start(store, cache, tmp_path / "other")  # finds it, drops it, fetches anew
    assert run.proof.check().overwritten == (A.digest,)


async def test_a_file_that_vanished_from_the_cache_counts_as_overwritten(
    store: MemoryStore, cache: LocalCache, tmp_path: Path
) -> None:
    run = await Run.start(store, cache, tmp_path / "run")
    cache.path(A).unlink()
    assert run.proof.check().overwritten == (A.digest,)


async def test_linking_by_others_is_a_hint_and_no_proof(store: MemoryStore, cache: LocalCache, tmp_path: Path) -> None:
    run = await Run.start(store, cache, tmp_path / "run")
    await Run.start(store, cache, tmp_path / "other")
    verdict = run.proof.check()
    assert verdict.rehashed_files == 3
    assert verdict.problem is None


async def test_a_clock_that_was_set_back_makes_everything_suspect(
    store: MemoryStore, cache: LocalCache, tmp_path: Path, clock: ManualClock
) -> None:
    run = await Run.start(store, cache, tmp_path / "run")
    clock.advance(3600)  # an hour passed; the file system's clock says less
    assert run.proof.check().rehashed_files == 3


async def test_copies_need_no_proof(store: MemoryStore, cache: LocalCache, tmp_path: Path) -> None:
    run = await Run.start(store, cache, tmp_path / "run", How.COPY)
    assert (run.mapped.linked.files, run.mapped.copied_files) == (0, 3)
    (tmp_path / "run/a").write_bytes(b"mine")
    assert run.proof.check() == Verdict(0, ())
    assert cache.path(A).read_bytes() == b"plain input"


class Stash:
    """Ways to another name of the input `a`, outside of the tree."""

    @staticmethod
    def linked(run: Path, aside: Path) -> Path:
        os.link(run / "a", aside / "a")
        return aside / "a"

    @staticmethod
    def moved(run: Path, aside: Path) -> Path:
        return (run / "a").rename(aside / "a")

    @staticmethod
    def moved_with_its_directory(run: Path, aside: Path) -> Path:
        """Move what no stat of a file shows, and put something of the same name there."""
        (run / "d").rename(aside / "d")
        (run / "d").mkdir()
        (run / "d/a").write_bytes(b"plain input")
        return aside / "d/a"

    @staticmethod
    def moved_with_all_above(run: Path, aside: Path) -> Path:
        run.rename(aside / "run")
        run.mkdir()
        return aside / "run/d/a"

    @staticmethod
    def moved_and_linked_back(run: Path, aside: Path) -> Path:
        """Have a link lead to a directory that nobody touched."""
        (run / "up").rename(aside / "up")
        (run / "up").symlink_to(aside / "up")
        return aside / "up/in/a"

    @staticmethod
    def moved_for_an_old_one(run: Path, aside: Path) -> Path:
        """Put a directory in its place that has an old one in it."""
        (run / "up").rename(aside / "up")
        (aside.parent / "old").rename(run / "up")
        return aside / "up/in/a"

    @staticmethod
    def all_linked_back(run: Path, aside: Path) -> Path:
        run.rename(aside / "run")
        run.symlink_to(aside / "run")
        return aside / "run/up/in/a"

    @staticmethod
    def all_above_linked_back(run: Path, aside: Path) -> Path:
        run.parent.rename(aside / "work")
        run.parent.symlink_to(aside / "work")
        return aside / "work/run/up/in/a"


DEEP: Tree = {
    **TREE,
    "d": {"a": b"plain input", "y": b"only here"},
    "up": {"in": {"a": b"plain input", "z": b"only there"}},
}


@pytest.mark.parametrize(
    ("stash", "replaced"),
    [
        (Stash.linked, 1),
        (Stash.moved, 1),
        (Stash.moved_with_its_directory, 2),
        (Stash.moved_with_all_above, 5),
        (Stash.moved_and_linked_back, 2),
        (Stash.moved_for_an_old_one, 2),
        (Stash.all_linked_back, 5),
        (Stash.all_above_linked_back, 5),
    ],
)
async def test_another_name_of_an_input_leads_to_no_file_of_the_cache(
    store: MemoryStore,
    cache: LocalCache,
    tmp_path: Path,
    monitor: TallyMonitor,
    stash: Callable[[Path, Path], Path],
    replaced: int,
) -> None:
    fetched = await fetch(store, cache, await put_tree(store, DEEP), NullMonitor())
    work, aside = tmp_path / "work", tmp_path / "aside"
    (tmp_path / "old/in").mkdir(parents=True)
    work.mkdir()
    run = Run(cache, fetched, work / "run")
    aside.mkdir()
    stashed = stash(work / "run", aside)
    assert run.proof.check().problem is None
    delete_tree(work)
    fetched.pin.release()
    again = await fetch(store, cache, await put_tree(store, DEEP), NullMonitor())
    assert not again.cold
    assert monitor.counters["replaced_cache_files"] == replaced
    assert stashed.stat().st_ino != cache.path(A).stat().st_ino
    overwritten_in_place(stashed)
    Run(cache, again, tmp_path / "next")
    assert read_tree(tmp_path / "next") == DEEP


async def test_names_that_others_may_have_made_are_counted_when_they_are_gone(
    store: MemoryStore, cache: LocalCache, tmp_path: Path, monitor: TallyMonitor
) -> None:
    """Runs at the same time link the same files: that costs hashes, never copies."""
    root = await put_tree(store, TREE)
    with LocalCache.open(cache.root, NS, CachePolicy(), ManualClock(), monitor) as other:
        mine, theirs = await fetch(store, cache, root, monitor), await fetch(store, other, root, monitor)
        run = Run(cache, mine, tmp_path / "run")
        Run(other, theirs, tmp_path / "other")
        assert run.proof.check().rehashed_files == 3
        shutil.rmtree(tmp_path / "run")
        mine.pin.release()
        inode = cache.path(A).stat().st_ino
        assert cache.absent([A]) == []
        assert cache.in_doubt([(A, False)])
        shutil.rmtree(tmp_path / "other")
    assert cache.absent([A]) == []
    assert not cache.in_doubt([(A, False)])
    assert cache.path(A).stat().st_ino == inode
    assert monitor.counters["replaced_cache_files"] == 0


async def test_an_input_that_somebody_has_open_for_writing_is_replaced(
    store: MemoryStore, cache: LocalCache, tmp_path: Path, monitor: TallyMonitor
) -> None:
    run = await Run.start(store, cache, tmp_path / "run")
    (tmp_path / "run/a").chmod(0o600)
    with (tmp_path / "run/a").open("r+b") as file:  # of a process that got it from the command
        assert run.proof.check().problem is None
        shutil.rmtree(tmp_path / "run")
        run.fetched.pin.release()
        assert cache.absent([A]) == []
        assert monitor.counters["replaced_cache_files"] == 1
        file.write(b"P")
    assert cache.path(A).read_bytes() == b"plain input"


def shut(path: Path) -> None:
    path.chmod(0)


def closed_to_others(path: Path) -> None:
    path.chmod(path.stat().st_mode & 0o500)


def given_away(path: Path) -> None:
    if os.geteuid():
        pytest.skip("only root can give files away")
    os.chown(path, 12, -1)


def given_to_a_group(path: Path) -> None:
    if os.geteuid():
        pytest.skip("only root can give files to any group")
    os.chown(path, -1, 12)


def attributed(path: Path) -> None:
    path.chmod(0o700)
    try:
        os.setxattr(path, "user.evil", b"1")
    except OSError as error:
        pytest.skip(f"no attributes here: {error}")
    path.chmod(0o555 if path.name == "x" else 0o444)


def flagged(path: Path) -> None:
    if not set_flags(path, NO_DUMP):
        pytest.skip("no flags here")


def made_immutable(path: Path) -> None:
    """And given another name, which is immutable as well."""
    os.link(path, path.parent.parent / f"immutable-{path.name}")
    if not set_flags(path, IMMUTABLE):
        pytest.skip("only root can, and not on each file system")


@pytest.fixture
def mutable_again(tmp_path: Path) -> Iterator[None]:
    """Let whoever deletes the files of this test do so."""
    yield
    for path in tmp_path.glob("immutable-*"):
        make_removable(str(path))


@pytest.mark.usefixtures("mutable_again")
@pytest.mark.parametrize("name", ["a", "x"])
@pytest.mark.parametrize(
    "change", [shut, closed_to_others, given_away, given_to_a_group, attributed, flagged, made_immutable]
)
async def test_what_a_command_gave_an_input_beside_bytes_does_not_reach_the_next(
    store: MemoryStore, cache: LocalCache, tmp_path: Path, monitor: TallyMonitor, change: Attack, name: str
) -> None:
    """Not even while another run has the file."""
    run = await Run.start(store, cache, tmp_path / "run")
    mode = (tmp_path / "run" / name).stat().st_mode
    change(tmp_path / "run" / name)
    with LocalCache.open(cache.root, NS, CachePolicy(), ManualClock(), monitor) as other:
        pin = other.pin([A.digest, NS.blob(b"program").digest])
        assert run.proof.check().problem is None
        run.fetched.pin.release()
        follower = await Run.start(store, cache, tmp_path / "next")
        assert other.poisoned_since(pin) == []
    status = (tmp_path / "next" / name).stat()
    assert (status.st_mode, status.st_uid) == (mode, os.geteuid())
    assert status.st_gid == (tmp_path / "next/b").stat().st_gid
    assert "user.evil" not in os.listxattr(tmp_path / "next" / name)
    assert marks_at(tmp_path / "next" / name) == marks_at(tmp_path / "next/b")
    assert read_tree(tmp_path / "next") == TREE
    assert follower.proof.check().problem is None
    assert monitor.counters["replaced_cache_files"] == 1


def test_a_file_that_nobody_may_read_is_hashed_by_its_owner() -> None:
    """As somebody who is not root, for whom modes do not count."""
    user = os.geteuid() or 65534
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "file")
        path.write_bytes(b"plain input")
        if os.geteuid() == 0 and not all(parent.stat().st_mode & 0o001 for parent in Path(folder).parents):
            pytest.skip("another user cannot reach the temporary directory here")  # in a task, say
        path.chmod(0)
        for owned in (folder, path):
            os.chown(owned, user, -1)
        before = os.geteuid()
        os.seteuid(user)
        try:
            assert hash_file(str(path), NS.algorithm) is None
            found = hash_file(str(path), NS.algorithm, mode=0o444)
        finally:
            os.seteuid(before)
    assert found is not None
    assert (found.blob, found.form.mode) == (A, 0o400)


async def test_a_doubt_that_is_newer_than_the_look_stays(
    store: MemoryStore, cache: LocalCache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await fetch(store, cache, await put_tree(store, TREE), NullMonitor())
    cache.doubt([(A, False)])
    look = hash_file

    def overtaken(*arguments: Any, **options: Any) -> Hashed | None:
        seen = look(*arguments, **options)
        cache.doubt([(A, False)])
        return seen

    with monkeypatch.context() as patch:
        patch.setattr(cache_checks, "hash_file", overtaken)
        assert cache.absent([A]) == []
    assert cache.in_doubt([(A, False)])
    assert cache.absent([A]) == []
    assert not cache.in_doubt([(A, False)])


def test_what_was_overwritten_is_named_and_counted() -> None:
    assert Verdict(0, ()).problem is None
    assert Verdict(1, (b"\1",)).problem == "Input 01 was overwritten while the command ran"
    assert Verdict(2, (b"\1", b"\2")).problem == "Input 01 and 1 more were overwritten while the command ran"
