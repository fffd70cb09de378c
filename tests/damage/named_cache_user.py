"""A run with a named cache that is killed at every step of lending and taking back; tells what the next run finds.

Runs as `python -m tests.damage.named_cache_user DIRECTORY`: forking needs a process with one thread.
"""

from __future__ import annotations

import errno
import itertools
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from isolate.cas.lru import CachePolicy
from isolate.monitor import TallyMonitor
from run_isolated.installed import Installed, take_back
from run_isolated.named_caches import NamedCaches
from run_isolated.spec import NamedCache
from tests.clock import ManualClock

STEPS = ("rename", "replace", "unlink", "mkdir", "rmdir", "symlink")  # what changes a directory


def main(directory: Path) -> None:
    """Write a line for each step at which the run was killed."""
    for two_disks in (False, True):
        for step in itertools.count(1):
            place = directory / f"{step}-{two_disks}"
            killed = _use_and_die(place, step, two_disks=two_disks)
            told = {"step": step, "two_disks": two_disks, "killed": killed, **_look(place)}
            sys.stdout.write(json.dumps(told) + "\n")
            sys.stdout.flush()  # or each child would have it again
            if not killed:
                break


def _use_and_die(place: Path, step: int, *, two_disks: bool) -> bool:
    """Fill a cache; then use it in a process that ends before its `step`-th step. False: it came to its end."""
    (place / "ir-0/ir").mkdir(parents=True)
    with_file = place / "first"
    caches = NamedCaches(place / "root", CachePolicy(), ManualClock(), TallyMonitor())
    caches.install("a", with_file)
    (with_file / "d").mkdir()
    (with_file / "d/file").write_text("first")
    (with_file / "other").write_text("whole")
    caches.uninstall("a", with_file)
    child = os.fork()
    if child == 0:
        steps = itertools.count(1)
        for name in STEPS:
            setattr(os, name, _limited(getattr(os, name), steps, step, place / "ir-0" if two_disks else None))
        installed = Installed(place / "root", CachePolicy(), ManualClock(), TallyMonitor())
        installed.install([NamedCache("a", "x")], place / "ir-0/ir")
        (place / "ir-0/ir/x/d/file").write_text("second")
        installed.uninstall()
        os._exit(0)
    return os.waitpid(child, 0)[1] != 0


def _limited(call: Callable[..., Any], steps: itertools.count[int], last: int, disk: Path | None) -> Callable[..., Any]:
    """Return `call`, which ends the process at the step `last`, and cannot move directories out of or to `disk`."""

    def limited(*args: Any, **kwargs: Any) -> Any:
        if next(steps) == last:
            os._exit(9)
        if disk is not None and call.__name__ == "rename":
            one, other = (str(path).startswith(str(disk)) for path in args)
            if one != other:
                raise OSError(errno.EXDEV, "Invalid cross-device link")
        return call(*args, **kwargs)

    return limited


def _look(place: Path) -> dict[str, object]:
    """Do what the next run does, and say what it has."""
    monitor = TallyMonitor()
    take_back(place / "ir-0", ManualClock(), monitor)
    caches = NamedCaches(place / "root", CachePolicy(), ManualClock(), monitor)
    caches.cleanup()
    rest = set(os.listdir(place / "root")) - {"state.json", "lock", "named"}
    caches.install("a", place / "next")
    files = {
        str(path.relative_to(place / "next")): path.read_text()
        for path in (place / "next").rglob("*")
        if path.is_file()
    }
    return {"files": files, "entries": len(rest), "problems": monitor.problems}


if __name__ == "__main__":
    main(Path(sys.argv[1]))
