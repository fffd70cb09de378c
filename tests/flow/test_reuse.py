"""Trees kept for the next run, seen from outside: real processes, some of them killed."""

from __future__ import annotations

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.archived import archived
from tests.flow.servers import ServerProcess
from tests.trees import Tree

COMMAND = str(Path(sys.executable).parent / "run_isolated")
FILES = 300
TREE: Tree = {"many": {f"f{number}": b"content %d" % number for number in range(FILES)}, "e": b"", "d": {}}
LOOK = "cat many/* | cksum; find . | sort | cksum"


@dataclass
class Place:
    """A server with one tree, and a machine that runs commands in it."""

    server: ServerProcess
    root: Path
    hash: str = ""

    def start(self, script: str) -> subprocess.Popen[str]:
        flags = ["-I", self.server.url, "--cache", str(self.root / "cache"), "--root-dir", str(self.root / "work")]
        arguments = [COMMAND, *flags, "--no-log", "-s", self.hash, "--raw-cmd", "--", "sh", "-c", script]
        return subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True, cwd=self.root)

    def look(self) -> str:
        """Return what a command finds."""
        with self.start(LOOK) as process:
            found, _ = process.communicate()
        assert process.returncode == 0
        return found

    @property
    def kept(self) -> int:
        """How many trees are on offer."""
        return len(list((self.root / "cache/trees").glob(f"{self.hash}-*")))


@pytest.fixture
async def place(server: ServerProcess, tmp_path: Path) -> Place:
    place = Place(server, tmp_path / "place")
    place.hash = await archived(server.url, place.root, TREE)
    return place


def test_a_killed_run_takes_its_tree_along_and_leaves_nothing(place: Place) -> None:
    found = place.look()
    assert place.kept == 1
    with place.start("rm -r many/f1*; echo mine > many/f2; mkdir new; echo ready; exec sleep 1000") as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
            assert place.kept == 0, "a tree in use is not on offer"
        finally:
            process.kill()
    assert place.look() == found
    assert os.listdir(place.root / "work") == []
    assert place.kept == 1


def test_runs_at_the_same_time_never_share_a_tree(place: Place) -> None:
    found = place.look()
    spoil = f"{LOOK}; echo mine > many/own; rm many/f7"

    def run(_: int) -> str:
        with place.start(spoil) as process:
            said, _error = process.communicate()
        assert process.returncode == 0
        return said

    with ThreadPoolExecutor(4) as threads:
        assert set(threads.map(run, range(6))) == {found}
    assert place.look() == found
    assert os.listdir(place.root / "work") == []


def test_clean_deletes_kept_trees(place: Place) -> None:
    place.look()
    environment = {key: value for key, value in os.environ.items() if key != "ISOLATE_SERVER"}
    flags = ["--clean", "--no-log", "--cache", str(place.root / "cache"), "--root-dir", str(place.root / "work")]
    subprocess.run([COMMAND, *flags], check=True, env=environment, cwd=place.root)
    assert place.kept == 0
