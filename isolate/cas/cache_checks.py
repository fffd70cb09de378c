"""Whether the files of a cache are still what they were when they were verified.

Knows no blobs and no trees. The invariant: a file is called right only if its identity is the one listed in this boot,
or its bytes were hashed just now; a wrong one is dropped, and whoever has it pinned can learn so.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from isolate.cas.cache_files import Hashed, hash_file, mode_of
from isolate.cas.cache_index import Row
from isolate.cas.cache_names import differing
from isolate.cas.cache_shelf import Shelf
from isolate.cas.digest import Algorithm

REPLACED_AT_MOST = 3  # times that another process replaces a file while we hash it, before we take it as absent


class Eyes(Protocol):
    """Who looks at many files."""

    def look(self, rows: Sequence[Row]) -> None:
        """Begin to look whether listed files are what they were."""

    def differing(self, wanted: int, /) -> set[bytes]:
        """Return the keys of those that may not be, of all since the last call; `wanted` files were looked for."""


class OwnEyes:
    """Looks at once; for one thread."""

    def __init__(self, folder: Path) -> None:
        """`folder` has the files of one algorithm."""
        self._folder = folder
        self._differing: set[bytes] = set()

    def look(self, rows: Sequence[Row]) -> None:
        if not rows:
            return
        try:
            files = os.open(self._folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError:  # who looks at one of them sees why
            self._differing.update(row.key for row in rows)
            return
        try:
            facts = ((size, mtime_ns, inode, key[-1], key[1:-1]) for key, size, mtime_ns, inode, _, _ in rows)
            self._differing.update([rows[number].key for number in differing(files, facts)])
        finally:
            os.close(files)

    def differing(self, _wanted: int, /) -> set[bytes]:
        found, self._differing = self._differing, set()
        return found


class Checks:
    """The checks of one cache, for files of one algorithm."""

    def __init__(self, shelf: Shelf, algorithm: Algorithm) -> None:
        self._shelf, self._algorithm = shelf, algorithm
        self._index, self._files = shelf.index, shelf.files

    def eyes(self) -> OwnEyes:
        """Return who looks at many of the files."""
        return OwnEyes(self._files.root / self._algorithm.name)

    def is_intact(self, row: Row) -> bool:
        """Whether a listed file is as it was verified; drops it when it is not.

        One in doubt never is; and one that was touched, with the right bytes, comes into doubt and is not.
        """
        if self._files.status(row.key) == row.identity:
            if row.is_in_doubt:
                return False
            if row.boot == self._index.boot or self._hashes_to(row.key):
                return True
        listed = self._index.look_up([row.key]).get(row.key)
        if listed is None or listed.is_in_doubt:  # evicted since the row was read: no harm was done
            return False
        if listed != row and self._files.status(row.key) == listed.identity:  # replaced by another process
            return True
        self.hashed(listed)
        return False

    def _hashes_to(self, key: bytes) -> bool:
        found = hash_file(self._files.path(key), self._algorithm)
        return found is not None and found.blob.digest == key[1:-1]

    def hashed(self, row: Row) -> Hashed | None:
        """Hash a listed file; a right one is listed as it is now, any other is dropped, everybody told: then None."""
        key, digest = row.key, row.key[1:-1]
        for _ in range(REPLACED_AT_MOST):
            seen = self._files.status(key)
            found = hash_file(self._files.path(key), self._algorithm, mode=mode_of(key))
            if found is not None and found.blob.digest == digest:
                if found.identity != row.identity:
                    self._shelf.refresh(key, found.identity)
                return found
            if self._shelf.remove_poisoned(key, seen, self._algorithm, digest):
                return None
        return None
