"""The system calls behind packs: create, append, sync, read, truncate, look, unlink.

Blocking, without state and without policy: `packs.py` decides, this does. One small class, so that a test can make any
single call fail as a disk would. The invariants: a directory is synced after a name in it appears or goes; what took
the name of a pack and is no regular file, a pipe for one, is not waited for and has no length.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Sequence
from pathlib import Path

from isolate.cas.files import write_atomic


class PackFiles:
    """What a file system can do for packs; every method may raise OSError."""

    def create(self, path: Path) -> None:
        """Make an empty file that survives a crash; raises FileExistsError."""
        missing = [parent for parent in path.parents if not parent.is_dir()]
        for parent in reversed(missing):
            parent.mkdir(mode=0o700, exist_ok=True)
            self.sync_directory(parent.parent)
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o600))
        self.sync_directory(path.parent)

    def open_end(self, path: Path) -> tuple[int, int]:
        """Return a descriptor for writing at the end, and where that is."""
        descriptor = os.open(path, os.O_WRONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        return descriptor, os.lseek(descriptor, 0, os.SEEK_END)

    def write(self, descriptor: int, pieces: Sequence[bytes]) -> None:
        """Write all of `pieces` in order."""
        for piece in pieces:
            with memoryview(piece) as rest:
                done = 0
                while done < len(rest):
                    done += os.write(descriptor, rest[done:])

    def sync(self, descriptor: int) -> None:
        """Return when what was written is on the disk: content and length, which is all a reader needs."""
        os.fdatasync(descriptor)

    def truncate(self, path: Path, length_bytes: int) -> None:
        """Drop everything behind `length_bytes`."""
        os.truncate(path, length_bytes)

    def read(self, path: Path, places: Sequence[tuple[int, int]]) -> list[bytes]:
        """Return the bytes at each (offset, length); fewer where the file ends before."""
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        try:
            return [_pread(descriptor, offset, length) for offset, length in places]
        finally:
            os.close(descriptor)

    def length(self, path: Path) -> int:
        """Return the size of a file, 0 when it is not there or no regular file."""
        try:
            found = os.stat(path)
        except FileNotFoundError:
            return 0
        return found.st_size if stat.S_ISREG(found.st_mode) else 0

    def unlink(self, path: Path) -> None:
        """Remove a file for good; one that is gone already is fine."""
        path.unlink(missing_ok=True)
        self.sync_directory(path.parent)

    def save(self, path: Path, content: bytes) -> None:
        """Write a small file that survives a crash; what it held before is replaced."""
        if not path.parent.is_dir():
            path.parent.mkdir(mode=0o700, exist_ok=True)
            self.sync_directory(path.parent.parent)
        write_atomic(path, content, durable=True)

    def free_bytes(self, path: Path) -> int:
        """Return how much an ordinary user may still write on the file system of `path`, which may not exist yet."""
        status = os.statvfs(path if path.exists() else path.parent)
        return status.f_bavail * status.f_frsize

    def sync_directory(self, path: Path) -> None:
        """Make the names in a directory durable."""
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _pread(descriptor: int, offset: int, length: int) -> bytes:
    data = os.pread(descriptor, length, offset)
    if len(data) in {0, length}:
        return data
    pieces = [data]  # a signal or a file system that likes short reads
    while data and (left := length - sum(map(len, pieces))):
        data = os.pread(descriptor, left, offset + length - left)
        pieces.append(data)
    return b"".join(pieces)
