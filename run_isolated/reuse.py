"""Mapped trees that outlive their run, so that the next one with the same inputs, or nearly the same, need not map.

    <cache>/trees/<hash>-<12 hex>/about   what it is
                                 /shared  which files of the cache it shares
                                 /folders what each directory should hold, see folders.py
                                 /tree

Knows no command and no store of blobs. A tree is taken by giving its directory another name, which succeeds for one
process only, and keeping that locked. Then `tree` alone goes to where a command finds it, and comes back; all that is
believed of it, and what was surplus in it, stays here, where commands have no business. What a killed run had taken is
deleted as soon as nobody has it locked. Or a tree is used where it is, by runs that cannot change it (see lowers.py):
while one of them has it locked, nobody takes or deletes it. The invariants: what is taken was compared name by name
before anybody sees it (see renewal.py); no tree is believed that was mapped in another boot; there are at most
MAX_TREES, of MAX_NAMES names together.
"""

from __future__ import annotations

import fcntl
import os
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from isolate.cas.cache import LocalCache
from isolate.cas.foreign import put_away
from isolate.cas.mounts import has_mounts
from isolate.errors import InternalFailure, InvalidRecord, TooLarge
from isolate.monitor import Monitor
from run_isolated.deletion import delete_tree
from run_isolated.facts import Facts
from run_isolated.holding import PRIVATE, alone, is_at, locked, mount_of, own
from run_isolated.moving import is_file_or_nothing
from run_isolated.stopping import Check

if TYPE_CHECKING:  # what reads, writes and corrects kept trees is imported when there is one
    from run_isolated.folders import Folder
    from run_isolated.kept import About, Shared, Taken
    from run_isolated.renewal import Sources

MAX_TREES = 8
MAX_NAMES = 4_000_000  # in all kept trees: a directory entry each, and about 100 bytes in the list
MIN_NAMES = 256  # smaller ones are mapped faster than they are compared
SKETCH = 64  # digests that stand for a tree when we look for one that is near
NEAR = 0.5  # of the sketch must be the same, and of the names
MAX_CHANGES = 1 << 18  # names that are corrected: a list of them is in memory
VERSION = 2

_NAME = re.compile(r"[0-9a-f]{40,128}-[0-9a-f]{12}")
_TREES, _GONE, _COMING, _TAKEN, _LOCK = "trees", "gone-", "coming-", "taken-", "lock"
_MAKING = "making-"


