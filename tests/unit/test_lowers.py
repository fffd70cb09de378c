"""Kept trees under overlays: shared, locked, believed only as long as no command could reach them."""

from __future__ import annotations

import asyncio
import fcntl
import os
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from isolate.cas.cache import CachePolicy, LocalCache
from isolate.cas.digest import Namespace
from isolate.cas.memory import MemoryStore
from isolate.errors import InternalFailure
from isolate.monitor import TallyMonitor
from run_isolated import lowers, mapping, overlaid, reuse
from run_isolated.deletion import delete_tree
from run_isolated.exposure import Exposure
from run_isolated.fetching import load
from run_isolated.holding import locked, own
from run_isolated.inputs import Inputs
from run_isolated.overlaid import CannotOverlay, Overlaid
from run_isolated.placing import placed
from run_isolated.renewal import renew
from run_isolated.result import Stopped
from run_isolated.reuse import Trees
from run_isolated.spec import NamedCache, RunSpec
from run_isolated.stopping import Check, go_on
from run_isolated.workdir import WorkDir
from tests.clock import ManualClock
from tests.stored import put_tree
from tests.trees import Executable, Link, Tree, read_tree

NS = Namespace.parse("blake3-zstd")
TREE: Tree = {
    "many": {f"f{number}": b"content %d" % number for number in range(20)},
    "run": Executable(b"program"),
    "e": b"",
    "l": Link("run"),
    "hollow": {},
}


async def _can(_: Sequence[str]) -> str:
    return ""


