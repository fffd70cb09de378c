"""A tree that is found in the cache while other processes look at its files: as right as if nobody helped."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from isolate.cas.cache import CachePolicy, LocalCache
from isolate.cas.cache_index import Index, Row
from isolate.errors import InternalFailure
from isolate.monitor import NullMonitor
from run_isolated import beside, looking, many_links, mapping, reuse
from run_isolated.looking import Looks
from run_isolated.proof import Proof
from tests.clock import ManualClock
from tests.kept_trees import MIN_NAMES, NS, Machine, a_tree, overwritten
from tests.stored import put_tree

TREE = a_tree()
PROGRAM, FIRST = NS.blob(b"program"), NS.blob(b"content 0")


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have help for a tree that is small enough for a test, and keep it."""
    monkeypatch.setattr(beside, "helper_count", lambda: 1)
    for module, name, value in (
        (many_links, "MIN_SHARED_OUT", MIN_NAMES),
        (looking, "MIN_SHARED_OUT", MIN_NAMES),
        (looking, "PIECE", 4),
        (mapping, "MIN_NAMES", MIN_NAMES),
        (reuse, "MIN_NAMES", MIN_NAMES),
    ):
        monkeypatch.setattr(module, name, value)


@pytest.fixture
async def root(machine: Machine) -> str:
    """Return a tree that is in the cache, and in no kept tree."""
    root = await put_tree(machine.store, TREE)
    await machine.run(root)
    forget_trees(machine)
    return root


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


def forget_trees(machine: Machine) -> None:
    for tree in machine.kept:
        shutil.rmtree(tree)


def cached(machine: Machine, name: str) -> Path:
    (path,) = machine.cache_dir.glob(f"files/*/*/{name}")
    return path


async def test_the_proof_is_made_of_what_was_found_and_the_tree_is_kept(
    machine: Machine, root: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("all is as it was found: nothing has to be noted")

    monkeypatch.setattr(Proof, "_noted", refuse)
    assert await machine.run(root) == TREE
    assert len(machine.kept) == 1
    assert await machine.run(root) == TREE
    assert (machine.count("reused_trees"), machine.count("corrected_names")) == (1, 0)


async def test_what_a_command_overwrote_is_found(machine: Machine, root: str) -> None:
    with pytest.raises(InternalFailure, match="overwritten while the command ran"):
        await machine.run(root, lambda place: overwritten(place / "many/f007"))
    assert machine.kept == []
    assert await machine.run(root) == TREE


async def test_links_that_others_make_are_no_failure_and_the_tree_is_kept(machine: Machine, root: str) -> None:
    await machine.run(root, lambda place: os.link(place / "many/f007", machine.path / "another"))
    assert len(machine.kept) == 1
    assert await machine.run(root) == TREE
    assert machine.count("damaged_cache_files") == 0


def _longer(path: Path) -> None:
    path.chmod(0o600)
    with path.open("ab") as file:
        file.write(b"!")


HARM: dict[str, Callable[[Path], object]] = {"gone": os.unlink, "longer": _longer}


@pytest.mark.parametrize("harm", HARM)
@pytest.mark.parametrize("name", [FIRST.digest.hex(), f"{PROGRAM.digest.hex()}.x"], ids=["plain", "executable"])
async def test_what_was_harmed_before_the_run_is_made_anew(machine: Machine, root: str, harm: str, name: str) -> None:
    HARM[harm](cached(machine, name))
    assert await machine.run(root) == TREE
    assert len(machine.kept) == 1
    assert await machine.run(root) == TREE


async def test_what_is_looked_up_is_looked_at_piece_by_piece(
    machine: Machine, root: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    looked_up: list[int] = []
    real = Index.look_up

    def counted(index: Index, keys: list[bytes]) -> dict[bytes, Row]:
        looked_up.append(len(keys))
        return real(index, keys)

    monkeypatch.setattr("isolate.cas.cache_doubt.PIECE", 10)
    monkeypatch.setattr(Index, "look_up", counted)
    run = await machine.load(root)
    assert max(looked_up) == 10
    run.end()


def test_all_is_expected_only_if_all_that_was_wanted_was_right(tmp_path: Path) -> None:
    contents = [b"content %d" % number for number in range(20)]
    blobs = [NS.blob(content) for content in contents]
    with LocalCache.open(tmp_path / "cache", NS, CachePolicy(), ManualClock(), NullMonitor()) as cache:
        cache.add(list(zip(blobs, contents, strict=True)))
        with Looks(cache) as looks:
            assert cache.absent(blobs[:10], eyes=looks) == []
            assert cache.absent(blobs[10:], eyes=looks) == []
            expected = looks.expected()
            assert expected is not None
            assert sorted(blob for variants in expected for blob, _ in variants) == sorted(blobs)
            unknown = NS.blob(b"unknown")
            assert cache.absent([unknown], eyes=looks) == [unknown]
            assert looks.expected() is None
        with Looks(cache) as looks:
            _longer(cache.path(blobs[3]))
            assert cache.absent(blobs, eyes=looks) == [blobs[3]]
            assert looks.expected() is None


def test_what_is_expected_of_too_many_files_is_not_held(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(looking, "HELD_FILES", 9)
    contents = [b"content %d" % number for number in range(10)]
    blobs = [NS.blob(content) for content in contents]
    with LocalCache.open(tmp_path / "cache", NS, CachePolicy(), ManualClock(), NullMonitor()) as cache:
        cache.add(list(zip(blobs, contents, strict=True)))
        with Looks(cache) as looks:
            assert cache.absent(blobs, eyes=looks) == []
            assert looks.expected() is None
            cache.path(blobs[3]).unlink()
            assert cache.absent(blobs, eyes=looks) == [blobs[3]]


async def kept(machine: Machine, root: str) -> Path:
    """Return the one tree that is kept."""
    await machine.run(root)
    (place,) = machine.kept
    return place / "tree"


async def test_links_to_files_of_a_kept_tree_are_no_reason_to_make_it_anew(machine: Machine, root: str) -> None:
    tree = await kept(machine, root)
    os.link(tree / "many/f007", machine.path / "another")  # moves the ctime
    assert await machine.run(root) == TREE
    assert (machine.count("reused_trees"), machine.count("rejected_trees")) == (1, 0)


@pytest.mark.parametrize("harm", [overwritten, lambda path: os.utime(path, (1, 1)), _longer])
async def test_a_kept_tree_of_which_a_file_was_written_to_is_made_anew(
    machine: Machine, root: str, harm: Callable[[Path], object]
) -> None:
    harm(await kept(machine, root) / "many/f007")
    assert await machine.run(root) == TREE
    assert (machine.count("reused_trees"), machine.count("rejected_trees")) == (0, 1)


async def test_a_name_in_a_kept_tree_that_leads_to_a_file_that_looks_the_same_is_corrected(
    machine: Machine, root: str
) -> None:
    path = await kept(machine, root) / "many/f007"
    before = path.stat()
    path.unlink()
    path.write_bytes(b"Content 3")
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert await machine.run(root) == TREE
    assert machine.count("corrected_names") >= 1
