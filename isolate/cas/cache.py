"""The local cache: verified plain files that trees are linked from, shared by all runs on this machine.

Knows no trees and no stores. Several processes and threads use one cache at once.

Invariants. A file is listed only after its bytes had the right digest, and nobody uses one that is not listed. Listed
files are read-only (0444, 0555) and a change of size, mtime or inode is found before use. The plain and the executable
variant of a blob are different inodes. The empty blob is never a file here. A pinned file is never evicted, by any
process.

Nothing is fsynced: a cache can be fetched again. Instead, files verified in an earlier boot are hashed once more before
their first use, since their bytes may never have reached the disk.

Layout: `files/<algorithm>/ab/abcd…` and `abcd….x`, `index.sqlite`, `sessions/` (see cache_session.py), `lock`.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Self

from isolate.cas import cache_session
from isolate.cas.cache_checks import Checks, Eyes
from isolate.cas.cache_doubt import Doubts
from isolate.cas.cache_files import BlobWriter, Content, key_of, translated
from isolate.cas.cache_filling import Filling
from isolate.cas.cache_index import Identity
from isolate.cas.cache_session import Dead, Pin, Session, locked
from isolate.cas.cache_shelf import BATCH, Shelf
from isolate.cas.digest import Blob, Namespace
from isolate.cas.lru import CachePolicy, Evicted, Usage
from isolate.clock import Clock
from isolate.errors import BlobCorrupt, LostFromCache
from isolate.monitor import Monitor

__all__ = ["BlobWriter", "CachePolicy", "Evicted", "Identity", "LocalCache", "Pin", "Usage"]

TOUCH_S = 60  # a file used again within a minute is not touched again: a warm run writes nothing


class LocalCache:
    """One open cache, for blobs of one namespace; its limits count what is there of all."""

    def __init__(self, root: Path, namespace: Namespace, shelf: Shelf, session: Session, dead: list[Dead]) -> None:
        """Use `open`."""
        self.root, self.namespace, self.policy, self.clock = root, namespace, shelf.policy, shelf.clock
        self.boot_id, self._algorithm, self._monitor = shelf.boot_id, namespace.algorithm, shelf.monitor
        self._session, self._dead, self._shelf = session, dead, shelf
        self._index, self._files = shelf.index, shelf.files
        self._checks = Checks(shelf, namespace.algorithm)
        self._doubts = Doubts(root, shelf, self._checks, namespace.algorithm, session, shelf.monitor)
        self._filling = Filling(root, shelf, namespace.algorithm, self.temporary)

    @classmethod
    def open(
        cls,
        root: Path,
        namespace: Namespace,
        policy: CachePolicy,
        clock: Clock,
        monitor: Monitor,
        *,
        boot_id: str | None = None,
        check: Callable[[], None] | None = None,
    ) -> Self:
        """Open the cache at `root`, making it if need be, and clean up after processes that died in it.

        While another process has it locked, `check` is asked, and may raise to stop waiting.
        """
        boot_id = cache_session.current_boot() if boot_id is None else boot_id
        with translated(root):
            cache_session.prepare(root)
            with locked(root, check):
                dead, session = cache_session.find_dead(root), Session.start(root)
        cache = cls(root, namespace, Shelf(root, policy, clock, monitor, boot_id), session, dead)
        try:
            with translated(root):
                cache.usage()  # finds a corrupt index now rather than in the middle of a run
                cache._bury()
        except BaseException:
            cache.close()
            raise
        return cache

    @property
    def files_dir(self) -> Path:
        """The directory that all `paths` begin with."""
        return self._files.root

    @property
    def is_open(self) -> bool:
        """Whether `close` was not called yet."""
        return not self._index.is_closed

    def close(self) -> None:
        """End all pins and remove temporary files; everything else is refused from now on."""
        self._index.close()
        while self._dead:  # not buried, so that the next one does it
            os.close(self._dead.pop().lock)
        with translated(self.root), locked(self.root):
            self._session.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def usage(self) -> Usage:
        """Return how full the cache is."""
        return self._index.usage()

    def absent(self, blobs: Sequence[Blob], *, executable: bool = False, eyes: Eyes | None = None) -> list[Blob]:
        """Return those of `blobs` that are not here, in order; what is here counts as used now.

        A file that changed since it was verified is hashed; a wrong one is dropped as `recheck` says, and absent.
        Executable variants are absent until `paths` makes them. `eyes` may share the work, if they are many.
        """
        keys = [self._key(blob.digest, executable=executable) for blob in blobs]
        with translated(self.root):
            sizes = {key: blob.size for key, blob in zip(keys, blobs, strict=True) if blob.size}
            there = self._doubts.usable(sizes, eyes)
            now_s = int(self.clock.now())
            used = [row.key for row in there if row.boot != self._index.boot or row.used_s + TOUCH_S <= now_s]
            if used:
                self._shelf.touch(used)
        present = {row.key for row in there}
        return [blob for blob, key in zip(blobs, keys, strict=True) if blob.size and key not in present]

    def add(self, contents: Sequence[tuple[Blob, Content]]) -> None:
        """Keep `contents`, in one transaction; raises BlobCorrupt at the first that is not its blob, NoSpace."""
        for blob, content in contents:
            found = self._algorithm.digest(content)
            if (found, len(content)) != blob:
                raise BlobCorrupt(blob, found)
        self.add_verified(contents)

    def add_verified(self, contents: Sequence[tuple[Blob, Content]]) -> None:
        """Keep `contents`, whose digests the caller has just compared, in one transaction; raises NoSpace."""
        self._filling.add(contents)

    def add_stream(self, blob: Blob, pieces: Iterable[Content]) -> None:
        """Keep one large blob that comes in pieces; raises BlobCorrupt, NoSpace."""
        with self.writer(blob) as writer:
            offset = 0
            for piece in pieces:
                writer.write_at(offset, piece)
                offset += len(piece)
            writer.commit()

    def writer(self, blob: Blob) -> BlobWriter:
        """Return a writer for one large blob; nothing is left of it unless it is committed."""
        return self._filling.writer(blob)

    def read(self, digest: bytes, limit_bytes: int) -> bytes | None:
        """Return the content of a blob that is here and not larger than `limit_bytes`, verified; else None."""
        key = self._key(digest)
        row = self._index.look_up([key]).get(key)
        if row is None or row.size > limit_bytes or self.absent([Blob(digest, row.size)]):
            return None
        with translated(self.root):
            content = Path(self._files.path(key)).read_bytes()
        if self._algorithm.digest(content) == digest:
            return content
        self.drop(digest)
        return None

    def path(self, blob: Blob, *, executable: bool = False) -> Path:
        """Return the file to link for one blob; see `paths`."""
        return Path(self.paths([(blob, executable)])[0])

    def paths(self, wanted: Sequence[tuple[Blob, bool]]) -> list[str]:
        """Return the files to link for (blob, executable), none of them empty; makes the executable ones it lacks.

        The blobs were found by `absent` and are pinned. Raises LostFromCache when one is gone all the same.
        """
        executables = list(dict.fromkeys(blob for blob, executable in wanted if executable))
        lacking = self.absent(executables, executable=True)
        with translated(self.root):
            for start in range(0, len(lacking), BATCH):
                self._make_executable(lacking[start : start + BATCH])
        return self.files_of(wanted)

    def files_of(self, wanted: Sequence[tuple[Blob, bool]]) -> list[str]:
        """Return where the files (blob, executable) are, or would be."""
        return self._files.paths(self._algorithm, wanted)

    def identities(self, wanted: Sequence[tuple[Blob, bool]]) -> dict[tuple[Blob, bool], Identity]:
        """Return size, mtime_ns and inode of those of the files (blob, executable) that are listed."""
        keys = {self._key(blob.digest, executable=executable): (blob, executable) for blob, executable in wanted}
        return {keys[key]: row.identity for key, row in self._index.look_up(list(keys)).items()}

    def touch(self, used: Sequence[tuple[Blob, bool]]) -> None:
        """Note that files (blob, executable) were used now."""
        keys = [self._key(blob.digest, executable=executable) for blob, executable in used]
        with translated(self.root):
            for at in range(0, len(keys), BATCH):
                self._shelf.touch(keys[at : at + BATCH])

    def pin(self, digests: Iterable[bytes] = ()) -> Pin:
        """Keep these blobs, here or yet to come, from being evicted until the pin is released or we die."""
        with translated(self.root):
            pin = Pin(self._session, self._algorithm, lambda job: self._index.write(lambda _: job()))
            pin.extend(digests)
        return pin

    def poisoned_since(self, pin: Pin) -> list[bytes]:
        """Return the digests of `pin` that somebody found to have been overwritten while they were pinned."""
        with translated(self.root):
            return pin.poisoned()

    def doubt(self, variants: Sequence[tuple[Blob, bool]]) -> None:
        """Note that somebody may be able to write to the files (blob, executable) from now on: see cache_doubt.py."""
        with translated(self.root):
            self._shelf.doubt([self._key(blob.digest, executable=executable) for blob, executable in variants])

    def in_doubt(self, variants: Iterable[tuple[Blob, bool]]) -> list[bytes]:
        """Return the keys of those of the files (blob, executable) that are in doubt."""
        doubtful = set(self._index.in_doubt())
        if not doubtful:  # nearly always: then the files need not even be named
            return []
        keys = (self._key(blob.digest, executable=executable) for blob, executable in variants)
        return sorted(doubtful.intersection(keys))

    def settle(self, variants: Iterable[tuple[Blob, bool]]) -> None:
        """Hash those of the files (blob, executable) that are in doubt; what has names of unknown use is replaced."""
        if keys := self.in_doubt(variants):
            with translated(self.root):
                self._doubts.settle(keys)

    def recheck(self, variants: Sequence[tuple[Blob, bool]]) -> set[tuple[Blob, bool]]:
        """Hash files (blob, executable) that somebody may have written to; return those that are right, read-only now.

        Others are dropped, counted, and whoever has them pinned learns so: see `poisoned_since`.
        """
        keys = {self._key(blob.digest, executable=executable): (blob, executable) for blob, executable in variants}
        with translated(self.root):
            rows = self._index.look_up(list(keys)).values()
            return {keys[row.key] for row in rows if self._checks.hashed(row) is not None}

    def drop(self, digest: bytes) -> None:
        """Forget a blob, pinned or not; trees that were linked from it keep it."""
        with translated(self.root):
            self._shelf.remove([self._key(digest), self._key(digest, executable=True)])

    def trim(self) -> Evicted:
        """Evict until every limit of the policy holds or only pinned files are left."""
        with translated(self.root):
            with locked(self.root):
                self._dead += cache_session.find_dead(self.root)
            self._bury()
            return self._shelf.evict()

    def is_over(self) -> bool:
        """Whether a limit of the policy does not hold: whether it is time to `trim`."""
        with translated(self.root):
            return self._shelf.is_over()

    def oldest_s(self) -> float | None:
        """Return when the least recently used file was used; None when there is none."""
        return self._index.oldest_s()

    def evict_oldest(self, not_after_s: float, shortage_bytes: int) -> Evicted:
        """Evict files last used until `not_after_s`, oldest first, until `shortage_bytes` are freed."""
        with translated(self.root):
            return self._shelf.evict_oldest(not_after_s, shortage_bytes)

    def temporary(self) -> str:
        """Return a path for a new file on the cache's file system; removed at the latest when the cache is closed."""
        return self._session.temporary()

    def _bury(self) -> None:
        """Clean up after processes that died here: what they had pinned is in doubt, as at the end of any command."""
        if self._dead:
            for session in self._dead:
                for pinned in session.pinned():
                    self._shelf.doubt([prefix + variant for prefix in pinned for variant in (b"\0", b"\1")])
            self._shelf.sweep()
            cache_session.bury(self._dead)
            self._dead = []

    def _key(self, digest: bytes, *, executable: bool = False) -> bytes:
        return key_of(self._algorithm, digest, executable=executable)

    def _make_executable(self, blobs: Sequence[Blob]) -> None:
        try:
            self._filling.copy_executable(blobs)
        except FileNotFoundError as error:
            gone = [blob.digest for blob in self.absent(blobs)]
            raise LostFromCache(gone or [blob.digest for blob in blobs[:1]], f"the cache {self.root}") from error
        except BlobCorrupt as error:
            self.drop(error.blob.digest)
            raise BlobCorrupt(error.blob, error.found, f"the cache {self.root}; dropped") from error
