"""Files of a cache that somebody may be able to write to: hashed before each use, until it is certain that nobody can.

A command may give a file of the cache another name, in a place that outlives it, and a later one write through that,
hiding it from every stat but the ctime. What it did moved the ctime, and so the file came into doubt when the command
was over. Here the doubt ends: nobody has the file open for writing, it is mounted nowhere, and each of its names is
that in the cache or one below `trees/`, where only trees are that no command has. A file of which this cannot be said
is replaced by a copy, so that other names lead to a file that is not the cache's any more; and so is one that shows
another mode, owner or attribute than the cache gives its files.

Knows no trees: it counts names. The invariant: no doubt ends that is newer than what was looked at (see `Row.boot`).
While another session has a file in doubt pinned it may have names of it, and the file stays, and stays in doubt, unless
it shows by itself that somebody changed it.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from isolate.cas import cache_session
from isolate.cas.cache_checks import Checks, Eyes
from isolate.cas.cache_files import Hashed, discard, mode_of, stage_copy
from isolate.cas.cache_form import fresh_form
from isolate.cas.cache_index import Row
from isolate.cas.cache_session import Session
from isolate.cas.cache_shelf import Shelf
from isolate.cas.digest import Algorithm
from isolate.cas.lru import Usage
from isolate.cas.mounts import has_mounts, nameless_inodes
from isolate.errors import BlobCorrupt, NoSpace
from isolate.monitor import Monitor

PIECE = 2048  # files that are looked up in one go: 5 ms


class Doubts:
    """The files in doubt of one cache, of one algorithm."""

    def __init__(
        self, root: Path, shelf: Shelf, checks: Checks, algorithm: Algorithm, session: Session, monitor: Monitor
    ) -> None:
        self._root, self._shelf, self._checks, self._session = root, shelf, checks, session
        self._algorithm, self._monitor = algorithm, monitor

    def usable(self, sizes: Mapping[bytes, int], eyes: Eyes | None = None) -> list[Row]:
        """Return those of the files, listed with these `sizes`, that can be used: they are right.

        What `eyes` begin to look at is looked at while the next rows are looked up.
        """
        eyes, index, is_intact = eyes or self._checks.eyes(), self._shelf.index, self._checks.is_intact
        rows: list[Row] = []
        keys = sorted(sizes)  # neighbours share the pages they are on
        for start in range(0, len(keys), PIECE):
            listed = index.look_up(keys[start : start + PIECE])
            piece = [row for key, row in listed.items() if row.size == sizes[key]]
            eyes.look([row for row in piece if row.boot == index.boot])
            rows += piece
        differing = eyes.differing(len(keys))
        intact = [row for row in rows if (row.boot == index.boot and row.key not in differing) or is_intact(row)]
        if len(intact) < len(rows):
            known = {row.key for row in intact}
            right = self.settle([row.key for row in rows if row.key not in known])
            intact += [row for row in rows if row.key in right]
        return intact

    def settle(self, keys: Sequence[bytes]) -> set[bytes]:
        """Hash those of `keys` that are in doubt, end the doubts that can be, and return all keys that are right.

        Files of other bytes are dropped.
        """
        rows = self._shelf.index.look_up(keys)  # before looking at a file: what is in doubt later is another doubt
        right: dict[bytes, tuple[Row, Hashed]] = {}
        for key, row in rows.items():
            if row.is_in_doubt:
                found = self._checks.hashed(row)
                if found is not None:
                    size, mtime_ns, inode = found.identity
                    right[key] = row._replace(size=size, mtime_ns=mtime_ns, inode=inode), found
        foreign = self._foreign(right)
        exposed = foreign.union(self._exposed(right))
        self._shelf.trust([row for key, (row, _) in right.items() if key not in exposed])
        if exposed:
            used = cache_session.pinned_among(self._root, {key[:-1] for key in exposed}, but=self._session)
            for key in exposed:
                if (key in foreign or key[:-1] not in used) and not self._replace(right[key][0]):
                    del right[key]
        return {key for key, row in rows.items() if not row.is_in_doubt} | right.keys()

    def _foreign(self, right: Mapping[bytes, tuple[Row, Hashed]]) -> set[bytes]:
        """Return the keys of files that a command gave another mode, owner or attribute than a new one would have."""
        fresh = {mode: fresh_form(self._session.temporary(), mode) for mode in set(map(mode_of, right))}
        return {key for key, (_, found) in right.items() if found.form != fresh[mode_of(key)]}

    def _exposed(self, right: dict[bytes, tuple[Row, Hashed]]) -> list[bytes]:
        """Return the keys of files that somebody has open, that have names we do not know, or that may be mounted."""
        mounted = nameless_inodes(self._root) if right else set()  # not a name, and nobody needs to have it open
        if mounted is None:
            return list(right)
        lacking = {found.identity[2]: found.names - 1 for _, found in right.values() if found.names > 1}
        if lacking:
            _count_down(self._root / "trees", lacking)
        return [
            key
            for key, (_, found) in right.items()
            if found.is_open or lacking.get(found.identity[2], 0) > 0 or found.identity[2] in mounted
        ]

    def _replace(self, seen: Row) -> bool:
        """Put a verified copy in the place of a file; where that is not possible drop it, and return False."""
        temporary, path = self._session.temporary(), self._shelf.files.path(seen.key)
        try:
            self._shelf.make_room(Usage(1, seen.size))
            self._shelf.replace(seen, stage_copy(path, temporary, seen.key, self._algorithm))
        except (NoSpace, BlobCorrupt, OSError):
            self._shelf.remove([seen.key])
            return False
        finally:
            discard(temporary)
        self._monitor.count("replaced_cache_files")
        return True


def _count_down(place: Path, lacking: dict[int, int]) -> None:
    """Take one from the inode of each name below `place`, as far as it can be read and lies where it seems to."""
    pending = [] if has_mounts(place) else [str(place)]
    while pending:
        with suppress(OSError), os.scandir(pending.pop()) as entries:
            for entry in entries:
                if entry.is_dir(follow_symlinks=False):
                    pending.append(entry.path)
                elif (inode := entry.inode()) in lacking:
                    lacking[inode] -= 1
