"""Trees that are kept for the next run: found again, compared, corrected, turned into others, given up."""

from __future__ import annotations

import itertools
import os
import shutil
import stat
from array import array
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from isolate import parts
from isolate.cas.cache import CachePolicy, LocalCache
from isolate.errors import InternalFailure
from run_isolated import fetching, inputs, linked, looking, mapping, reuse
from run_isolated.mapper import How
from run_isolated.result import Stopped
from run_isolated.reuse import MAX_TREES, Trees
from run_isolated.sealing import write_sealed
from tests.kept_trees import MIN_NAMES, NS, Machine, a_tree, overwritten
from tests.stored import put_split, put_tree
from tests.trees import Tree, read_tree


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep trees that are small enough for a test."""
    monkeypatch.setattr(mapping, "MIN_NAMES", MIN_NAMES)
    monkeypatch.setattr(reuse, "MIN_NAMES", MIN_NAMES)


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


async def test_the_next_run_gets_the_tree_without_a_link_or_a_look_at_the_store(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    tree = a_tree()
    root = await put_tree(machine.store, tree)
    assert await machine.run(root) == tree
    assert len(machine.kept) == 1

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("nothing is made or read anew")

    for name in ("link", "symlink"):
        monkeypatch.setattr(os, name, refuse)
    monkeypatch.setattr(machine.store, "read", refuse)
    assert await machine.run(root) == tree
    assert (machine.count("reused_trees"), machine.count("corrected_names")) == (1, 0)
    assert len(machine.kept) == 1


async def test_a_run_learns_of_the_kept_tree_what_the_manifest_says(machine: Machine) -> None:
    root = await put_tree(machine.store, a_tree())
    first = await machine.load(root)
    first.end()
    again = await machine.load(root)
    assert (again.inputs.command, again.inputs.relative_cwd) == (first.inputs.command, first.inputs.relative_cwd)
    assert sorted(again.inputs.transfer.items_hot) == sorted(first.inputs.transfer.items_cold)
    assert not again.inputs.transfer.items_cold
    again.end()


async def test_two_runs_at_once_have_a_tree_each(machine: Machine) -> None:
    tree = a_tree()
    root = await put_tree(machine.store, tree)
    await machine.run(root)
    one, other = await machine.load(root), await machine.load(root)
    assert not (one.place / "d").samefile(other.place / "d")
    assert read_tree(one.place) == read_tree(other.place) == tree
    one.end()
    other.end()
    assert len(machine.kept) == 2


def _appended(path: Path) -> None:
    file = path / "many/f007"
    file.unlink()
    file.write_bytes(b"mine")


def _became_link(path: Path) -> None:
    shutil.rmtree(path / "d/deep")
    (path / "d/deep").symlink_to("/etc")


def _became_file(path: Path) -> None:
    shutil.rmtree(path / "d")
    (path / "d").write_bytes(b"x")


def _link_elsewhere(path: Path) -> None:
    (path / "l").unlink()
    (path / "l").symlink_to("many/f001")


def _stripped(path: Path) -> None:
    for name in ("many", "d", "changing"):
        shutil.rmtree(path / name, ignore_errors=True)


TAMPERINGS: dict[str, Callable[[Path], object]] = {
    "new file": lambda path: (path / "d/new").write_bytes(b"new"),
    "new directory": lambda path: (path / "many/sub/sub").mkdir(parents=True),
    "file gone": lambda path: (path / "many/f003").unlink(),
    "file replaced": _appended,
    "file moved": lambda path: (path / "many/f003").rename(path / "many/f005"),
    "copy in its place": lambda path: _copied(path / "d/deep/same"),
    "directory gone": lambda path: shutil.rmtree(path / "d"),
    "directory moved": lambda path: (path / "d").rename(path / "many/d"),
    "directory became a link": _became_link,
    "directory opened": lambda path: (path / "d").chmod(0o777),
    "directory shut": lambda path: (path / "d/deep").chmod(0o500),
    "root opened": lambda path: path.chmod(0o755),
    "file in place of a directory": _became_file,
    "link elsewhere": _link_elsewhere,
    "empty file filled": lambda path: _filled(path / "run"),
    "empty file's mode": lambda path: (path / "d/deep/e").chmod(0o777),
    "a pipe": lambda path: os.mkfifo(path / "d/pipe"),
    "all gone": _stripped,
}


def _copied(path: Path) -> None:
    content, before = path.read_bytes(), path.stat()
    path.unlink()
    path.write_bytes(content.swapcase())
    path.chmod(stat.S_IMODE(before.st_mode))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def _filled(path: Path) -> None:
    path.chmod(0o700)
    path.write_bytes(b"filled")


@pytest.mark.parametrize("tampering", ["new file", "directory gone", "directory became a link", "file replaced"])
async def test_a_tree_that_is_too_large_for_memory_is_kept_just_so(
    machine: Machine, monkeypatch: pytest.MonkeyPatch, tampering: str
) -> None:
    """Its manifest comes in parts of five entries, of which one is in memory at a time."""
    for module, limit in ((parts, "HELD_ENTRIES"), (parts, "STEP_ENTRIES"), (linked, "HELD_FILES")):
        monkeypatch.setattr(module, limit, 0)
    tree, near = a_tree(), a_tree(1)
    root = await put_split(machine.store, tree, range(0, 100, 5))
    assert await machine.run(root, TAMPERINGS[tampering]) == tree
    assert await machine.run(root) == tree
    assert await machine.run(await put_split(machine.store, near, range(3, 100, 7))) == near
    assert await machine.run(await put_tree(machine.store, near)) == near
    assert (machine.count("reused_trees"), machine.count("rejected_trees"), len(machine.kept)) == (3, 0, 1)


@pytest.mark.parametrize("tampering", TAMPERINGS)
async def test_what_a_command_changed_is_right_again(machine: Machine, tampering: str) -> None:
    tree = a_tree()
    root = await put_tree(machine.store, tree)
    await machine.run(root, TAMPERINGS[tampering])
    assert await machine.run(root) == tree
    assert await machine.run(root) == tree


@given(st.lists(st.tuples(st.sampled_from(sorted(TAMPERINGS)), st.booleans()), min_size=1, max_size=4))
@settings(max_examples=5, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
async def test_no_change_goes_unnoticed_during_or_between_runs(
    tmp_path_factory: pytest.TempPathFactory, tamperings: list[tuple[str, bool]]
) -> None:
    machine = Machine(tmp_path_factory.mktemp("machine"))
    tree = a_tree()
    root = await put_tree(machine.store, tree)
    for name, between in tamperings:

        def tamper(path: Path, name: str = name) -> None:
            TAMPERINGS[name](path)

        assert await machine.run(root, (lambda _: None) if between else tamper) == tree
        if between and machine.kept:
            tamper(machine.kept[0] / "tree")
    assert await machine.run(root) == tree


async def test_a_write_through_a_link_between_runs_costs_the_file_and_the_tree(machine: Machine) -> None:
    tree = a_tree()
    root = await put_tree(machine.store, tree)
    await machine.run(root)
    file = machine.kept[0] / "tree/many/f009"
    overwritten(file)
    assert await machine.run(root) == tree
    assert machine.count("damaged_cache_files") == 1


@pytest.mark.parametrize("file", ["many/f009", "d/deep/x"])
async def test_a_file_found_wrong_while_a_near_tree_is_compared_is_fetched_again(machine: Machine, file: str) -> None:
    """The list of the cache says that the blob is there, so nothing is fetched before the mapping."""
    roots = [await put_tree(machine.store, a_tree(version)) for version in range(2)]
    await machine.run(roots[0])
    overwritten(machine.kept[0] / "tree" / file)
    assert await machine.run(roots[1]) == a_tree(1)
    assert await machine.run(roots[0]) == a_tree(0)
    assert machine.count("damaged_cache_files") == 1


@pytest.mark.parametrize("from_", [0, looking.MIN_SHARED_OUT])
async def test_a_file_that_another_one_took_the_place_of_is_no_part_of_a_kept_tree(
    machine: Machine, monkeypatch: pytest.MonkeyPatch, from_: int
) -> None:
    monkeypatch.setattr(looking, "MIN_SHARED_OUT", from_)
    tree = a_tree()
    root = await put_tree(machine.store, tree)
    await machine.run(root)
    with LocalCache.open(machine.cache_dir, NS, machine.policy, machine.clock, machine.monitor) as cache:
        (file,) = cache.files_of([(NS.blob(b"content 3"), False)])
        Path(file).rename(machine.path / "taken")  # which moves its ctime: it is hashed, and right
        shutil.copy2(machine.path / "taken", file)
    assert await machine.run(root) == tree
    assert machine.count("reused_trees") == 0


@pytest.mark.parametrize("from_", [0, looking.MIN_SHARED_OUT])
async def test_a_command_cannot_take_an_input_off_the_list_of_those_that_are_looked_at(
    machine: Machine, monkeypatch: pytest.MonkeyPatch, from_: int
) -> None:
    monkeypatch.setattr(looking, "MIN_SHARED_OUT", from_)
    root = await put_tree(machine.store, a_tree())
    await machine.run(root)
    run = await machine.load(root)
    assert machine.count("reused_trees") == 1
    overwritten(run.place / "many/f009")
    for path in (machine.cache_dir / "trees").glob("*/shared"):
        with path.open("wb") as file:
            write_sealed(file, [array("Q", [1]).tobytes()])
    with pytest.raises(InternalFailure, match="overwritten while the command ran"):
        run.end()
    assert machine.kept == []
    assert await machine.run(root) == a_tree()


async def test_a_tree_whose_command_wrote_to_an_input_is_not_kept(machine: Machine) -> None:
    root = await put_tree(machine.store, a_tree())
    run = await machine.load(root)
    (run.place / "many/f001").chmod(0o600)
    (run.place / "many/f001").write_bytes(b"overwritten")
    with pytest.raises(InternalFailure):
        run.end()
    assert machine.kept == []


async def test_linking_by_others_costs_a_hash_and_not_the_tree(machine: Machine) -> None:
    tree = a_tree()
    root = await put_tree(machine.store, tree)
    await machine.run(root)
    for number, file in enumerate(sorted((machine.kept[0] / "tree/many").iterdir())[:5]):
        os.link(file, machine.path / f"link{number}")
    assert await machine.run(root) == tree
    assert (machine.count("reused_trees"), machine.count("corrected_names")) == (1, 0)


async def test_a_near_tree_is_turned_into_the_one_that_is_wanted(machine: Machine) -> None:
    roots = [await put_tree(machine.store, a_tree(version)) for version in range(3)]
    assert await machine.run(roots[0]) == a_tree(0)
    assert await machine.run(roots[1]) == a_tree(1)
    assert (machine.count("reused_trees"), machine.count("corrected_names")) == (
        1,
        4,
    )  # one goes, one is new, one is replaced
    assert len(machine.kept) == 1
    assert await machine.run(roots[2]) == a_tree(2)
    assert await machine.run(roots[2]) == a_tree(2)
    assert machine.count("reused_trees") == 3


@pytest.mark.parametrize("path", ["", "d", "d/deep"])
async def test_a_directory_of_another_group_does_not_reach_the_next_command(machine: Machine, path: str) -> None:
    others = [group for group in (os.getgroups() if os.geteuid() else [12345]) if group != os.getegid()]
    if not others:
        pytest.skip("we are in no other group")
    root = await put_tree(machine.store, a_tree())
    await machine.run(root, lambda place: os.chown(place / path, -1, others[0]))
    run = await machine.load(root)
    assert read_tree(run.place) == a_tree()
    assert (run.place / path).stat().st_gid == run.place.parent.stat().st_gid
    run.end()
    assert (machine.count("reused_trees"), machine.count("rejected_trees")) == ((1, 0) if path else (0, 1))


async def test_a_tree_where_directories_inherit_their_group_is_used_again(machine: Machine) -> None:
    machine.path.chmod(0o2700)
    root = await put_tree(machine.store, a_tree())
    await machine.run(root)
    assert await machine.run(root) == a_tree()
    assert (machine.count("reused_trees"), machine.count("corrected_names")) == (1, 0)


@pytest.mark.parametrize("times", [1, 3, 99])
async def test_what_others_take_away_meanwhile_is_fetched_again_but_not_for_ever(
    machine: Machine, monkeypatch: pytest.MonkeyPatch, times: int
) -> None:
    tree: Tree = {"a": b"content", "b": b"more"}
    root, tries = await put_tree(machine.store, tree), itertools.count(1)

    def robbed(cache: LocalCache, *others: Any) -> object:
        if next(tries) <= times:
            for path in cache.files_of([(NS.blob(b"content"), False)]):
                os.unlink(path)
        return inputs.mapped(cache, *others)

    monkeypatch.setattr(fetching, "mapped", robbed)
    if times == 99:
        with pytest.raises(
            InternalFailure, match=r"^The inputs were fetched 8 times; others overwrite them in the cac"
        ):
            await machine.load(root)
        return
    run = await machine.load(root)
    assert read_tree(run.place) == tree
    assert sorted(run.inputs.transfer.items_cold)[:-1] == [4, *[7] * (times + 1)]  # the last one is the manifest
    assert list(run.inputs.transfer.items_hot) == []
    run.end()


async def test_a_tree_that_has_little_in_common_is_left_alone(machine: Machine) -> None:
    root = await put_tree(machine.store, a_tree())
    other: Tree = {f"g{number}": b"other %d" % number for number in range(MIN_NAMES)}
    await machine.run(root)
    assert await machine.run(await put_tree(machine.store, other)) == other
    assert machine.count("reused_trees") == 0
    assert len(machine.kept) == 2


async def test_files_that_left_the_cache_are_fetched_again(machine: Machine) -> None:
    tree = a_tree()
    root = await put_tree(machine.store, tree)
    await machine.run(root)
    with LocalCache.open(machine.cache_dir, NS, machine.policy, machine.clock, machine.monitor) as cache:
        cache.drop(NS.blob(b"content 3").digest)
    assert await machine.run(root) == tree
    assert machine.count("reused_trees") == 0


async def test_a_tree_of_another_boot_is_not_believed(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    tree = a_tree()
    root = await put_tree(machine.store, tree)
    await machine.run(root)
    monkeypatch.setattr("isolate.cas.cache_session.current_boot", lambda: "another boot")
    assert await machine.run(root) == tree
    assert machine.count("reused_trees") == 0
    assert len(machine.kept) == 1, "the old one was deleted"


@pytest.mark.parametrize(("names", "kept"), [(MIN_NAMES - 20, 0), (MIN_NAMES, 1)])
async def test_small_trees_are_not_worth_keeping(machine: Machine, names: int, kept: int) -> None:
    await machine.run(await put_tree(machine.store, a_tree(names=names)))
    assert len(machine.kept) == kept


class Patience:
    """A check that raises when it is called for the last time."""

    def __init__(self, calls: float) -> None:
        self.calls = calls

    def __call__(self) -> None:
        self.calls -= 1
        if self.calls <= 0:
            raise Stopped("wanted no more")


@pytest.mark.parametrize("way", ["new", "same", "hashed", "near"])
async def test_a_tree_that_is_wanted_no_more_is_not_finished(machine: Machine, way: str) -> None:
    root, near = await put_tree(machine.store, a_tree()), await put_tree(machine.store, a_tree(1))
    wanted = near if way == "near" else root
    if way != "new":
        await machine.run(root)
    if way == "near":
        (await machine.load(near, keep=False)).end()  # all of it is in the cache
    if way == "hashed":
        for number, file in enumerate((machine.kept[0] / "tree/many").iterdir()):
            os.link(file, machine.path / f"elsewhere{number}")
    patience = Patience(3 if way in {"same", "near"} else MIN_NAMES // 2)
    with pytest.raises(Stopped):
        await machine.load(wanted, check=patience)
    assert patience.calls == 0
    assert await machine.run(wanted) == a_tree(int(way == "near"))


async def test_copies_and_unwanted_trees_are_not_kept(machine: Machine) -> None:
    root = await put_tree(machine.store, a_tree())
    (await machine.load(root, how=How.COPY)).end()
    (await machine.load(root, keep=False)).end()
    assert machine.kept == []


async def test_with_verification_every_file_is_hashed_before_the_tree_is_used_again(machine: Machine) -> None:
    tree = a_tree()
    root = await put_tree(machine.store, tree)
    await machine.run(root)
    again = await machine.load(root, verify=True)
    assert read_tree(again.place) == tree
    again.end()
    assert machine.count("reused_trees") == 1


async def test_there_are_at_most_so_many_and_the_oldest_goes_first(machine: Machine) -> None:
    root = await put_tree(machine.store, a_tree())
    runs = [await machine.load(root) for _ in range(MAX_TREES + 2)]
    for run in runs:
        machine.clock.advance(10)
        run.end()
    assert len(machine.kept) == MAX_TREES


async def test_old_trees_go(machine: Machine) -> None:
    machine.policy = CachePolicy(max_age_s=1000)
    await machine.run(await put_tree(machine.store, a_tree()))
    machine.clock.advance(1001)
    other: Tree = {f"g{number}": b"other %d" % number for number in range(MIN_NAMES)}
    await machine.run(await put_tree(machine.store, other))
    assert len(machine.kept) == 1


async def test_what_a_dead_deletion_left_goes_with_the_next_and_all_when_asked(machine: Machine) -> None:
    root = await put_tree(machine.store, a_tree())
    await machine.run(root)
    trees = machine.cache_dir / "trees"
    (trees / "gone-half" / "d").mkdir(parents=True)
    await machine.run(root)
    assert not (trees / "gone-half").exists()
    with LocalCache.open(machine.cache_dir, NS, machine.policy, machine.clock, machine.monitor) as cache:
        assert Trees(cache, machine.monitor).clear()
        assert not Trees(cache, machine.monitor).clear()
    assert machine.kept == []


async def test_what_a_command_puts_among_the_kept_trees_goes(machine: Machine, tmp_path: Path) -> None:
    root = await put_tree(machine.store, a_tree())
    await machine.run(root)
    trees, elsewhere = machine.cache_dir / "trees", tmp_path / "elsewhere"
    elsewhere.mkdir()
    (trees / "file").write_bytes(b"")
    (trees / "link").symlink_to(elsewhere)
    (trees / "closed/inner").mkdir(parents=True)
    (trees / "closed").chmod(0)
    await machine.run(root)
    assert sorted(os.listdir(trees)) == sorted([machine.kept[0].name, "lock"])
    assert elsewhere.is_dir()
