"""Who uses a cache right now: one locked directory per open cache, with its temporary files and pins.

Knows no index and no content. A session lives exactly as long as a lock the kernel holds for its process: a killed
process loses it at that moment, so no pid has to be compared and none can be mistaken for another. The invariant: a pin
that is listed belongs to a living session, and what a dead one left is removed before anything is decided on it.

Pins are files beside the index, not rows in it: one append for a tree of any size, read only by those who evict, and
not lost when the index has to be rebuilt. They are asked about some blobs at a time: never are all in memory.
"""

from __future__ import annotations

import errno
import fcntl
import itertools
import os
import stat
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import NamedTuple, Self

from isolate.cas.digest import ALGORITHMS, Algorithm
from isolate.cas.foreign import at_once, put_away, remove
from isolate.locks import when_free

_PIN = "pin-"
_PIECE = 1 << 12  # digests of a pin that are read at a time
_POISONED = "poisoned"
_INDEX_DESCRIPTORS = 6  # an index, its journal and the memory of that, a folder, the lock; and one to spare
_ROOM_BYTES = 1 << 17  # the shared memory of a journal grows by 32 kB, and what fails then is called an I/O error


# What a cache consists of, and whether that is a directory.
_KINDS = {"files": True, "sessions": True, "trees": True, "lock": False, "exposure": False}
_KINDS |= {f"index.sqlite{suffix}": False for suffix in ("", "-wal", "-shm")}