class Machine:
    """One cache, and runs whose trees are to be mounted; nothing is, which is the launcher's part."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.store, self.monitor, self.clock = MemoryStore(NS), TallyMonitor(), ManualClock()
        self.cache_dir = path / "cache"
        self.compared: list[int] = []

    async def load(self, root: str, *, verify: bool = False, check: Check = go_on) -> Run:
        work = WorkDir.make(self.path / "work", keep=False)
        try:
            loading = partial(Overlaid.load, self.store, root, work, self.cache_dir, CachePolicy(), self.clock)
            overlaid = await loading(self.monitor, _can, verify=verify, check=check)
        except BaseException:
            work.close()
            raise
        return Run(overlaid, work)

    async def link(self, root: str, command: Callable[[Path], object] = lambda _: None) -> None:
        """Go through a run whose command has links."""
        work = WorkDir.make(self.path / "work", keep=False)
        inputs = await load(self.store, root, work.run, self.cache_dir, CachePolicy(), self.clock, self.monitor)
        with self.exposed():
            command(work.run)
        inputs.verify()
        inputs.put_away()
        work.close()
        inputs.close()

    def exposed(self) -> ExposedWhile:
        return ExposedWhile(self.cache_dir)

    @property
    def kept(self) -> list[Path]:
        return [path for path in (self.cache_dir / "trees").iterdir() if path.is_dir()]


class Run:
    def __init__(self, overlaid: Overlaid, work: WorkDir) -> None:
        self.overlaid, self._work = overlaid, work

    @property
    def lower(self) -> Path:
        return Path(self.overlaid.overlay[0])

    def end(self) -> None:
        try:
            self.overlaid.verify()
        finally:
            self._work.close()
            self.overlaid.close()


class ExposedWhile:
    """A command runs that can reach the cache."""

    def __init__(self, cache_dir: Path) -> None:
        self._exposure = Exposure(cache_dir)

    def __enter__(self) -> None:
        self._exposure.begin()

    def __exit__(self, *_: object) -> None:
        self._exposure.end()


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    made = Machine(tmp_path)

    def counted(*arguments: Any, **named: Any) -> int:
        made.compared.append(1)
        return renew(*arguments, **named)

    monkeypatch.setattr(lowers, "renew", counted)
    for module in (mapping, reuse):
        monkeypatch.setattr(module, "MIN_NAMES", 10)
    return made


async def test_the_next_run_looks_at_no_file(machine: Machine) -> None:
    root = await put_tree(machine.store, TREE)
    first = await machine.load(root)
    assert read_tree(first.lower) == TREE
    assert len(first.overlaid.transfer.items_cold) > 20
    first.end()
    machine.compared.clear()
    second = await machine.load(root)
    assert (second.lower, second.overlaid.transfer.items_cold) == (first.lower, ())
    assert sorted(second.overlaid.transfer.items_hot) == sorted(first.overlaid.transfer.items_cold)
    second.end()
    assert machine.compared == []
    assert len(machine.kept) == 1


async def test_nobody_waits_for_a_pipe_in_the_place_of_what_was_noted(machine: Machine) -> None:
    root = await put_tree(machine.store, TREE)
    (await machine.load(root)).end()
    noted = machine.kept[0] / "proven"
    noted.unlink()
    os.mkfifo(noted)
    (await machine.load(root)).end()
    assert noted.is_file()
    assert sorted(os.listdir(machine.kept[0])) == ["about", "folders", "proven", "shared", "tree"]


async def test_runs_share_a_tree_that_nobody_takes_or_deletes_meanwhile(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = await put_tree(machine.store, TREE)
    first, second = await machine.load(root), await machine.load(root)
    assert first.lower == second.lower
    first.end()
    monkeypatch.setattr(reuse, "MAX_TREES", 0)
    await machine.link(root)  # takes another tree, made anew, and trims
    assert machine.kept == [second.lower.parent]
    assert read_tree(second.lower) == TREE
    second.end()
    assert machine.kept == []


async def test_after_a_command_that_could_reach_it_a_tree_is_compared(machine: Machine) -> None:
    root = await put_tree(machine.store, TREE)
    (await machine.load(root)).end()
    machine.compared.clear()
    with machine.exposed():
        run = await machine.load(root)
        assert len(machine.compared) == 1
        run.end()
        assert len(machine.compared) == 2
    (await machine.load(root)).end()
    assert len(machine.compared) == 3
    (await machine.load(root)).end()
    assert len(machine.compared) == 3


def overwrite(path: Path) -> None:
    """Change bytes, and nothing else that is seen."""
    before = path.stat()
    path.chmod(0o600)
    path.write_bytes(b"X" * before.st_size)
    path.chmod(before.st_mode & 0o777)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


async def test_a_tree_that_was_written_to_is_made_anew(machine: Machine) -> None:
    root = await put_tree(machine.store, TREE)
    first = await machine.load(root)
    first.end()
    with machine.exposed():
        overwrite(first.lower / "many/f3")
        (first.lower / "more").write_bytes(b"surplus")
    second = await machine.load(root)
    assert read_tree(second.lower) == TREE
    second.end()


async def test_a_run_whose_tree_is_written_to_fails(machine: Machine) -> None:
    root = await put_tree(machine.store, TREE)
    run, other = await machine.load(root), await machine.load(root)
    with machine.exposed():
        overwrite(run.lower / "run")
    for sharer in (run, other):
        with pytest.raises(InternalFailure, match="changed while the command ran"):
            sharer.end()
    healed = await machine.load(root)
    assert read_tree(healed.lower) == TREE
    healed.end()


async def test_what_others_evict_is_not_what_a_command_over_a_tree_has(machine: Machine) -> None:
    root = await put_tree(machine.store, TREE)
    (await machine.load(root)).end()
    machine.compared.clear()
    run = await machine.load(root)
    with LocalCache.open(machine.cache_dir, NS, CachePolicy(max_items=1), machine.clock, machine.monitor) as other:
        other.trim()
    with machine.exposed():  # so that it is compared
        run.overlaid.verify()
    assert machine.compared == [1]
    run.end()
    with LocalCache.open(machine.cache_dir, NS, CachePolicy(max_items=1), machine.clock, machine.monitor) as other:
        other.trim()
        assert other.usage().items == 1


async def test_a_wrong_tree_in_use_is_offered_to_nobody(machine: Machine) -> None:
    root = await put_tree(machine.store, TREE)
    run = await machine.load(root)
    with machine.exposed():
        overwrite(run.lower / "run")
    other = await machine.load(root)
    assert other.lower != run.lower
    assert read_tree(other.lower) == TREE
    with pytest.raises(InternalFailure):
        run.end()
    other.end()
    assert machine.kept == [other.lower.parent]


async def test_links_and_overlays_hand_a_tree_to_each_other(machine: Machine) -> None:
    root = await put_tree(machine.store, TREE)
    await machine.link(root, lambda tree: (tree / "e").unlink())
    overlaid = await machine.load(root)
    assert read_tree(overlaid.lower) == TREE
    overlaid.end()
    await machine.link(root)
    assert len(machine.kept) == 1


async def test_a_name_outside_of_the_tree_is_none_of_the_next_tree(machine: Machine) -> None:
    root = await put_tree(machine.store, TREE)
    (await machine.load(root)).end()
    stash = machine.path / "stash"
    await machine.link(root, lambda tree: os.link(tree / "many/f3", stash))
    first = await machine.load(root)
    overwrite(stash)  # as a command over the tree could do, since it does not see only the cache
    first.end()
    second = await machine.load(root)
    assert read_tree(second.lower) == TREE
    second.end()


async def test_verified_inputs_are_right_also_where_nobody_looks(machine: Machine) -> None:
    root = await put_tree(machine.store, TREE)
    first = await machine.load(root)
    first.end()
    overwrite(first.lower / "many/f3")  # by somebody who is no run of ours
    verified = await machine.load(root, verify=True)
    assert read_tree(verified.lower) == TREE
    verified.end()


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"leak_temp_dir": True}, "kept for inspection"),
        ({"named_caches": [NamedCache("a", "a")]}, "named caches"),
        ({"outputs": ["a"]}, "outputs are taken"),
        ({}, "overlays are for others"),
    ],
)
async def test_a_run_that_cannot_have_an_overlay_has_links_and_is_told_why(
    machine: Machine, changes: dict[str, Any], reason: str
) -> None:
    root = await put_tree(machine.store, TREE)
    spec = RunSpec(root_dir=machine.path, base_env={}, mapping="overlay", **changes)
    work = WorkDir.make(spec.root_dir, keep=False)

    async def cannot(_: Sequence[str]) -> str:
        return "overlays are for others"

    inputs, became = await placed(root, spec, machine.store, work, cannot, machine.clock, machine.monitor)
    assert isinstance(inputs, Inputs)
    assert became.startswith("auto: ")
    assert reason in became
    assert reason in str(machine.monitor.problems)
    assert read_tree(work.run) == TREE
    inputs.close()
    work.close()


async def test_a_tree_that_cannot_be_kept_is_no_lower(machine: Machine) -> None:
    small = await put_tree(machine.store, {"a": b"1"})
    with pytest.raises(CannotOverlay, match="is not kept"):
        await machine.load(small)
    assert machine.kept == []


async def test_what_came_for_an_overlay_in_vain_was_not_there_before(machine: Machine) -> None:
    small = await put_tree(machine.store, {"a": b"1"})
    spec = RunSpec(root_dir=machine.path, base_env={}, mapping="overlay", cache_dir=machine.cache_dir)
    for number in range(2):
        work = WorkDir.make(spec.root_dir, keep=False)
        inputs, _ = await placed(small, spec, machine.store, work, _can, machine.clock, machine.monitor)
        counted = inputs.transfer.counted()
        assert (counted["fetched_blobs"], counted["known_blobs"], inputs.before.items) == [(2, 0, 0), (0, 2, 2)][number]
        assert counted["known_bytes" if number else "fetched_bytes"] > 1
        work.close()
        inputs.close()


@pytest.mark.parametrize("size", [1, 20])
async def test_what_is_being_made_or_deleted_is_nobody_elses(
    machine: Machine, monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    """Others trim the trees when a directory for one has just been made, and when it is about to be deleted."""
    root = await put_tree(machine.store, {"many": {f"f{number}": b"content %d" % number for number in range(size)}})
    moments: list[str] = []

    def trimmed_by_others(moment: str) -> None:
        moments.append(moment)
        cache = LocalCache.open(machine.cache_dir, NS, CachePolicy(), machine.clock, machine.monitor)
        Trees(cache, machine.monitor).trim()
        cache.close()

    def made(path: Path) -> int:
        if not moments:
            trimmed_by_others("made")
        return locked(path)

    def deleted(path: Path) -> None:
        trimmed_by_others("deleted")
        assert (path / "ir").exists() == (size == 1)
        delete_tree(path)
        assert not path.exists()

    monkeypatch.setattr(reuse, "locked", made)
    monkeypatch.setattr(overlaid, "delete_tree", deleted)
    if size == 1:
        with pytest.raises(CannotOverlay, match="is not kept"):
            await machine.load(root)
    else:
        (await machine.load(root)).end()
    assert moments == ["made", "deleted"]
    assert len(machine.kept) == (size > 1)
    assert machine.monitor.problems == []


async def test_of_runs_that_want_the_same_tree_at_once_one_makes_it(machine: Machine) -> None:
    root = await put_tree(machine.store, TREE)
    async with asyncio.TaskGroup() as group:
        runs = [task.result for task in [group.create_task(machine.load(root)) for _ in range(4)]]
    assert sorted(len(run().overlaid.transfer.items_cold) > 20 for run in runs) == [False, False, False, True]
    assert {run().lower.parent for run in runs} == set(machine.kept)
    assert len(machine.kept) == 1
    for run in runs:
        run().end()
    assert machine.monitor.problems == []


async def test_who_waits_for_another_run_that_makes_the_tree_can_be_stopped(machine: Machine) -> None:
    root = await put_tree(machine.store, TREE)
    place = machine.cache_dir / "trees" / f"making-{root}"
    place.parent.mkdir(parents=True)
    place.write_text("a command was here")
    making = own(place, go_on)
    asked: list[int] = []

    def check() -> None:
        asked.append(1)
        if len(asked) == 5:
            raise Stopped("wanted no more")

    with pytest.raises(Stopped, match="wanted no more"):
        await machine.load(root, check=check)
    assert machine.kept == [place]
    os.close(making)
    (await machine.load(root)).end()
    assert len(machine.kept) == 1
    assert machine.kept[0].name.startswith(root)


async def test_who_never_gets_hold_of_a_tree_is_told_so(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    root = await put_tree(machine.store, TREE)
    monkeypatch.setattr(overlaid, "hold", lambda *_: None)
    with pytest.raises(CannotOverlay, match="other runs took, or changed"):
        await machine.load(root)


async def test_a_work_directory_in_the_cache_would_be_hidden(machine: Machine) -> None:
    root = await put_tree(machine.store, TREE)
    machine.cache_dir = machine.path
    with pytest.raises(CannotOverlay, match="is in the cache"):
        await machine.load(root)


def test_exposures_are_seen_while_they_last_and_afterwards(tmp_path: Path) -> None:
    exposure, one, two = Exposure(tmp_path), Exposure(tmp_path), Exposure(tmp_path)
    number = exposure.number()
    assert number
    assert exposure.number() == number
    one.begin()
    two.begin()
    assert exposure.number() is None
    one.end()
    assert exposure.number() is None
    two.end()
    assert exposure.number() not in {None, number}
    nowhere = Exposure(tmp_path / "absent")
    nowhere.begin()
    nowhere.end()
    assert nowhere.number() is None
    assert not (tmp_path / "absent").exists()


@pytest.mark.parametrize("locked_path", [".", "exposure"])
def test_who_waits_for_somebody_who_looks_at_exposures_can_be_stopped(tmp_path: Path, locked_path: str) -> None:
    exposure = Exposure(tmp_path)
    assert exposure.number()
    lock = os.open(tmp_path / locked_path, os.O_RDONLY)
    fcntl.flock(lock, fcntl.LOCK_EX)
    waits = exposure.number if locked_path == "." else exposure.begin

    def check() -> None:
        raise Stopped("wanted no more")

    with pytest.raises(Stopped, match="wanted no more"):
        waits(check)
    os.close(lock)
    waits(check)
    exposure.end()
