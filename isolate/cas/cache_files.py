"""The files of a local cache: names, staging, verification; no index and no policy.

A key names a file: algorithm code, digest, 1 for the executable variant and 0 for the plain one. The invariant: a file
that was staged has the bytes its key says, and nothing is left of one that was not.
"""

from __future__ import annotations

import errno
import fcntl
import os
import signal
import stat
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple, Self

from isolate.cas.cache_form import Form, form_of, open_to_read
from isolate.cas.cache_index import UNKNOWN_BOOT, Identity, Row, identity
from isolate.cas.cache_names import EXECUTABLE, name_of
from isolate.cas.digest import ALGORITHMS, Algorithm, Blob
from isolate.cas.files import set_aside
from isolate.cas.foreign import make_way
from isolate.cas.inode_flags import make_apart, make_mutable
from isolate.errors import BlobCorrupt, IsolateError, NoSpace

Content = bytes | bytearray | memoryview

READ_BYTES = 1 << 20
_NEW_FILE = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW


class Staged(NamedTuple):
    """A verified file that waits under a temporary name."""

    key: bytes
    temporary: str
    identity: Identity


class Hashed(NamedTuple):
    """What a file held, and who could have written to it, when it was read."""

    blob: Blob
    identity: Identity
    names: int
    is_open: bool  # for writing, by whoever
    form: Form


def key_of(algorithm: Algorithm, digest: bytes, *, executable: bool = False) -> bytes:
    """Return the name of a file in the index."""
    return b"%c%b%c" % (algorithm.code, digest, executable)


def mode_of(key: bytes) -> int:
    """Return the permissions of a file: never writable, executable if it is that variant."""
    return 0o555 if key[-1] else 0o444


@contextmanager
def translated(root: Path) -> Iterator[None]:
    """Turn what the operating system says into our errors."""
    try:
        yield
    except OSError as error:
        if error.errno in {errno.ENOSPC, errno.EDQUOT}:
            raise NoSpace(f"No space left on the device of the cache {root}") from error
        place = f": {error.filename}" if error.filename else ""
        raise IsolateError(f"Cannot use the cache {root}: {error.strerror}{place}") from error


class CacheFiles:
    """Where the files of the cache at `root` are."""

    def __init__(self, root: Path) -> None:
        self.root = root / "files"
        self._bases = {code: f"{self.root}/{algorithm.name}" for code, algorithm in ALGORITHMS.items()}

    def path(self, key: bytes) -> str:
        """Return where the file called `key` belongs."""
        return f"{self._bases[key[0]]}/{name_of(key[1:-1], key[-1])}"

    def paths(self, algorithm: Algorithm, wanted: Sequence[tuple[Blob, bool]]) -> list[str]:
        """Return what `path` does for many."""
        base, names = self._bases[algorithm.code], [blob[0].hex() for blob, _ in wanted]
        return [
            f"{base}/{name[:2]}/{name}{EXECUTABLE if executable else ''}"
            for name, (_, executable) in zip(names, wanted, strict=True)
        ]

    def status(self, key: bytes) -> Identity | None:
        """Return the identity of the file as it is now, None when there is none."""
        try:
            return identity(os.lstat(self.path(key)))
        except FileNotFoundError:
            return None

    def place(self, staged: Staged) -> None:
        """Give a staged file its name, replacing what was there."""
        path = self.path(staged.key)
        try:
            os.rename(staged.temporary, path)
        except (FileNotFoundError, IsADirectoryError, PermissionError):
            make_apart(os.path.dirname(path))
            make_way(path)
            os.rename(staged.temporary, path)

    def remove(self, key: bytes) -> None:
        path = self.path(key)
        try:
            os.unlink(path)
        except FileNotFoundError:
            return
        except (IsADirectoryError, PermissionError):  # the second is what some systems say of directories
            make_way(path)
            with suppress(FileNotFoundError):
                os.unlink(path)

    def scan(self) -> Iterator[Row]:
        """Yield every file there is, as not verified; linking moves the ctime, so that is when it was last used."""
        for algorithm in ALGORITHMS.values():
            for directory in _entries(self._bases[algorithm.code]):
                for entry in _entries(directory.path):
                    name = entry.name.removesuffix(EXECUTABLE)
                    with suppress(ValueError, OSError):
                        digest = bytes.fromhex(name)
                        status = entry.stat(follow_symlinks=False)
                        if len(digest) == algorithm.digest_bytes and stat.S_ISREG(status.st_mode):
                            key = key_of(algorithm, digest, executable=name != entry.name)
                            yield Row(key, *identity(status), int(status.st_ctime), UNKNOWN_BOOT)


def create(path: str, key: bytes, content: Content) -> Staged | None:
    """Write `content`, already verified, straight to where it belongs; None when there is something already."""
    try:
        return stage(path, key, content)
    except FileExistsError:
        return None
    except FileNotFoundError:
        make_apart(os.path.dirname(path))
    return create(path, key, content)


def stage(temporary: str, key: bytes, content: Content) -> Staged:
    """Write `content`, already verified, under a temporary name."""
    descriptor = os.open(temporary, _NEW_FILE, mode_of(key))
    try:
        written = os.write(descriptor, content)
        while written < len(content):
            written += os.write(descriptor, memoryview(content)[written:])
        status = os.fstat(descriptor)
    except BaseException:
        os.unlink(temporary)
        raise
    finally:
        os.close(descriptor)
    return Staged(key, temporary, identity(status))


