"""Directories that outlive their runs, such as a compiler's cache: kept by name, moved into a run and back.

    <root>/state.json        which there are, least recently used first
          /<xy>/             one cache, under a short random name
          /named/<name>      a link to it, for people
          /lent.json         which are in a run, and where; not there when none is
          /lock              held for each operation, by whichever process

The layout of 2020, but for `lent.json`. Knows no command. The invariants: while a run has a cache it is not here, so
nobody else gets or evicts it; a run that is killed loses none, because what is lent is noted before it leaves and until
it is back; nothing outside `root` and the run directory is moved, measured or deleted, because no link is followed;
what a damaged list does not name any more is deleted.
"""

from __future__ import annotations

import errno
import fcntl
import os
import random
import re
import shutil
import string
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path

from isolate.cas.files import write_atomic
from isolate.cas.lru import CachePolicy, Evicted, Item, Usage, victims
from isolate.clock import Clock
from isolate.errors import IndexCorrupt, InternalFailure
from isolate.locks import when_free
from isolate.monitor import Monitor
from run_isolated.deletion import delete_tree
from run_isolated.moving import is_directory, is_file_or_nothing, move, own, tree_size
from run_isolated.named_links import NamedLinks
from run_isolated.named_state import Kept, Loan, State, cache_name, dumps, dumps_loans, loads, loads_loans
from run_isolated.stopping import Check, go_on

MAX_BYTES, MAX_CACHES = 1 << 40, 50  # as in 2020
_LETTERS = string.ascii_letters + string.digits
_OURS = re.compile(r"[a-zA-Z0-9]{2}|moving-[0-9a-f]{12}|named")
_TRIES = 1000  # at a short name that is free: there are 3844, and at most 50 caches stay
_STATE, _NAMED, _LENT, _LOCK = "state.json", "named", "lent.json", "lock"
_PRIVATE = 0o700
_NO_SPACE = {errno.ENOSPC, errno.EDQUOT}


class NoSpace(InternalFailure):
    """What was asked for needs room on the disk, and there is none."""


