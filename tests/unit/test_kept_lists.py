"""What is believed of a kept tree, and what its directories and links were given: harmed, forged, out of reach."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from run_isolated import folders, mapping, reuse
from run_isolated.folders import Folder
from tests.inodes import IMMUTABLE, NO_DUMP, SYNCHRONOUS, marks_at, set_flags
from tests.kept_trees import MIN_NAMES, Machine, a_tree, overwritten
from tests.stored import put_tree
from tests.trees import read_tree


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep trees that are small enough for a test."""
    monkeypatch.setattr(mapping, "MIN_NAMES", MIN_NAMES)
    monkeypatch.setattr(reuse, "MIN_NAMES", MIN_NAMES)


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


@pytest.mark.parametrize("file", ["about", "shared", "folders"])
@pytest.mark.parametrize("damage", ["gone", "cut", "flipped", "foreign", "a pipe", "a link to one", "a link"])
async def test_a_damaged_description_costs_time_only(machine: Machine, file: str, damage: str) -> None:
    tree = a_tree()
    root = await put_tree(machine.store, tree)
    await machine.run(root)
    path = machine.kept[0] / file
    content = bytearray(path.read_bytes())
    match damage:
        case "gone":
            path.unlink()
        case "flipped" if file == "folders":  # in a name: nothing but the check tells
            path.write_bytes(bytes(content).replace(b"f011", b"f0!1"))
        case "a pipe" | "a link to one":
            path.unlink()
            os.mkfifo(machine.path / "pipe" if damage == "a link to one" else path)
            if damage == "a link to one":
                path.symlink_to(machine.path / "pipe")
        case "a link":
            path.symlink_to(path.rename(machine.path / "list"))
        case "cut":
            path.write_bytes(content[: len(content) // 2])
        case "flipped":
            content[len(content) // 2] ^= 0xFF
            path.write_bytes(content)
        case _:
            path.write_bytes(b"\x93foreign")
    assert await machine.run(root) == tree


@pytest.mark.parametrize(
    "forged",
    [
        [(b"/victim", [], [b"made"]), (b"/victim/made", [], [])],
        [(b"d/../../victim", [], [b"made"]), (b"d/../../victim/made", [], [])],
        [(b"", [], [b".."]), (b"..", [], [b"victim"]), (b"../victim", [], [b"made"]), (b"../victim/made", [], [])],
        [(b"", [], [b"../victim"]), (b"../victim", [], [])],
        [(b"", [b"d"], []), (b"d", [b"planted"], [])],  # through a link that the list itself asks for
        [(b"", [b"d"], [b"d"]), (b"d", [b"planted"], [])],
        [(b"", [b"l"], [b"d"]), (b"d", [], [])] * 2,
        [(b"", [b"x/y"], [])],
    ],
)
async def test_a_list_leads_nowhere_but_into_its_tree(
    machine: Machine, forged: list[tuple[bytes, list[bytes], list[bytes]]]
) -> None:
    root = await put_tree(machine.store, a_tree())
    await machine.run(root)
    victim = machine.path / "victim"
    (victim / "sub").mkdir(parents=True)
    (victim / "file").write_bytes(b"mine")
    there = os.fsencode(machine.path)
    path = machine.kept[0] / "folders"
    with path.open("rb") as file:
        first, *others = folders.read(file)
    lists = [
        Folder(name.replace(b"/victim", there + b"/victim"), b"", b"", [], [(link, there) for link in links], inner)
        for name, links, inner in forged
    ]
    with path.open("wb") as file:
        folders.write(file, [*([] if forged[0][0] == b"" else [first, *others]), *lists])
    assert await machine.run(root) == a_tree()
    assert sorted(os.listdir(victim)) == ["file", "sub"]
    assert machine.count("rejected_trees") == 1


@pytest.mark.parametrize("version", [0, 1])
async def test_a_command_finds_nothing_beside_its_tree(machine: Machine, version: int) -> None:
    """What is believed afterwards, and names of files that are not its inputs, are out of its way."""
    roots = [await put_tree(machine.store, a_tree(number)) for number in range(2)]
    await machine.run(roots[0], lambda place: shutil.copytree(place / "d", place / "surplus", copy_function=os.link))
    again = await machine.load(roots[version])
    assert machine.count("reused_trees") == 1
    assert [path for path in again.place.parent.rglob("*") if not path.is_relative_to(again.place)] == []
    assert not (again.place / "surplus").exists()
    again.end()
    assert sorted(os.listdir(machine.cache_dir / "trees")) == sorted([machine.kept[0].name, "lock"])


async def test_a_tree_that_cannot_be_moved_to_where_it_is_wanted_stays_where_it_is(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = await put_tree(machine.store, a_tree())
    await machine.run(root)
    kept = machine.kept
    monkeypatch.setattr(reuse, "mount_of", lambda path: path)
    run = await machine.load(root)
    assert (read_tree(run.place), machine.kept) == (a_tree(), kept)
    run.end()
    assert machine.count("reused_trees") == 0
    assert machine.monitor.problems == []


async def test_what_a_live_run_took_stays_and_what_a_dead_one_took_goes(machine: Machine) -> None:
    root = await put_tree(machine.store, a_tree())
    await machine.run(root)
    one = await machine.load(root)
    assert [path.name.partition("-")[0] for path in machine.kept] == ["taken"]
    await machine.run(root)
    one.end()
    (left,) = [path for path in machine.kept if path.name.startswith(root)][:1]
    left.rename(left.with_name("taken-0123456789ab"))
    await machine.run(root)
    assert len(machine.kept) == 1
    assert machine.kept[0].name.startswith(root)


@pytest.mark.parametrize("harm", [Path.unlink, lambda path: path.write_bytes(b"foreign"), lambda path: path.chmod(0)])
async def test_a_list_that_was_harmed_hides_no_other_name_of_an_input(
    machine: Machine, harm: Callable[[Path], object]
) -> None:
    tree, elsewhere = a_tree(), machine.path / "elsewhere"
    root = await put_tree(machine.store, tree)
    await machine.run(root)

    def tamper(place: Path) -> None:
        (place / "many").rename(elsewhere)
        harm(machine.kept[0] / "folders")

    await machine.run(root, tamper)
    overwritten(elsewhere / "f009")
    assert await machine.run(root) == tree


def _owned_link(place: Path) -> None:
    os.chown(place / "l", 12, 12, follow_symlinks=False)


def _attributed_link(place: Path) -> None:
    os.setxattr(place / "l", "trusted.evil", b"1", follow_symlinks=False)


MARKINGS: dict[str, Callable[[Path], object]] = {
    "owner of a link": _owned_link,
    "attribute of a link": _attributed_link,
    "attribute of the system": lambda place: os.setxattr(place / "d", "security.evil", b"1"),
    "attribute": lambda place: os.setxattr(place / "d/deep", "user.evil", b"1"),
    "flags": lambda place: set_flags(place / "d", NO_DUMP | SYNCHRONOUS),
    "flags of the root": lambda place: set_flags(place, NO_DUMP),
    "flags of an input": lambda place: set_flags(place / "many/f003", NO_DUMP),
    "forbidden": lambda place: set_flags(place / "d", IMMUTABLE),
}


@pytest.mark.parametrize("marking", MARKINGS)
async def test_what_a_command_gave_directories_and_links_does_not_reach_the_next(
    machine: Machine, marking: str
) -> None:
    root = await put_tree(machine.store, a_tree())

    def tamper(place: Path) -> None:
        try:
            MARKINGS[marking](place)
        except OSError as error:
            pytest.skip(f"not possible here: {error}")

    await machine.run(root, tamper)
    run = await machine.load(root)
    assert read_tree(run.place) == a_tree()
    for path in (run.place, *run.place.rglob("*")):
        status = path.lstat()
        assert (status.st_uid, status.st_gid) == (os.geteuid(), run.place.parent.stat().st_gid)
        assert [name for name in os.listxattr(path, follow_symlinks=False) if "evil" in name] == []
        if not path.is_symlink():
            assert marks_at(path) == marks_at(run.place / "d/hollow" if path.is_dir() else run.place / "run")
    run.end()