class FileWriter:
    """A large file that is written in pieces, in any order, and hashed while they come; thread-safe."""

    def __init__(self, temporary: str, key: bytes, algorithm: Algorithm, blob: Blob) -> None:
        self.temporary, self._key, self._blob = temporary, key, blob
        self._hasher, self._hashed = algorithm.hasher(), 0
        self._mutex = threading.Lock()
        self._descriptor = os.open(temporary, _NEW_FILE, mode_of(key))
        set_aside(self._descriptor, blob.size)

    def write_at(self, offset: int, content: Content) -> None:
        """Write one piece; each byte of the file is written once."""
        with self._mutex:
            written = 0
            while written < len(content):
                written += os.pwrite(self._descriptor, memoryview(content)[written:], offset + written)
            if offset == self._hashed:  # in order: no need to read it again
                self._hasher.update(content)
                self._hashed += len(content)

    def finish(self) -> Staged:
        """Return the file if it is what it should be; raises BlobCorrupt."""
        with self._mutex:
            while content := os.pread(self._descriptor, READ_BYTES, self._hashed):
                self._hasher.update(content)
                self._hashed += len(content)
            found = self._hasher.digest()
            if (found, self._hashed) != self._blob:
                raise BlobCorrupt(self._blob, found)
            return Staged(self._key, self.temporary, identity(os.fstat(self._descriptor)))

    def close(self) -> None:
        """Stop writing, also whoever is about to; the temporary file stays for `place` or `discard`."""
        with self._mutex:
            descriptor, self._descriptor = self._descriptor, -1  # a late writer must not meet a number used anew
            os.close(descriptor)


class BlobWriter:
    """Writes one large blob into the cache; a context manager that leaves nothing unless `commit` was called."""

    def __init__(self, root: Path, file: FileWriter, place: Callable[[Sequence[Staged]], None]) -> None:
        self._root, self._file, self._place = root, file, place

    def write_at(self, offset: int, content: Content) -> None:
        """Write one piece, in any order; each byte once."""
        with translated(self._root):
            self._file.write_at(offset, content)

    def commit(self) -> None:
        """Make the blob visible; raises BlobCorrupt when it is another one."""
        with translated(self._root):
            self._place([self._file.finish()])

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()
        discard(self._file.temporary)


def stage_copy(source: str, temporary: str, key: bytes, algorithm: Algorithm) -> Staged:
    """Copy the plain variant of a file for the executable one, verified; raises BlobCorrupt."""
    with open(open_to_read(source, None), "rb") as file:
        blob = Blob(key[1:-1], os.fstat(file.fileno()).st_size)
        writer = FileWriter(temporary, key, algorithm, blob)
        try:
            offset = 0
            while content := file.read(READ_BYTES):
                writer.write_at(offset, content)
                offset += len(content)
            return writer.finish()
        except BaseException:
            discard(temporary)
            raise
        finally:
            writer.close()


def discard(temporary: str) -> None:
    """Remove a temporary file, if it was not placed."""
    with suppress(FileNotFoundError):
        os.unlink(temporary)


def hash_file(path: str, algorithm: Algorithm, *, mode: int | None = None) -> Hashed | None:
    """Return what the file holds; None when there is no such plain file we may read.

    Gives it no more permissions than `mode` first, when that is given, so that the bytes that were hashed stay.
    """
    hasher, size = algorithm.hasher(), 0
    try:
        descriptor = open_to_read(path, mode)
    except OSError:
        return None
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            return None
        if mode is not None:
            present = stat.S_IMODE(status.st_mode)
            restored = present & mode | mode & 0o500  # what the umask took away stays away
            if present != restored:
                make_mutable(descriptor)
                os.fchmod(descriptor, restored)
        is_open = _is_open_for_writing(descriptor)
        while content := os.read(descriptor, READ_BYTES):
            hasher.update(content)
            size += len(content)
        status = os.fstat(descriptor)
        return Hashed(Blob(hasher.digest(), size), identity(status), status.st_nlink, is_open, form_of(descriptor))
    except OSError:
        return None
    finally:
        os.close(descriptor)


def _is_open_for_writing(descriptor: int) -> bool:
    """Whether somebody has the file open for writing, or mapped; False where nobody can tell."""
    if not hasattr(fcntl, "F_SETLEASE"):
        return False
    try:
        # Whoever opens it for writing just now waits until the lease is given back. Of the signal we would get, the
        # default ends a process; this one is ignored.
        fcntl.fcntl(descriptor, fcntl.F_SETSIG, signal.SIGURG)
        fcntl.fcntl(descriptor, fcntl.F_SETLEASE, fcntl.F_RDLCK)
        fcntl.fcntl(descriptor, fcntl.F_SETLEASE, fcntl.F_UNLCK)
    except OSError as error:
        return error.errno == errno.EAGAIN
    return False


def _entries(path: str) -> list[os.DirEntry[str]]:
    with suppress(FileNotFoundError, NotADirectoryError):
        return list(os.scandir(path))
    return []
