"""The files of a cache and the rows that list them, changed together.

Knows no blobs being added and no verification: it is told what is good. The invariants: files are placed and removed
only inside a transaction of the index, so that no two processes ever decide about one file at once; a file is placed
before its row and removed after it, so that a process that dies in between leaves a file without a row, which is swept
away later, and a row without a file is always somebody's tampering.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from functools import partial
from itertools import islice
from pathlib import Path

from isolate.cas import cache_session, lru
from isolate.cas.cache_files import CacheFiles, Staged, translated
from isolate.cas.cache_index import Identity, Index, Row, Rows
from isolate.cas.digest import Algorithm
from isolate.cas.lru import Ahead, CachePolicy, Evicted, Item, Usage
from isolate.clock import Clock
from isolate.errors import IsolateError, NoSpace
from isolate.monitor import Monitor

BATCH = 500  # files per transaction: about 10 ms during which others wait
EVICTED = 8 * BATCH  # rows: they go sooner than files, and each time all pins are read
NOTHING = Usage(0, 0)
_NAMED_AT_MOST = 3  # files that were dropped: a command may have overwritten all it had


class Shelf:
    """All files of the cache at `root`."""

    def __init__(self, root: Path, policy: CachePolicy, clock: Clock, monitor: Monitor, boot_id: str) -> None:
        self._root, self.policy, self.clock, self.monitor, self.boot_id = root, policy, clock, monitor, boot_id
        self.files = CacheFiles(root)
        self.index = Index(root, self.files.scan, boot_id, monitor)
        self._dropped = 0
        self._all_in_use = False  # nothing was left to evict when size or number was over its limit

    def place(self, staged: Sequence[Staged]) -> None:
        """Name and list the files that were staged; those that are listed and unchanged stay as they are."""
        placed: list[bytes] = []
        now_s = int(self.clock.now())

        def job(rows: Rows) -> None:
            listed = rows.look_up([file.key for file in staged])
            new: dict[bytes, Row] = {}
            for file in staged:
                row = listed.get(file.key)
                # A list that was made anew has the size it found: unchanged since then is not yet whole.
                whole = row is not None and row.size == file.identity[0]
                if file.key in new or (whole and row is not None and self.files.status(file.key) == row.identity):
                    continue
                placed.append(file.key)
                self.files.place(file)
                new[file.key] = Row(file.key, *file.identity, now_s, self.index.boot)
            rows.delete([key for key in new if key in listed])
            rows.insert(new.values())

        try:
            self.index.write(job)
        except BaseException:
            self.abandon(placed)
            raise

    def adopt(self, created: Sequence[Staged]) -> set[bytes]:
        """List files that were written to their places, and return which of them are listed now, as they are.

        The others were swept away as nobody's before we came, or replaced.
        """
        now_s = int(self.clock.now())

        def job(rows: Rows) -> set[bytes]:
            listed = rows.look_up([file.key for file in created])
            new: dict[bytes, Row] = {}
            known: set[bytes] = set()
            for file in created:
                row, status = listed.get(file.key), self.files.status(file.key)
                if row is not None and row.identity == status:  # an index that was made anew has found it
                    known.add(file.key)
                elif status == file.identity:
                    new[file.key] = Row(file.key, *file.identity, now_s, self.index.boot)
            rows.delete([key for key in new if key in listed])
            rows.insert(new.values())
            return known | new.keys()

        try:
            return self.index.write(job)
        except BaseException:
            self.abandon([file.key for file in created])
            raise

    def abandon(self, keys: Sequence[bytes]) -> None:
        """Remove those files that are not listed."""
        with suppress(IsolateError):
            self._remove_unlisted(keys)

    def remove(self, keys: Sequence[bytes]) -> None:
        self.index.write(lambda rows: rows.delete(keys))
        self._remove_unlisted(keys)

    def remove_poisoned(self, key: bytes, seen: Identity | None, algorithm: Algorithm, digest: bytes) -> bool:
        """Remove a file with wrong bytes, report it, and tell every session that has `digest` pinned.

        Does nothing and returns False when the file is no longer the one that was `seen`: it was replaced meanwhile.
        """

        def job(rows: Rows) -> bool:
            if self.files.status(key) != seen:
                return False
            cache_session.mark_poisoned(self._root, algorithm, digest)
            rows.delete([key])
            return True

        if not self.index.write(job):
            return False
        self._remove_unlisted([key])
        self.monitor.count("damaged_cache_files")
        self._dropped += 1
        if self._dropped <= _NAMED_AT_MOST:
            self.monitor.problem(f"Cached file {digest.hex()} is not as it was verified any more; dropped")
        elif self._dropped == _NAMED_AT_MOST + 1:
            self.monitor.problem("More cached files are not as they were verified any more; dropped")
        return True

    def refresh(self, key: bytes, identity: Identity) -> None:
        """List a file that was verified once more, as it is now, unless it was replaced meanwhile.

        One that is not as it was listed comes into doubt: somebody could write to it. A doubt stays one.
        """
        now_s, doubt = int(self.clock.now()), _new_doubt()

        def job(rows: Rows) -> None:
            listed = rows.look_up([key]).get(key)
            if self.files.status(key) == identity:
                boot = self.index.boot if listed is not None and listed.identity == identity else doubt
                if listed is not None and listed.is_in_doubt:
                    boot = listed.boot
                rows.delete([key])
                rows.insert([Row(key, *identity, now_s, boot)])

        self.index.write(job)

    def trust(self, seen: Sequence[Row]) -> None:
        """End the doubt in files of which everything is as it was `seen`; a doubt that is newer stays."""

        def job(rows: Rows, batch: Sequence[Row]) -> None:
            listed = rows.look_up([row.key for row in batch])
            rows.mark([row.key for row in batch if _is_same(listed.get(row.key), row)], self.index.boot)

        for start in range(0, len(seen), BATCH):
            self.index.write(partial(job, batch=seen[start : start + BATCH]))

    def replace(self, seen: Row, staged: Staged) -> None:
        """Put a file that was staged in the place of one in doubt, if that is still as it was `seen`."""

        def job(rows: Rows) -> None:
            if _is_same(rows.look_up([seen.key]).get(seen.key), seen):
                self.files.place(staged)
                rows.delete([seen.key])
                rows.insert([Row(seen.key, *staged.identity, seen.used_s, self.index.boot)])

        self.index.write(job)

    def touch(self, keys: Sequence[bytes]) -> None:
        """Note that files were used now, and are good."""
        now_s = int(self.clock.now())
        self.index.write(lambda rows: rows.touch(keys, now_s, self.index.boot))

    def is_over(self) -> bool:
        """Whether any limit does not hold; looks only."""
        return (
            self.policy.is_exceeded_by(self.index.usage())
            or self.policy.shortage_bytes(self._free_bytes()) > 0
            or self.policy.is_too_old(self.index.oldest_s(), self.clock.now())
        )

    def doubt(self, keys: Sequence[bytes]) -> None:
        """Have files hashed before each use, until it is certain that nobody can write to them."""
        for start in range(0, len(keys), BATCH):
            part = keys[start : start + BATCH]
            self.index.write(partial(Rows.mark, keys=part, boot=_new_doubt()))

    def evict(self, needed: Usage = NOTHING) -> Evicted:
        """Remove files until every limit holds with `needed` more, or only pinned ones are left."""

        def choose(rows: Rows) -> Iterator[Item]:
            present = rows.usage()
            after = Usage(present.items + needed.items, present.size_bytes + needed.size_bytes)
            shortage_bytes = self.policy.shortage_bytes(self._free_bytes(), needed.size_bytes)
            return self._victims(rows, after, self.policy, shortage_bytes)

        return self._evict(choose)

    def evict_oldest(self, not_after_s: float, shortage_bytes: int) -> Evicted:
        """Remove files last used until `not_after_s`, oldest first, until `shortage_bytes` are freed."""
        evicted = Evicted()

        def choose(rows: Rows) -> Iterator[Item]:
            return self._victims(rows, rows.usage(), CachePolicy(), shortage_bytes - evicted.size_bytes, not_after_s)

        while batch := self._evict(choose, once=True):
            evicted += batch
        return evicted

    def _evict(self, choose: Callable[[Rows], Iterator[Item]], *, once: bool = False) -> Evicted:
        def unlist(rows: Rows) -> list[Item]:
            items = list(islice(choose(rows), EVICTED))
            rows.delete([item.key for item in items])
            return items

        evicted = Evicted()
        while batch := self.index.write(unlist):
            for start in range(0, len(batch), BATCH):
                self._remove_unlisted([item.key for item in batch[start : start + BATCH]])
            evicted += Evicted(len(batch), sum(item.size for item in batch))
            if once:
                break
        if evicted:
            self.monitor.count("evicted_files", evicted.items)
            self.monitor.count("evicted_bytes", evicted.size_bytes)
        return evicted

    def make_room(self, needed: Usage) -> None:
        """Evict what must go before `needed` more can be written; raises NoSpace.

        Only the disk is a reason to refuse: a tree may be larger than the cache is to be, as long as it is in use.
        """
        needed_bytes = needed.size_bytes
        present = self.index.usage()
        after = Usage(present.items + needed.items, present.size_bytes + needed_bytes)
        if self.policy.is_exceeded_by(after) and not self._all_in_use:
            self.evict(needed)
            present = self.index.usage()
            after = Usage(present.items + needed.items, present.size_bytes + needed_bytes)
            # Looking through all that is pinned again for each batch of a large tree would take minutes.
            self._all_in_use = self.policy.is_exceeded_by(after)
        if self.policy.shortage_bytes(self._free_bytes(), needed_bytes) <= 0:
            return
        self.evict(needed)
        free_bytes = self._free_bytes()
        if self.policy.shortage_bytes(free_bytes, needed_bytes) > 0:
            raise NoSpace(
                f"Not enough space for the cache {self._root}: {needed_bytes} bytes are needed, {free_bytes} are free "
                f"and {self.policy.min_free_bytes} must stay free; all that is not in use was evicted"
            )

    def sweep(self) -> None:
        """Remove files that no row lists: what a process that died had placed and not yet listed."""
        found = self.files.scan()
        while keys := [row.key for row in islice(found, BATCH)]:
            if len(self.index.look_up(keys)) < len(keys):
                self._remove_unlisted(keys)

    def _remove_unlisted(self, keys: Sequence[bytes]) -> None:
        def job(rows: Rows) -> None:
            listed = rows.look_up(keys)
            for key in keys:
                if key not in listed:
                    self.files.remove(key)

        self.index.write(job)

    def _victims(
        self, rows: Rows, usage: Usage, policy: CachePolicy, shortage_bytes: int, not_after_s: float = math.inf
    ) -> Iterator[Item]:
        ahead = Ahead(rows.oldest_first(), self._pinned_among)
        return lru.victims(
            ahead,
            usage,
            policy,
            now_s=self.clock.now(),
            shortage_bytes=shortage_bytes,
            is_pinned=ahead.is_pinned,
            not_after_s=not_after_s,
        )

    def _pinned_among(self, keys: Sequence[bytes]) -> set[bytes]:
        pinned = cache_session.pinned_among(self._root, {key[:-1] for key in keys})
        return {key for key in keys if key[:-1] in pinned}

    def _free_bytes(self) -> int:
        with translated(self._root):
            status = os.statvfs(self._root)
        return status.f_bavail * status.f_frsize


def _new_doubt() -> int:
    """Return a `Row.boot` of a doubt that no other has: whoever ends one must not end a newer one unseen."""
    return -1 - int.from_bytes(os.urandom(6))


def _is_same(listed: Row | None, seen: Row) -> bool:
    return listed is not None and (listed.identity, listed.boot) == (seen.identity, seen.boot)
