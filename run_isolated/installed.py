"""The named caches of one run: room for them, into its directory, and back.

Knows no command. The invariants: what was moved in is moved back or reported as lost, in reverse order, whatever
happened in between, a SIGKILL of ours included: then the next run does it; a full disk loses none. A link that a
command put in the place of a directory, or above it, is not followed.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path

from isolate.cas.cache import CachePolicy, LocalCache
from isolate.cas.files import write_atomic
from isolate.cas.foreign import open_plain
from isolate.clock import Clock
from isolate.errors import InternalFailure
from isolate.monitor import Monitor
from run_isolated.command import inner_path, working_directory
from run_isolated.deletion import OWNER, delete_all_but
from run_isolated.named_caches import MAX_BYTES, MAX_CACHES, NamedCaches, NoSpace
from run_isolated.spec import NamedCache, RunSpec
from run_isolated.stopping import Check, go_on
from run_isolated.trimming import Trimmable, trim_caches

WHENCE = "named_caches"  # beside the run directory: the folder where what is in it came from
_LONGEST_PATH_BYTES = 1 << 16


def named_caches_of(root: Path, policy: CachePolicy, clock: Clock, monitor: Monitor) -> NamedCaches:
    """Return the named caches at `root`; of `policy`, that of the content cache, free space and age hold for both."""
    return NamedCaches(root, replace(policy, max_bytes=MAX_BYTES, max_items=MAX_CACHES), clock, monitor)


def take_back(work_dir: Path, clock: Clock, monitor: Monitor) -> None:
    """Return the named caches of a dead run to where they came from; for whoever deletes `work_dir`."""
    try:
        with open_plain(work_dir / WHENCE) as file:
            root = os.fsdecode(file.read(_LONGEST_PATH_BYTES))
    except OSError:  # it had none, or the command made something else of it
        return
    if os.path.isabs(root) and "\0" not in root:  # the command may have written anything there
        try:
            taken = NamedCaches(Path(root), CachePolicy(), clock, monitor).take_back(work_dir)
        except InternalFailure as error:
            monitor.problem(error)
        else:
            monitor.count("named_caches_taken_back", len(taken))


class Installed:
    """Named caches, some of them in the directory of a run."""

    def __init__(self, root: Path, policy: CachePolicy, clock: Clock, monitor: Monitor) -> None:
        """`policy` is that of the content cache."""
        self._caches, self._policy, self._monitor = named_caches_of(root, policy, clock, monitor), policy, monitor
        self._inside: list[tuple[str, Path]] = []

    def make_room(
        self, wanted: Sequence[NamedCache], open_content_cache: Callable[[], LocalCache], check: Check = go_on
    ) -> None:
        """Evict what is oldest, named or content, until what is `wanted` and not here yet will fit."""
        absent = set(self._caches.touch([name for name, _, _ in wanted], check))
        coming_bytes = sum(max(0, hint) for name, _, hint in wanted if name in absent)

        def shortage_bytes() -> int:
            status = os.statvfs(self._caches.root)
            return self._policy.shortage_bytes(status.f_bavail * status.f_frsize, coming_bytes)

        if coming_bytes and shortage_bytes() > 0:
            with open_content_cache() as content:
                caches: list[Trimmable] = [self._caches, content]
                trim_caches(caches, shortage_bytes)

    def install(self, wanted: Sequence[NamedCache], run_dir: Path, check: Check = go_on) -> None:
        """Move the caches `wanted` into the tree at `run_dir`, outer ones first; raises InternalFailure."""
        if wanted:
            write_atomic(run_dir.parent / WHENCE, os.fsencode(self._caches.root))
        for name, path, _ in sorted(wanted, key=lambda cache: inner_path(cache.path)):
            parent, last = os.path.split(inner_path(path))
            place = working_directory(run_dir, parent)
            if place is None or last in {"", "."}:
                raise InternalFailure(f"The named cache {name!r} would be outside of the run directory, at {path!r}")
            self._caches.install(name, place / last, check)
            self._inside.append((name, place / last))

    def uninstall(self) -> None:
        """Move them back; what is not there any more is lost, and reported. On a full disk they stay for now."""
        self._return_all()

    def finish(self, work_dir: Path, *, keep: bool) -> None:
        """Move back what is still inside, now that the run is over; what cannot be is lost, and reported.

        The list of the caches has to be written for it: on a full disk all else in `work_dir` is deleted first, which
        nobody needs any more, unless it is to be kept.
        """
        full = self._return_all()
        if full and not keep:
            spared = {place for _, place in self._inside} | {work_dir / OWNER, work_dir / WHENCE}
            with suppress(InternalFailure):  # reported when the directory itself is deleted
                delete_all_but(work_dir, spared)
            full = self._return_all()
        for error in full:
            self._monitor.problem(error)

    def _return_all(self) -> list[NoSpace]:
        """Move back what can be; returns why the others, which are still inside, cannot."""
        full: list[NoSpace] = []
        left: list[tuple[str, Path]] = []
        while self._inside:
            name, place = self._inside.pop()
            try:
                if os.path.realpath(place.parent) != str(place.parent):
                    raise InternalFailure(f"The named cache {name!r} is lost: the command replaced its directory")
                self._caches.uninstall(name, place)
            except NoSpace as error:
                full.append(error)
                left.insert(0, (name, place))
            except InternalFailure as error:
                self._monitor.problem(error)
        self._inside = left
        return full


def with_room(spec: RunSpec, clock: Clock, monitor: Monitor, check: Check) -> Installed:
    """Return the named caches of a run, not moved in yet, having made room for those that will be new.

    `check` may raise to stop what waits for another run.
    """
    installed = Installed(spec.named_cache_dir, spec.cache_policy, clock, monitor)
    opener = partial(LocalCache.open, spec.content_cache_dir, spec.namespace, spec.cache_policy, clock, monitor)
    wanted = [NamedCache(*cache) for cache in spec.named_caches]
    installed.make_room(wanted, partial(opener, check=check), check)
    return installed