class NamedCaches:
    """The named caches in the directory `root`, for any number of processes."""

    def __init__(self, root: Path, policy: CachePolicy, clock: Clock, monitor: Monitor) -> None:
        self.root = root
        self._policy, self._clock, self._monitor = policy, clock, monitor
        self._links = NamedLinks(root / _NAMED)
        self._written = ""  # the list as it is on disk, while it is locked

    def touch(self, names: Sequence[str], check: Check = go_on) -> list[str]:
        """Count the caches `names` as used now; returns those that are not here."""
        with self._state(check) as state:
            absent = [name for name in names if name not in state]
            for name in dict.fromkeys(names):
                if name in state:
                    state[name] = state.pop(name)._replace(used_s=self._clock.now())
        return absent

    def install(self, name: str, destination: Path, check: Check = go_on) -> int:
        """Move the cache `name` to `destination`, which does not exist, and return how large it was.

        Makes an empty directory when there is no such cache. Raises InternalFailure.
        """
        with self._explained(f"Cannot install the named cache {name!r}"), self._state(check) as state:
            if os.path.lexists(destination):
                raise InternalFailure(f"Cannot install the named cache {name!r}: {destination} exists already")
            kept = state.pop(cache_name(name), None)
            self._write_loans([*self._loans(), Loan(name, os.fspath(destination))])
            self._links.hide(name)
            source = None if kept is None else self.root / kept.directory
            if kept is None or source is None or not is_directory(source):
                os.mkdir(destination, _PRIVATE)
                return 0
            own(source)
            move(source, destination)
            return kept.size_bytes

    def uninstall(self, name: str, source: Path) -> None:
        """Keep the directory `source` as the cache `name`, in the place of one that came back earlier.

        Raises InternalFailure when the command has removed or replaced it: then it is lost. Also when it cannot be
        moved, NoSpace if that is the reason: then it is still at `source`, and lent.
        """
        with self._explained(f"The named cache {name!r} is lost"):
            if not is_directory(source):
                raise InternalFailure(f"The named cache {name!r} is lost: the command removed its directory")
            size_bytes = tree_size(source)
            with self._state() as state:
                replaced = self._take_in(state, name, source, size_bytes)
                with suppress(OSError):  # it is here; that it is lent no more, the next one notes
                    self._write_loans([loan for loan in self._loans() if loan.place != os.fspath(source)])
        if replaced is not None:
            self._delete(replaced.directory)

    def take_back(self, work_dir: Path) -> list[str]:
        """Take back what a run in `work_dir` had, which is dead now; returns the names.

        What came back under such a name since then stays instead. Nothing is made where nothing was lent, and nothing
        deleted where the lists are damaged: it is the command's word that brought us here.
        """
        taken: list[str] = []
        try:
            loads_loans(self._text(_LENT))
            with suppress(FileNotFoundError):
                loads(self._text(_STATE))
        except (OSError, IndexCorrupt, UnicodeDecodeError):
            return taken
        with self._explained("Cannot take back named caches"), self._state() as state:
            loans, inside = self._loans(), f"{os.path.realpath(work_dir)}/"
            for name, place in reversed([loan for loan in loans if loan.place.startswith(inside)]):
                source = Path(place)
                is_here = name in state and is_directory(self.root / state[name].directory)
                if is_here or not is_directory(source) or os.path.realpath(source.parent) != str(source.parent):
                    continue
                try:
                    self._take_in(state, name, source, tree_size(source))
                    taken.append(name)
                except (OSError, shutil.Error) as error:
                    self._monitor.problem(InternalFailure(f"The named cache {name!r} is lost: {error}"))
            self._write_loans([loan for loan in loans if not loan.place.startswith(inside)])
        return taken

    def oldest_s(self) -> float | None:
        """Return when the least recently used cache was used; None when there is none."""
        with self._state() as state:
            return next((kept.used_s for kept in state.values()), None)

    def evict_oldest(self, not_after_s: float, shortage_bytes: int) -> Evicted:
        """Delete caches last used until `not_after_s`, oldest first, until `shortage_bytes` are freed."""
        return self._evict(CachePolicy(), shortage_bytes, not_after_s)

    def trim(self) -> Evicted:
        """Delete the least recently used until every limit holds."""
        with self._explained("Cannot trim the named caches"):
            self.root.mkdir(parents=True, exist_ok=True, mode=_PRIVATE)
            status = os.statvfs(self.root)
        return self._evict(self._policy, self._policy.shortage_bytes(status.f_bavail * status.f_frsize))

    def cleanup(self) -> None:
        """Delete what no entry of the list names, and entries whose directory is gone; what cannot be is reported."""
        with self._explained("Cannot clean up the named caches"), self._state() as state:
            for name in [name for name, kept in state.items() if not is_directory(self.root / kept.directory)]:
                del state[name]
            named = {kept.directory for kept in state.values()}
            for entry in self._entries() - named - {_STATE, _NAMED, _LENT, _LOCK}:
                self._delete(entry)
            try:
                self._links.prune({name: kept.directory for name, kept in state.items()})
            except InternalFailure as error:
                self._monitor.problem(error)  # the next one tries again

    def _take_in(self, state: State, name: str, source: Path, size_bytes: int) -> Kept | None:
        """Move `source` here as the cache `name`; return what it replaces, whose files are still there."""
        own(source)
        replaced = state.pop(cache_name(name), None)
        directory = self._free_name()
        # Listed first: who is killed in between leaves an entry without a directory, and the loan that has it.
        state[name] = Kept(directory, size_bytes, self._clock.now())
        try:
            self._write(state)
            move(source, self.root / directory)
        except BaseException:
            del state[name]
            if replaced is not None:
                state[name] = replaced
            raise
        self._links.show(name, directory)
        return replaced

    def _evict(self, policy: CachePolicy, shortage_bytes: int, not_after_s: float = float("inf")) -> Evicted:
        with self._explained("Cannot evict named caches"), self._state() as state:
            items = [Item(name.encode(), kept.size_bytes, int(kept.used_s)) for name, kept in state.items()]
            usage = Usage(len(items), sum(item.size for item in items))
            chosen = victims(
                items,
                usage,
                policy,
                now_s=self._clock.now(),
                shortage_bytes=shortage_bytes,
                is_pinned=lambda _: False,
                not_after_s=not_after_s,
            )
            evicted = {item.key.decode(): state.pop(item.key.decode()) for item in list(chosen)}
        for name, kept in evicted.items():
            self._links.hide(name)
            self._delete(kept.directory)
            self._monitor.count("evicted_named_caches")
        return Evicted(len(evicted), sum(kept.size_bytes for kept in evicted.values()))

    @contextmanager
    def _state(self, check: Check = go_on) -> Iterator[State]:
        """Give the list, locked, and write it back if it was changed; `check` may raise to stop waiting for others."""
        with self._explained(f"Cannot use the named caches in {self.root}"):
            self.root.mkdir(parents=True, exist_ok=True, mode=_PRIVATE)
            for name in (_STATE, _LENT, _LOCK):
                if not is_file_or_nothing(self.root / name):  # a command put it there
                    self._delete(name)
            lock = os.open(self.root / _LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            when_free(partial(fcntl.flock, lock, fcntl.LOCK_EX | fcntl.LOCK_NB), check)
            state = self._load()
            self._written = dumps(state)
            try:
                yield state
            finally:  # a directory that was moved before something failed is not listed
                self._write(state)
        finally:
            os.close(lock)

    def _write(self, state: State) -> None:
        text = dumps(state)
        if text != self._written:
            write_atomic(self.root / _STATE, text.encode())
            self._written = text

    def _text(self, name: str) -> str:
        descriptor = os.open(self.root / name, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)  # a pipe does not stop us
        with open(descriptor, encoding="utf-8") as file:
            return file.read()

    def _loans(self) -> list[Loan]:
        """Return what is lent; nothing when that cannot be read, which matters only to runs that were killed."""
        try:
            return loads_loans(self._text(_LENT))
        except FileNotFoundError:
            return []
        except (IndexCorrupt, UnicodeDecodeError) as error:
            self._monitor.problem(f"What is lent of the named caches in {self.root} cannot be told: {error}")
            return []

    def _write_loans(self, loans: Sequence[Loan]) -> None:
        """Note what is lent, without what nobody can bring back any more."""
        current = [loan for loan in loans if os.path.isdir(os.path.dirname(loan.place))]
        if current:
            write_atomic(self.root / _LENT, dumps_loans(current).encode())
        else:
            with suppress(FileNotFoundError):
                os.unlink(self.root / _LENT)

    def _load(self) -> State:
        """Return the list; when it is damaged, say so and start anew: nothing tells which directory was what."""
        try:
            return loads(self._text(_STATE))
        except FileNotFoundError:
            return {}
        except (IndexCorrupt, UnicodeDecodeError) as error:
            self._monitor.problem(f"The list of the named caches in {self.root} is damaged, they start anew: {error}")
            for entry in self._entries() - {_LOCK, _LENT}:
                self._delete(entry)
            return {}

    def _entries(self) -> set[str]:
        """Return what is here and may be deleted; where a link led here, what we would not make is not ours."""
        names = set(os.listdir(self.root))
        return {name for name in names if _OURS.fullmatch(name)} if self.root.is_symlink() else names

    def _free_name(self) -> str:
        source = random.SystemRandom()
        for _ in range(_TRIES):
            name = "".join(source.choices(_LETTERS, k=2))
            if not os.path.lexists(self.root / name):
                return name
        raise InternalFailure(f"No free name for another cache in {self.root}")

    def _delete(self, entry: str) -> None:
        path = self.root / entry
        try:
            if is_directory(path):
                delete_tree(path)
            else:
                with suppress(FileNotFoundError):
                    os.unlink(path)
        except (OSError, InternalFailure) as error:
            self._monitor.problem(error)  # `cleanup` tries again

    @contextmanager
    def _explained(self, what: str) -> Iterator[None]:
        try:
            yield
        except (OSError, shutil.Error) as error:
            kind = NoSpace if getattr(error, "errno", None) in _NO_SPACE else InternalFailure
            raise kind(f"{what}: {getattr(error, 'strerror', None) or error}") from error