@contextmanager
def locked(root: Path, check: Callable[[], None] | None = None) -> Iterator[None]:
    """Keep every other process from opening, cleaning or rebuilding the cache at `root`.

    While another one has it, `check` is asked, and may raise to stop waiting.
    """
    descriptor = os.open(root / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        if check is None:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        else:
            when_free(partial(fcntl.flock, descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB), check)
        yield
    finally:
        os.close(descriptor)


def prepare(root: Path) -> None:
    """Make the directories of a cache; what is in their place, or in that of its files, and is of another kind, goes.

    A command that runs as our user can put it there, and the next run is to work all the same.
    """
    root.mkdir(parents=True, exist_ok=True)
    for name, is_directory in _KINDS.items():
        with suppress(FileNotFoundError):
            mode = os.lstat(root / name).st_mode
            if not (stat.S_ISDIR(mode) if is_directory else stat.S_ISREG(mode)):
                put_away(root / name)
    for name in ("files", "sessions"):
        (root / name).mkdir(exist_ok=True)
    for algorithm in _folders_in(root / "files"):
        _folders_in(algorithm)


def _folders_in(folder: Path) -> list[Path]:
    """Return the directories in one that holds nothing else; what else there is goes."""
    found = []
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                found.append(Path(entry.path))
            else:
                put_away(Path(entry.path))
    return found


def has_room(root: Path) -> bool:
    """Whether there is room for what an index needs beside it; tried, since a quota shows in no other way."""
    probe = root / f"probe-{os.urandom(8).hex()}"
    try:
        descriptor = os.open(probe, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            return os.write(descriptor, bytes(_ROOM_BYTES)) == _ROOM_BYTES
        finally:
            os.close(descriptor)
            os.unlink(probe)
    except OSError as error:
        return error.errno not in {errno.ENOSPC, errno.EDQUOT}


def lack_of_descriptors(root: Path) -> str:
    """Return why an index cannot be opened although nothing is wrong with it; "" when there are descriptors enough."""
    opened: list[int] = []
    try:
        while len(opened) < _INDEX_DESCRIPTORS:
            opened.append(os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC))
    except OSError as error:
        return os.strerror(error.errno or 0) if error.errno in {errno.EMFILE, errno.ENFILE} else ""
    finally:
        for descriptor in opened:
            os.close(descriptor)
    return ""


def current_boot() -> str:
    """Return what changes when this machine starts anew; "" where nobody tells, then no file is ever doubted."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return ""


class Session:
    """The directory of one open cache; call its methods from any thread."""

    def __init__(self, path: Path, lock: int) -> None:
        self.path = path
        self._lock = lock
        self._numbers = itertools.count()

    @classmethod
    def start(cls, root: Path) -> Session:
        """Make a session; the caller holds `locked(root)`."""
        path = root / "sessions" / os.urandom(8).hex()
        path.mkdir(0o700)
        lock = os.open(path / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return cls(path, lock)

    def temporary(self) -> str:
        """Return a path for a new file on the file system of the cache; gone with the session."""
        return f"{self.path}/{next(self._numbers)}"

    def new_pin(self, algorithm_code: int) -> Path:
        """Return the path of a new, empty pin."""
        return self.path / f"{_PIN}{algorithm_code}-{next(self._numbers)}"

    def poisoned_mark(self) -> int:
        """Return a position in the list of poisoned items, to be read from later."""
        try:
            return os.stat(self.path / _POISONED).st_size
        except FileNotFoundError:
            return 0

    def poisoned_since(self, mark: int) -> list[bytes]:
        """Return the digests found poisoned, while this session had them pinned, after `mark`."""
        with suppress(FileNotFoundError), open(self.path / _POISONED, "rb", opener=at_once) as file:
            return [bytes.fromhex(line) for line in file.read()[mark:].decode().split()]
        return []

    def close(self) -> None:
        """End the session: its pins are gone, its temporary files too."""
        remove(self.path)
        os.close(self._lock)


class Dead(NamedTuple):
    """The session of a process that was killed, ours to bury."""

    path: Path
    lock: int

    def pinned(self) -> Iterator[list[bytes]]:
        """Yield what its command had at hand, and nobody looked at afterwards; see `pinned_among`."""
        for code, digests in _pinned_in(self.path):
            yield [b"%c%b" % (code, digest) for digest in digests]


def find_dead(root: Path) -> list[Dead]:
    """Return the sessions of dead processes; the caller holds `locked(root)`, and calls `bury` later, without it."""
    found = []
    for path in _sessions(root):
        try:
            lock = os.open(path / "lock", os.O_RDWR | os.O_CLOEXEC)
        except FileNotFoundError:  # killed while it was being made, or ending right now
            remove(path)
            continue
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(lock)
            continue
        found.append(Dead(path, lock))
    return found


def bury(dead: Iterable[Dead]) -> None:
    """Remove dead sessions with all they had."""
    for session in dead:
        remove(session.path)
        os.close(session.lock)


class Pin:
    """Blobs that are not evicted while this pin is held; a context manager."""

    def __init__(
        self, session: Session, algorithm: Algorithm, exclude_writers: Callable[[Callable[[], None]], None]
    ) -> None:
        """`exclude_writers` runs a job while nobody evicts, so that nobody decides on a half-written pin."""
        self._session, self._digest_bytes, self._exclude_writers = session, algorithm.digest_bytes, exclude_writers
        self._path = session.new_pin(algorithm.code)
        self._poisoned_mark = session.poisoned_mark()

    def extend(self, digests: Iterable[bytes]) -> None:
        """Pin these as well."""
        data = b"".join(digests)

        def append() -> None:
            with open(self._path, "ab", opener=at_once) as file:
                file.write(data)

        self._exclude_writers(append)

    def restart(self) -> None:
        """Forget what was found overwritten so far: nobody uses it through this pin yet."""
        self._poisoned_mark = self._session.poisoned_mark()

    def poisoned(self) -> list[bytes]:
        """Return those that were found overwritten since the pin was made, or restarted."""
        poisoned = self._session.poisoned_since(self._poisoned_mark)
        held: set[bytes] = set()
        if poisoned:
            held = held.union(*map(set(poisoned).intersection, _digests_in(self._path, self._digest_bytes)))
        return [digest for digest in dict.fromkeys(poisoned) if digest in held]

    def release(self) -> None:
        with suppress(FileNotFoundError):
            self._path.unlink()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.release()


def pinned_among(root: Path, keys: Iterable[bytes], *, but: Session | None = None) -> set[bytes]:
    """Return those of `keys`, each an algorithm's code and a digest, that are pinned, by others than `but`.

    This reads all pins there are, so ask about many blobs at once.
    """
    wanted: dict[int, set[bytes]] = {}
    for key in keys:
        wanted.setdefault(key[0], set()).add(key[1:])
    found: set[bytes] = set()
    for path in _sessions(root):
        if wanted and (but is None or path != but.path):
            for code, digests in _pinned_in(path):
                found.update(b"%c%b" % (code, digest) for digest in wanted.get(code, set()).intersection(digests))
    return found


def _pinned_in(session: Path) -> Iterator[tuple[int, list[bytes]]]:
    for code, pin in _pins(session):
        for digests in _digests_in(pin, ALGORITHMS[code].digest_bytes):
            yield code, digests


def mark_poisoned(root: Path, algorithm: Algorithm, digest: bytes) -> None:
    """Tell every session that has `digest` pinned that its bytes were wrong for a while."""
    for path in _sessions(root):
        with suppress(FileNotFoundError):
            if any(digest in digests for code, digests in _pinned_in(path) if code == algorithm.code):
                with open(path / _POISONED, "ab", opener=at_once) as file:
                    file.write(digest.hex().encode() + b"\n")


def _digests_in(pin: Path, digest_bytes: int) -> Iterator[list[bytes]]:
    """Yield the digests of a pin, some at a time; one that is being written, or that is gone, ends with what it has."""
    with suppress(FileNotFoundError), open(pin, "rb", opener=at_once) as file:
        while piece := file.read(_PIECE * digest_bytes):
            yield [piece[at : at + digest_bytes] for at in range(0, len(piece) - digest_bytes + 1, digest_bytes)]


def _sessions(root: Path) -> list[Path]:
    with suppress(FileNotFoundError):
        return [Path(entry.path) for entry in os.scandir(root / "sessions") if entry.is_dir(follow_symlinks=False)]
    return []


def _pins(session: Path) -> list[tuple[int, Path]]:
    with suppress(FileNotFoundError):
        names = [name for name in os.listdir(session) if name.startswith(_PIN)]
        return [(int(name.split("-")[1]), session / name) for name in names]
    return []
