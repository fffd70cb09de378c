"""Digests of files that have not changed since they were read: (path, size, mtime, ctime, inode, device) -> digest.

Knows no trees and no store; only saves time. The invariants: a digest is given only for a file whose whole stamp is the
one that was read, and only if a later write must have moved its ctime; a damaged, foreign or unreadable cache is an
empty one, reported and never raised.

One file for each archived tree, read and written as a stream beside the scan, because both are sorted by path: memory
is one frame, whatever the size of the tree. A frame is `length 4 · check 8 · payload`, the check being the first 8
bytes of the payload's BLAKE3. The first payload names format, algorithm and tree; each later one is `bytes of paths 4 ·
paths, separated by NUL · one record per path`.
"""

from __future__ import annotations

import os
import struct
import tempfile
from collections.abc import Generator, Iterator
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Self

from isolate.cas.digest import BLAKE3, Algorithm
from isolate.clock import Clock
from isolate.monitor import Monitor
from isolate.scan import Stamp

FORMAT = b"isolate stat cache 1"
FRAME_FILES = 4096  # about half a megabyte: all that is held of a cache of any size
MAX_FRAME_BYTES = 64 << 20  # FRAME_FILES of the longest paths there are
KEPT_S = 30 * 86_400.0  # caches of trees that nobody archived for so long go
# File systems stamp ctime with a coarse clock (ext4 4 ms, FAT 2 s): a file this young could change once more and keep
# its stamp, so its digest is not remembered.
SETTLED_NS = 2_000_000_000

_FRAME = struct.Struct("<I8s")
_STAMP = struct.Struct("<QqqQQ")
_LENGTH = struct.Struct("<I")


def is_settled(stamp: Stamp, read_at_ns: int) -> bool:
    """Say whether a file read at `read_at_ns` cannot have changed afterwards without changing its stamp."""
    return stamp[2] <= read_at_ns - SETTLED_NS


class StatCache:
    """The digests of one tree; `find` and `store` must each be called in the order of the paths.

    A context manager: what was stored replaces the old cache when the body ends well, and is merged into it otherwise,
    so that hashing is not lost because a server went away.
    """

    def __init__(self, folder: Path, tree: str, algorithm: Algorithm, clock: Clock, monitor: Monitor) -> None:
        self._clock = clock
        self._monitor = monitor
        self._folder = folder
        head = b"\0".join((FORMAT, algorithm.name.encode(), os.fsencode(tree)))
        self._path = folder / BLAKE3.digest(head).hex()[:32]
        self._reader = _Reader(self._path, head, _STAMP.size + algorithm.digest_bytes, monitor)
        self._head = head
        self._writer: _Writer | None = None
        self._now_ns = int(clock.now() * 1e9)
        self._changed = False

    def __enter__(self) -> Self:
        try:
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._writer = _Writer(self._folder, self._head)
        except OSError as error:
            self._give_up(error)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if self._writer is not None:
                self._save(self._writer, complete=kind is None)
        except OSError as problem:
            self._give_up(problem)
        finally:
            self._reader.close()
            if self._writer is not None:
                self._writer.close()

    def find(self, path: str, stamp: Stamp) -> bytes | None:
        """Return the digest of the file at `path`, None when it has to be read."""
        record = self._reader.find(path)
        # A ctime ahead of the clock says that one of the two was set: nothing follows from it.
        if record is None or stamp[2] >= self._now_ns or record[: _STAMP.size] != _STAMP.pack(*stamp):
            return None
        return record[_STAMP.size :]

    def store(self, path: str, stamp: Stamp, digest: bytes, *, known: bool) -> None:
        """Remember a digest; `known` says that `find` gave it. The caller made sure that the stamp is settled."""
        self._changed = self._changed or not known
        if self._writer is not None:
            try:
                self._writer.add(path, _STAMP.pack(*stamp) + digest)
            except OSError as error:
                self._give_up(error)

    def _save(self, writer: _Writer, *, complete: bool) -> None:
        now_s = self._clock.now()
        if complete and not self._changed and writer.count == self._reader.count and not self._reader.more():
            if writer.count:
                os.utime(self._path, (now_s, now_s))
            return
        if not complete:
            for path, record in self._reader.after(writer.last):
                writer.add(path, record)
        writer.replace(self._path)
        os.utime(self._path, (now_s, now_s))
        oldest_s = now_s - KEPT_S
        with os.scandir(self._folder) as entries:
            for entry in entries:
                if entry.stat(follow_symlinks=False).st_mtime < oldest_s:
                    os.unlink(entry.path)

    def _give_up(self, error: OSError) -> None:
        self._monitor.problem(f"Digests of unchanged files are not remembered: {error}")
        if self._writer is not None:
            self._writer.close()
            self._writer = None


