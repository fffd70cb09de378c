"""Proof that a command left the cache's files as they were, although it shared them by hard links.

Knows no process: it is told when the tree is mapped and when the command is over. Whoever writes to a file moves its
ctime, and nobody but the clock's owner can move it back. So a marker is made on the cache's file system, late enough
that every link of ours is older; afterwards each file whose ctime is the marker's or later is hashed again. Linking by
other runs moves the ctime too: a hint, not a proof, and all it costs is a hash.

A command may also give an input another name, in a place that outlives it, and have a later one write through that. All
that needs a ctime that moves, of the file, or where a directory is moved with all that is in it, of directories (see
standing.py). Files of which this may be so come into doubt in the cache, which sees to it before they are used again:
see cache_doubt.py.

Not promised: to see what another task of the same user does to the cache while it runs; a clock that a task sets.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

from isolate.cas.cache import LocalCache, Pin
from isolate.cas.cache_files import discard
from isolate.cas.cache_index import Identity, identity
from isolate.errors import InvalidRecord
from isolate.spool import Spool
from run_isolated.facts import Facts
from run_isolated.linked import Linked, Variant
from run_isolated.mapper import directory
from run_isolated.standing import Layout, Standing

if TYPE_CHECKING:
    from run_isolated.looking import Expected

TICK_S = 0.0005  # how often to look whether the file system's clock has moved; kernels tick every 1-10 ms
MAX_TICK_S = 3.0  # some file systems keep whole seconds; one that does not move at all is trusted with nothing
CLOCK_SLACK_S = 1.0  # a wall clock that lost more than this during the run was set back


@dataclass(frozen=True, slots=True)
class Verdict:
    """What became of the inputs of a run."""

    rehashed_files: int
    overwritten: tuple[bytes, ...]  # digests found wrong while the run had them pinned, by whoever

    @property
    def problem(self) -> str | None:
        """Why the run must count as an internal failure, or None."""
        if not self.overwritten:
            return None
        more = len(self.overwritten) - 1
        which = f"{self.overwritten[0].hex()} and {more} more were" if more else f"{self.overwritten[0].hex()} was"
        return f"Input {which} overwritten while the command ran"


class Proof:
    """One run's proof: `start` after mapping and before the command, `check` after it."""

    def __init__(
        self,
        cache: LocalCache,
        linked: Linked | Expected,
        pin: Pin,
        standing: Standing | None,
        marker_ns: int,
        expected: Expected | None = None,
    ) -> None:
        """Use `start`; `standing` is None when nothing is shared."""
        self._cache, self._linked, self._pin, self._standing = cache, linked, pin, standing
        self._expected = expected
        self.marker_ns = marker_ns  # ctime that the first write of the command has, or a later one; 0 when not known
        self._facts: Sequence[bytes] | None = None  # as noted by a `check` that found all files right
        self._is_as_expected = False  # as a `check` found
        self._started_s = cache.clock.monotonic()

    @classmethod
    def start(
        cls, cache: LocalCache, linked: Linked | Expected, pin: Pin, layout: Layout, expected: Expected | None = None
    ) -> Self:
        """Set the marker: when this returns, the command may start.

        `expected` is what all that is `linked` was when it was found, and perhaps more: one list for the whole tree.
        """
        if not linked.files:
            return cls(cache, linked, pin, None, 0)
        return cls(cache, linked, pin, Standing.note(layout), new_marker_ns(cache), expected)

    def facts(self) -> Sequence[bytes] | None:
        """Return what the files are, list by list, after a `check` that found all of them right; else None."""
        if self._is_as_expected and self._expected is not None:
            return [b"".join(self._expected.pieces)]
        return self._facts

    def is_in_place(self) -> bool:
        """Whether the tree is where it was mapped."""
        return self._standing is None or self._standing.is_in_place()

    def check(self) -> Verdict:
        """Hash what may have been written to since the marker; drop what is wrong from the cache.

        The processes of the command are gone by now: nobody holds a file open for writing.
        """
        if self._standing is None:
            return Verdict(0, ())
        since_ns = 0 if self._clock_was_set_back() else self.marker_ns
        linked, standing = self._linked, self._standing
        self._is_as_expected = self._expected is not None and self._holds(self._expected, standing, since_ns)
        if self._is_as_expected:
            rehashed_files = 0
        elif isinstance(linked, Linked):
            self._doubt_moved(standing, since_ns)
            rehashed_files = self._noted(linked, since_ns)
        else:
            rehashed_files = self._seen(linked, standing, since_ns)
        return Verdict(rehashed_files, tuple(self._cache.poisoned_since(self._pin)))

    def _doubt_moved(self, standing: Standing, since_ns: int) -> None:
        """Have the cache doubt what may have got another name."""
        try:
            if moved := standing.moved(since_ns, self._inode_of):
                self._cache.doubt(sorted(moved))
        except (InvalidRecord, OSError, ValueError):  # what says where they should be was harmed: they may be anywhere
            for variants in self._linked:
                self._cache.doubt(variants)

    def _holds(self, expected: Expected, standing: Standing, since_ns: int) -> bool:
        """Whether nothing was written to; what may have got another name is in doubt by then."""
        from run_isolated.looking import Look

        # A process that is being born counts as one of our size, and the whole tree is in memory: nobody is started.
        with Look(self._cache, expected, since_ns, may_start=False) as look:
            self._doubt_moved(standing, since_ns)
            return next(look.differing(), None) is None

    def _noted(self, linked: Linked, since_ns: int) -> int:
        """Hash what may have been written to, note what all are now, and return how many were hashed."""
        facts, packer = Spool(self._cache.temporary), Facts(self._cache.namespace.algorithm)
        rehashed_files, all_right = 0, True
        for variants in linked:
            known = self._identities(variants, since_ns)
            if len(known) < len(variants):
                suspects = [variant for variant in variants if variant not in known]
                self._cache.doubt(suspects)  # before they are hashed: should we be killed, they are in doubt
                known |= self._identities(list(self._cache.recheck(suspects)))
                rehashed_files += len(suspects)
            all_right = all_right and len(known) == len(variants)
            facts.append(packer.pack((*seen, executable, blob[0]) for (blob, executable), seen in known.items()))
        self._facts = facts if all_right else None
        return rehashed_files

    def _seen(self, expected: Expected, standing: Standing, since_ns: int) -> int:
        """Hash what may have been written to, of files of which is known what they were; return how many it were."""
        from run_isolated.looking import Look

        rehashed_files = 0
        with Look(self._cache, expected, since_ns) as look:
            self._doubt_moved(standing, since_ns)
            for suspects in look.differing():
                self._cache.doubt(suspects)  # before they are hashed: should we be killed, they are in doubt
                self._cache.recheck(suspects)
                rehashed_files += len(suspects)
        return rehashed_files

    def _identities(self, variants: Sequence[Variant], before_ns: float = math.inf) -> dict[Variant, Identity]:
        """Return what those files are that are there and that nobody wrote to from `before_ns` on."""
        found: dict[Variant, Identity] = {}
        above = len(str(self._cache.files_dir)) + 1
        with directory(self._cache.files_dir) as files:
            for path, variant in zip(self._cache.files_of(variants), variants, strict=True):
                try:
                    status = os.stat(path[above:], dir_fd=files, follow_symlinks=False)
                except OSError:
                    continue  # gone although it is pinned, or out of reach: as bad as written to
                if status.st_ctime_ns < before_ns:
                    found[variant] = identity(status)
        return found

    def _inode_of(self, variant: Variant) -> int | None:
        known = self._identities([variant]).get(variant)
        return None if known is None else known[2]

    def _clock_was_set_back(self) -> bool:
        passed_s = (_now_ns(self._cache) - self.marker_ns) / 1e9
        return passed_s < self._cache.clock.monotonic() - self._started_s - CLOCK_SLACK_S


def _now_ns(cache: LocalCache) -> int:
    """Return the time of the cache's file system."""
    path = cache.temporary()
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            return os.fstat(descriptor).st_ctime_ns
        finally:
            os.close(descriptor)
    finally:
        discard(path)


def new_marker_ns(cache: LocalCache) -> int:
    """Return a ctime later than that of everything done so far; 0 when the clock does not move.

    A write from now on has this ctime or a later one: `check` includes equality, so no second wait is needed.
    """
    path = cache.temporary()
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        first_ns = os.fstat(descriptor).st_ctime_ns
        give_up_s = time.monotonic() + MAX_TICK_S
        while time.monotonic() < give_up_s:
            os.fchmod(descriptor, 0o600)  # moves the ctime to now
            if (marker_ns := os.fstat(descriptor).st_ctime_ns) > first_ns:
                return marker_ns
            time.sleep(TICK_S)
        return 0
    finally:
        os.close(descriptor)
        discard(path)
