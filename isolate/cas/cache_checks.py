"""Whether the files of a cache are still what they were when they were verified.

Knows no blobs and no trees. The invariant: a file is called right only if its identity is the one listed in this boot,
or its bytes were hashed just now; a wrong one is dropped, and whoever has it pinned can learn so.
"""

from __future__ import annotations

from isolate.cas.cache_files import Hashed, hash_file, mode_of
from isolate.cas.cache_index import Row
from isolate.cas.cache_shelf import Shelf
from isolate.cas.digest import Algorithm

REPLACED_AT_MOST = 3  # times that another process replaces a file while we hash it, before we take it as absent


class Checks:
    """The checks of one cache, for files of one algorithm."""

    def __init__(self, shelf: Shelf, algorithm: Algorithm) -> None:
        self._shelf, self._algorithm = shelf, algorithm
        self._index, self._files = shelf.index, shelf.files

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
