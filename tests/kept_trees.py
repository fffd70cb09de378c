"""A cache, the runs on it, and the trees that they leave there."""

from __future__ import annotations

import os
import shutil
import stat
from collections.abc import Callable
from pathlib import Path

from isolate.cas.cache import CachePolicy
from isolate.cas.digest import Namespace
from isolate.cas.memory import MemoryStore
from isolate.monitor import TallyMonitor
from run_isolated.fetching import load
from run_isolated.inputs import Inputs
from run_isolated.mapper import How
from run_isolated.stopping import Check, go_on
from tests.clock import ManualClock
from tests.trees import Executable, Link, Tree, read_tree

NS = Namespace.parse("blake3-zstd")
MIN_NAMES = 40


def a_tree(version: int = 0, names: int = MIN_NAMES) -> Tree:
    """Return a tree that is large enough to be kept; versions differ in a few files."""
    return {
        "many": {f"f{number:03}": b"content %d" % (number // 2) for number in range(names)},
        "d": {"deep": {"x": Executable(b"program"), "same": b"content 1", "e": b""}, "hollow": {}},
        "changing": {f"v{version}": b"version %d" % version, "always": b"version %d" % version},
        "run": Executable(b""),
        "l": Link("many/f000"),
        "n\udcff": b"name",
    }


class Machine:
    """One cache and the runs on it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.store = MemoryStore(NS)
        self.monitor = TallyMonitor()
        self.clock = ManualClock()
        self.policy = CachePolicy()
        self.cache_dir = path / "cache"
        self._runs = 0

    async def load(
        self, root: str, *, verify: bool = False, keep: bool = True, how: How = How.LINK, check: Check = go_on
    ) -> Run:
        self._runs += 1
        place = self.path / f"work{self._runs}" / "ir"
        place.mkdir(0o700, parents=True)
        store, clock, monitor = self.store, self.clock, self.monitor
        inputs = await load(
            store, root, place, self.cache_dir, self.policy, clock, monitor, how, verify=verify, keep=keep, check=check
        )
        return Run(inputs, place)

    async def run(self, root: str, tamper: Callable[[Path], object] = lambda _: None) -> Tree:
        """Go through one run and return the tree its command found; `tamper` is the command."""
        run = await self.load(root)
        found = read_tree(run.place)
        tamper(run.place)
        run.end()
        return found

    @property
    def kept(self) -> list[Path]:
        return sorted(path for path in (self.cache_dir / "trees").glob("*-*") if path.is_dir())

    def count(self, counter: str) -> int:
        return self.monitor.counters[counter]


class Run:
    def __init__(self, inputs: Inputs, place: Path) -> None:
        self.inputs, self.place = inputs, place

    def end(self) -> None:
        try:
            self.inputs.verify()
        finally:
            self.inputs.put_away()
            shutil.rmtree(self.place.parent, ignore_errors=True)
            self.inputs.close()


def overwritten(path: Path) -> None:
    """Write as many bytes; size, mtime, inode and mode tell nothing."""
    before = path.stat()
    path.chmod(0o700)
    with path.open("r+b") as writing:
        writing.write(b"C")
    path.chmod(stat.S_IMODE(before.st_mode))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