class Trees:
    """The kept trees of one cache."""

    def __init__(self, cache: LocalCache, monitor: Monitor) -> None:
        self._cache, self._monitor, self._policy = cache, monitor, cache.policy
        self._root = cache.root / _TREES
        self.facts = Facts(cache.namespace.algorithm)
        self._locks: dict[Path, int] = {}  # of directories that are ours alone

    def same(self, root: bytes) -> Iterator[Taken]:
        """Yield the trees of the manifest `root`, the one used last first, where they are: see lowers.py."""
        from run_isolated.kept import Taken

        for _, name in self._used():
            if name.startswith(f"{root.hex()}-") and (about := self._about(self._root / name)) is not None:
                yield Taken(self._root / name, about)

    def staging(self) -> Path:
        """Make a directory on the file system of the cache that is ours until it is given up, or we die."""
        while True:
            path = self._root / f"{_COMING}{os.urandom(6).hex()}"
            path.mkdir(mode=PRIVATE, parents=True)
            with suppress(FileNotFoundError, BlockingIOError):  # somebody took it for one that was left
                lock = locked(path)
                if is_at(path, lock):
                    self._locks[path] = lock
                    return path
                os.close(lock)

    def making(self, root: bytes, check: Check) -> Path:
        """Become the only run that makes a tree of the manifest `root` to be used where it is, until it is given up.

        While another run makes one, `check` is asked, and may raise to stop waiting. Raises OSError.
        """
        path = self._root / f"{_MAKING}{root.hex()}"
        self._locks[path] = own(path, check)
        return path

    def retire(self, path: Path) -> None:
        """Offer a tree to nobody any more; it is deleted once nobody uses it."""
        with suppress(OSError):
            os.rename(path, self._root / f"{_GONE}{path.name}")

    def has_any(self) -> bool:
        """Whether any tree is kept."""
        return bool(self._used())

    def take_same(self, root: bytes, destination: Path) -> Taken | None:
        """Take a tree of the manifest `root` that can be moved to `destination`; None when there is none."""
        for _, name in self._used():
            if name.startswith(f"{root.hex()}-") and (taken := self._take(name, destination)) is not None:
                return taken
        return None

    def take_near(self, sketch: bytes, destination: Path) -> Taken | None:
        """Take the tree that shares most with one of this `sketch`, and enough; else as `take_same`."""
        best, best_name = NEAR, ""
        for _, name in self._used():
            about = self._about(self._root / name)
            if about is not None and (found := self._similarity(sketch, about.sketch)) > best:
                best, best_name = found, name
        return self._take(best_name, destination) if best_name else None

    def renewed(self, taken: Taken, wanted: Iterable[Folder], names: int, sources: Sources, destination: Path) -> bool:
        """Correct a tree that was taken and move it to `destination`, an empty directory; False when it is no use."""
        aside = taken.path / f"aside-{os.urandom(6).hex()}"
        from run_isolated.renewal import NotReusable, renew

        try:
            if has_mounts(taken.tree):
                raise NotReusable("Something is mounted in it, or from it")
            limit = min(MAX_CHANGES, int(max(names, taken.about.names) * (1 - NEAR)))
            since_ns, like = taken.about.proven_ns, destination.parent
            changed = renew(taken.tree, wanted, self.facts, sources, since_ns, aside, like, limit)
            with suppress(FileNotFoundError):  # nothing was surplus
                os.rename(aside, self._root / f"{_GONE}{os.urandom(6).hex()}")
            os.rename(taken.tree, destination)
        except (NotReusable, InvalidRecord, TooLarge, ValueError):
            self._monitor.count("rejected_trees")
            return False
        except OSError as error:
            self._monitor.problem(f"Cannot reuse a mapped tree: {error.strerror}")
            return False
        self._monitor.count("reused_trees")
        self._monitor.count("corrected_names", changed)
        return True

    def keep(self, root: bytes, tree: Path, about: About, shared: Shared, wanted: Iterable[Folder] | Taken) -> bool:
        """Move `tree` here, with what it should hold: folders, or what it was taken from; False when it stays."""
        if about.names < MIN_NAMES or not about.boot_id or not about.proven_ns:
            return False
        from run_isolated.kept import Taken, write_lists
        from run_isolated.sealing import write_whole

        place = None
        try:
            place = wanted.path if isinstance(wanted, Taken) else self.staging()
            if not isinstance(wanted, Taken):
                write_lists(place, shared, wanted)
            write_whole(place / "about", about)
            os.rename(tree, place / "tree")
            os.utime(place, (self._cache.clock.now(),) * 2)
            os.rename(place, self._root / f"{root.hex()}-{os.urandom(6).hex()}")
        except OSError as error:  # it only saves time; the tree is deleted with the work directory
            self._monitor.problem(f"Cannot keep the mapped tree: {error.strerror}")
            return False
        except TooLarge:
            return False
        finally:
            if place is not None:
                self.give_up(place)
        self._monitor.count("kept_trees")
        return True

    def give_up(self, place: Path) -> None:
        """Let a directory that is ours go: if it still has the name that we gave it, it goes with the next `trim`."""
        try:
            os.rmdir(place)  # nothing was ever put there
        except OSError:
            self.retire(place)
        lock = self._locks.pop(place, None)
        if lock is not None:
            os.close(lock)

    def trim(self, *, evicted: bool = False) -> None:
        """Delete trees past the limits, and what dead processes left; after files were evicted, those that had them."""
        with self._deleting() as alone:
            if not alone:
                return  # somebody is at it, or no tree was ever kept
            now_s, names = self._cache.clock.now(), 0
            oldest_s = self._cache.oldest_s() if evicted else None
            for name in os.listdir(self._root):
                if name != _LOCK and not _NAME.fullmatch(name):
                    self._delete(name)
            for number, (used_s, name) in enumerate(self._used()):
                about = self._about(self._root / name)
                names += 0 if about is None else about.names
                fits = number < MAX_TREES and names <= MAX_NAMES
                young = used_s >= (oldest_s or 0) and not self._policy.is_too_old(used_s, now_s)
                if about is None or not fits or not young:
                    self._delete(name)

    def clear(self) -> bool:
        """Delete all that nobody uses; returns whether there was something."""
        with self._deleting() as alone:
            names = [name for name in os.listdir(self._root) if name != _LOCK] if alone else []
            for name in names:
                self._delete(name)
        return bool(names)

    def _similarity(self, one: bytes, other: bytes) -> float:
        """Estimate which part of the contents of two trees is common to both, from their sketches."""
        size = self._cache.namespace.algorithm.digest_bytes
        ones, others = ({text[at : at + size] for at in range(0, len(text), size)} for text in (one, other))
        smallest = set(sorted(ones | others)[:SKETCH])
        return len(ones & others & smallest) / len(smallest) if smallest else 0.0

    def _take(self, name: str, destination: Path) -> Taken | None:
        path, taken = self._root / name, self._root / f"{_TAKEN}{os.urandom(6).hex()}"
        about = self._about(path)
        if about is None:
            return None
        from run_isolated.kept import Taken

        try:
            if mount_of(self._root) != mount_of(destination.parent):
                return None
            lock = locked(path)
            try:
                os.rename(path, taken)
            except OSError:
                os.close(lock)
                raise
        except OSError:  # another run was faster, or uses it where it is
            return None
        self._locks[taken] = lock
        return Taken(taken, about)

    def _about(self, path: Path) -> About | None:
        """Return what is known of a kept tree; None when that is of no use here."""
        from run_isolated.kept import About
        from run_isolated.sealing import unsealed

        about = unsealed(path / "about", About)
        current = (VERSION, self._cache.namespace.name, self._cache.boot_id)
        return about if about and (about.version, about.namespace, about.boot_id) == current else None

    def _used(self) -> list[tuple[float, str]]:
        """Return the kept trees and when they were used, the one used last first."""
        found: list[tuple[float, str]] = []
        with suppress(OSError):
            for entry in os.scandir(self._root):
                if _NAME.fullmatch(entry.name):
                    with suppress(OSError):
                        found.append((entry.stat(follow_symlinks=False).st_mtime, entry.name))
        return sorted(found, reverse=True)

    @contextmanager
    def _deleting(self) -> Iterator[bool]:
        """Be the only one who deletes; whoever takes or keeps a tree need not wait."""
        try:
            if not is_file_or_nothing(self._root / _LOCK):  # a command put it there
                put_away(self._root / _LOCK)
            lock = os.open(self._root / _LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        except FileNotFoundError:  # no tree was ever kept
            yield False
            return
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            yield True
        except BlockingIOError:
            yield False
        finally:
            os.close(lock)

    def _delete(self, name: str) -> None:
        path, gone = self._root / name, self._root / (name if name.startswith(_GONE) else f"{_GONE}{name}")
        try:
            with alone(path):
                os.rename(path, gone)  # from now on nobody takes it
                delete_tree(gone)
        except (FileNotFoundError, BlockingIOError):  # taken, or in use
            return
        except NotADirectoryError:  # put here by a command
            path.unlink(missing_ok=True)
        except (OSError, InternalFailure) as error:
            self._monitor.problem(error)


def retire(cache_dir: Path, paths: Iterable[Path]) -> None:
    """Leave directories that no command had to whoever trims kept trees next; what cannot be moved stays."""
    for path in paths:
        with suppress(OSError):
            (cache_dir / _TREES).mkdir(exist_ok=True)
            os.rename(path, cache_dir / _TREES / f"{_GONE}{os.urandom(6).hex()}")


def sketch_of(runs: Iterable[Iterable[bytes]]) -> bytes:
    """Return the smallest of the distinct digests: which of all those are the smallest is as good as drawn by lot."""
    smallest: list[bytes] = []
    for digests in runs:
        smallest = sorted({*smallest, *digests})[:SKETCH]
    return b"".join(smallest)