class _Reader:
    """The old cache as a stream; ends early, with a report, where it is damaged."""

    def __init__(self, path: Path, head: bytes, record_bytes: int, monitor: Monitor) -> None:
        self._path, self._head, self._record_bytes, self._monitor = path, head, record_bytes, monitor
        self._frames = self._read()
        self._indexes: dict[str, int] = {}
        self._records = b""
        self._last = ""
        self.count = 0  # records of the frames seen so far

    def find(self, path: str) -> bytes | None:
        while self._last < path:
            if not self.more():
                return None
        index = self._indexes.get(path)
        if index is None:
            return None
        return self._records[index * self._record_bytes : (index + 1) * self._record_bytes]

    def more(self) -> bool:
        """Go to the next frame; False at the end."""
        paths, self._records = next(self._frames, ([], b""))
        self._indexes = dict(zip(paths, range(len(paths)), strict=True))
        self.count += len(paths)
        # Behind every path there is, so that `find` does not ask again.
        self._last = paths[-1] if paths else "\U0010ffff" * 2
        return bool(paths)

    def after(self, last: str) -> Iterator[tuple[str, bytes]]:
        """Yield path and record of everything behind `last`, from the beginning of the file."""
        for paths, records in self._read():
            for index, path in enumerate(paths):
                if path > last:
                    yield path, records[index * self._record_bytes : (index + 1) * self._record_bytes]

    def close(self) -> None:
        self._frames.close()

    def _read(self) -> Generator[tuple[list[str], bytes], None, None]:
        try:
            with open(self._path, "rb") as file:
                if (head := _read_frame(file)) != self._head:
                    if head is not None:
                        self._monitor.problem(f"Stat cache {str(self._path)!r} is of another version and ignored")
                    return
                while (payload := _read_frame(file)) is not None:
                    yield self._split(payload)
        except FileNotFoundError:
            return
        except (OSError, ValueError, struct.error) as error:
            self._monitor.problem(f"Stat cache {str(self._path)!r} is damaged and ignored: {error}")

    def _split(self, payload: bytes) -> tuple[list[str], bytes]:
        (paths_bytes,) = _LENGTH.unpack_from(payload)
        records_at = _LENGTH.size + paths_bytes
        paths = os.fsdecode(payload[_LENGTH.size : records_at]).split("\0")
        if len(payload) - records_at != len(paths) * self._record_bytes:
            raise ValueError("paths and records do not match")
        return paths, payload[records_at:]


class _Writer:
    """The new cache, under a temporary name until it is whole."""

    def __init__(self, folder: Path, head: bytes) -> None:
        descriptor, self._name = tempfile.mkstemp(dir=folder)
        self._file: BinaryIO = os.fdopen(descriptor, "wb")
        self._paths: list[str] = []
        self._records: list[bytes] = []
        self._open = True
        self.count = 0
        self.last = ""
        _write_frame(self._file, head)

    def add(self, path: str, record: bytes) -> None:
        self._paths.append(path)
        self._records.append(record)
        self.last = path
        self.count += 1
        if len(self._paths) == FRAME_FILES:
            self._flush()

    def replace(self, path: Path) -> None:
        self._flush()
        self._file.close()
        os.replace(self._name, path)
        self._open = False

    def close(self) -> None:
        """Leave nothing behind that `replace` did not make visible."""
        if self._open:
            self._open = False
            self._file.close()
            os.unlink(self._name)

    def _flush(self) -> None:
        if self._paths:
            paths = os.fsencode("\0".join(self._paths))
            _write_frame(self._file, _LENGTH.pack(len(paths)) + paths + b"".join(self._records))
            self._paths, self._records = [], []


def _write_frame(file: BinaryIO, payload: bytes) -> None:
    file.write(_FRAME.pack(len(payload), BLAKE3.digest(payload)[:8]))
    file.write(payload)


def _read_frame(file: BinaryIO) -> bytes | None:
    """Return the next payload, None at the end; raises ValueError, struct.error when it is damaged."""
    head = file.read(_FRAME.size)
    if not head:
        return None
    length, check = _FRAME.unpack(head)
    if length > MAX_FRAME_BYTES:
        raise ValueError(f"a frame of {length} bytes")
    payload = file.read(length)
    if len(payload) != length or BLAKE3.digest(payload)[:8] != check:
        raise ValueError("a frame is cut off or has changed")
    return payload
