"""Kept trees that are used where they are: as the lower layer of overlays, by any number of runs at once.

Knows no mount and no command. A tree is held by a shared lock on its directory, so that nobody moves or deletes it.
Commands that run over it cannot reach it (see overlay.py); those that run beside it can, as long as they see the cache,
and `exposure` knows of them. The invariant: a tree that `is_good` is what its manifest says, because it was compared
name by name (see renewal.py), and since then no command was able to reach it. Nothing is ever corrected in place.
What the tree has of the cache stays pinned while it is held: evicting it frees nothing, and moves its files' ctime.
"""

from __future__ import annotations

import fcntl
import os
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import msgspec

from isolate.cas.cache import LocalCache, Pin
from isolate.errors import InvalidRecord
from run_isolated.exposure import Exposure
from run_isolated.kept import Shared, Taken
from run_isolated.looking import Look
from run_isolated.proof import new_marker_ns
from run_isolated.remapping import TOUCH_S, settled_files, sources_of, unless_changed
from run_isolated.renewal import NotReusable, renew
from run_isolated.reuse import Trees
from run_isolated.sealing import unsealed, write_whole
from run_isolated.stopping import Check, checked, go_on

_PROVEN = "proven"


class Proven(msgspec.Struct, frozen=True, array_like=True):
    """When a tree was found to be as it should."""

    since_ns: int  # ctime, on the cache's file system, from which on somebody else may have written
    number: bytes  # of `Exposure` before the comparison; none when it was of no use
    touched_s: int  # when the cache was last told that the files were used


@dataclass(frozen=True, slots=True)
class Lower:
    """A tree that is ours, and others', as long as `lock` is open; its files stay in the cache while `pin` is held."""

    kept: Taken
    shared: Shared
    lock: int
    pin: Pin
    cache: LocalCache
    trees: Trees

    def is_good(self, check: Check = go_on) -> bool:
        """Whether it holds what it should, and nothing else: known, or compared now."""
        number = Exposure(self.cache.root).number(check)
        proven = unsealed(self.kept.path / _PROVEN, Proven)
        if proven is None or not number or proven.number != number:
            proven = self._compared(
                self.kept.about.proven_ns if proven is None else proven.since_ns, number or b"", check
            )
        if proven is not None and self.cache.clock.now() - proven.touched_s >= TOUCH_S:
            with suppress(InvalidRecord):  # it was retired just now; the next run tells
                for packed in self.shared.facts:
                    self.cache.touch(list(self.trees.facts.known(packed)))
            proven = self._noted(proven.since_ns, proven.number)
        return proven is not None

    def _compared(self, since_ns: int, number: bytes, check: Check) -> Proven | None:
        """Compare it; files that are new since `since_ns` are hashed. None when it is not what it should be."""
        # Where surplus would go, and our own names are: there are none, since nothing is corrected.
        aside, facts = Path(self.cache.temporary()), self.trees.facts
        with suppress(NotReusable, InvalidRecord, ValueError), self.cache.pin() as pin:
            marker_ns = new_marker_ns(self.cache)
            # What has other names than those below `trees/` is replaced in the cache, and so is a tree that has it.
            expected = settled_files(self.cache, pin, self.shared, facts, check)
            if not marker_ns:
                return None
            with sources_of(self.cache, check) as found, Look(self.cache, expected, check=check) as look:
                wanted = unless_changed(look, checked(self.kept.folders(), check))
                renew(self.kept.tree, wanted, facts, found, since_ns, aside, aside.parent, limit=0)
            is_doubtful = any(self.cache.in_doubt(variants) for variants in expected)
            return self._noted(marker_ns, b"" if is_doubtful else number)
        return None

    def _noted(self, since_ns: int, number: bytes) -> Proven:
        proven = Proven(since_ns, number, int(self.cache.clock.now()))
        with suppress(OSError):  # a full disk: the next run compares it again
            write_whole(self.kept.path / _PROVEN, proven)
        return proven

    def release(self) -> None:
        """Let it go; whoever wants to may move or delete it now."""
        self.pin.release()
        os.close(self.lock)

    def give_up(self) -> None:
        """Let it go because it is not as it should be: nobody else is to start with it."""
        try:
            fcntl.flock(self.lock, fcntl.LOCK_EX | fcntl.LOCK_NB)  # alone, it can be corrected: see `Trees.renewed`
        except BlockingIOError:
            self.trees.retire(self.kept.path)
        finally:
            self.release()


def hold(cache: LocalCache, trees: Trees, root: bytes, check: Check = go_on) -> Lower | None:
    """Return a good tree of the manifest `root`; None when there is none."""
    for kept in trees.same(root):
        lower = _held(cache, trees, kept)
        if lower is None:
            continue
        try:
            if lower.is_good(check):
                os.utime(kept.path, (cache.clock.now(),) * 2)
                return lower
        except BaseException:
            lower.release()
            raise
        lower.give_up()
    return None


def _held(cache: LocalCache, trees: Trees, kept: Taken) -> Lower | None:
    """Lock a tree; None when it was taken or is being deleted meanwhile."""
    try:
        lock = os.open(kept.path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
        if os.path.samestat(os.fstat(lock), os.lstat(kept.path)) and (shared := kept.shared()) is not None:
            return Lower(kept, shared, lock, _pinned(shared, cache, trees), cache, trees)
    except (OSError, InvalidRecord):
        pass
    except BaseException:
        os.close(lock)
        raise
    os.close(lock)
    return None


def _pinned(shared: Shared, cache: LocalCache, trees: Trees) -> Pin:
    pin = cache.pin()
    try:
        for packed in shared.facts:
            pin.extend(trees.facts.digests(packed))
    except BaseException:
        pin.release()
        raise
    return pin
