"""Digests of files that have not changed since they were read: (path, size, mtime, ctime, inode, device) -> digest.

Knows no trees and no store; only saves time. The invariants: a digest is given only for a file whose whole stamp is the
one that was read, and only if a later write must have moved its ctime (a store through a writable mapping need not: it
does so only when it is the first to its page since the page was written out); a damaged, foreign or unreadable cache is
an empty one, reported and never raised.

One file for each archived tree, read and written as a stream beside the scan, because both are sorted by path: memory
is one frame, whatever the size of the tree. The first payload names format, algorithm and tree; each later one is
`bytes of paths 4 · paths, separated by NUL · one record per path`.
"""

from __future__ import annotations

import os
import struct
import tempfile
from bisect import bisect_left
from collections.abc import Container, Generator, Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Self

from isolate.cas.digest import BLAKE3, Algorithm
from isolate.clock import Clock
from isolate.frames import UNFINISHED, clean_frames, open_frames, read_frame, write_frame
from isolate.monitor import Monitor
from isolate.scan import Stamp

FORMAT = b"isolate stat cache 1"
FRAME_FILES = 4096  # about half a megabyte: all that is held of a cache of any size
HELD_DEAD = 4 * FRAME_FILES  # paths that are gone, before the new cache is begun because of them
# File systems stamp ctime with a coarse clock (ext4 4 ms, FAT 2 s): a file this young could change once more and keep
# its stamp, so its digest is not remembered.
SETTLED_NS = 2_000_000_000

_LENGTH = struct.Struct("<I")
_END = "\U0010ffff\U0010ffff"  # sorts behind every path

Record = tuple[Any, ...]  # the five numbers of a stamp, then the digest


def settled_ns(read_at_ns: int) -> int:
    """Return the newest ctime with which a file read at `read_at_ns` cannot have changed afterwards and kept its stamp.

    One number for all files that were read together.
    """
    return read_at_ns - SETTLED_NS


class StatCache:
    """The digests of one tree; `find` and `store` must each be called in the order of the paths, `find` first.

    A context manager: what was stored is merged into the old cache at the end, and what was not found any more is
    dropped, but only if the body ended well: hashing is not lost because a server went away.
    """

    def __init__(
        self,
        folder: Path,
        tree: str,
        algorithm: Algorithm,
        clock: Clock,
        monitor: Monitor,
        doubted: Container[str] = (),
    ) -> None:
        """What is remembered of the paths in `doubted` is dropped."""
        self._doubted = doubted
        self._clock, self._monitor, self._folder = clock, monitor, folder
        self._head = b"\0".join((FORMAT, algorithm.name.encode(), os.fsencode(tree)))
        self._path = folder / BLAKE3.digest(self._head).hex()[:32]
        self._record = struct.Struct(f"<QqqQQ{algorithm.digest_bytes}s")
        self._now_ns = int(clock.now() * 1e9)
        self._frames = self._read()
        self._frame: dict[str, Record] = {}  # what `find` did not come to yet
        self._last = ""  # path of the frame
        self._dead: set[str] = set()  # of what `find` passed: gone, or changed
        self._kept: tuple[str, str] | None = None  # range of paths that nobody needs to look for
        self._merger: _Merger | None = None
        self._is_off = False
        self._is_damaged = False

    def __enter__(self) -> Self:
        try:
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            self._give_up(error)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if not self._is_off:
                self._save(complete=kind is None)
        except OSError as problem:
            self._give_up(problem)
        finally:
            self._frames.close()
            if self._merger is not None:
                self._merger.close()

    def find(self, path: str, stamp: Stamp) -> bytes | None:
        """Return the digest of the file at `path`, None when it has to be read."""
        if self._kept is not None:
            self._pass_kept(*self._kept)
        while self._last < path:
            self._next_frame()
        record = self._frame.pop(path, None)
        if record is None:
            return None
        # A ctime ahead of the clock says that one of the two was set: nothing follows from it.
        if record[:5] != stamp or stamp[2] >= self._now_ns or (self._doubted and path in self._doubted):
            self._dead.add(path)
            return None
        digest: bytes = record[5]
        return digest

    @property
    def held_dead(self) -> int:
        """How many paths that are gone are in memory."""
        return len(self._dead)

    def keep(self, first: str, last: str) -> None:
        """Leave what is remembered from `first` to `last` as it is, unread; called in the order of paths like `find`.

        Only what was kept may be there between `last` and the next path that is looked for or kept.
        """
        self._kept = (first if self._kept is None else self._kept[0], last)

    def passed(self, path: str) -> None:
        """Hear that nothing up to `path` will be stored any more."""
        if self._is_off or (self._merger is None and len(self._dead) < HELD_DEAD):
            return
        try:
            self._merge().advance(path, self._dead)
        except OSError as error:
            self._give_up(error)

    def store(self, files: Iterable[tuple[str, Stamp, bytes]]) -> None:
        """Remember digests that `find` did not give. The caller made sure that the stamps are settled."""
        if self._is_off:
            return
        try:
            self._merge().add(files, self._dead)
        except OSError as error:
            self._give_up(error)

    def _merge(self) -> _Merger:
        if self._merger is None:
            self._merger = _Merger(self._folder, self._head, self._record, self._read())
        return self._merger

    def _pass_kept(self, first: str, last: str) -> None:
        self._kept = None
        while True:
            for path in [path for path in self._frame if first <= path <= last]:
                del self._frame[path]
            if self._last >= last:
                return
            self._next_frame()

    def _next_frame(self) -> None:
        self._dead.update(self._frame)
        paths, packed = next(self._frames, ([], b""))
        self._frame = dict(zip(paths, self._record.iter_unpack(packed), strict=True))
        # Behind every path there is, so that `find` does not ask again.
        self._last = paths[-1] if paths else _END

    def _save(self, *, complete: bool) -> None:
        if complete and self._kept is not None and self._last:
            self._pass_kept(*self._kept)
        # Where all was kept, nothing is gone.
        while complete and self._kept is None and self._last != _END:
            self._next_frame()
        now_s = self._clock.now()
        if self._merger is None and not self._dead and not self._is_damaged:
            if self._path.exists():
                os.utime(self._path, (now_s, now_s))
            return
        self._merge().finish(self._path, self._dead)
        os.utime(self._path, (now_s, now_s))
        clean_frames(self._folder, now_s)

    def _give_up(self, error: OSError) -> None:
        self._monitor.problem(f"Digests of unchanged files are not remembered: {error}")
        self._is_off = True

    def _read(self) -> Generator[tuple[list[str], bytes], None, None]:
        """Yield the frames of the old cache, paths and packed records; ends early, with a report, if it is damaged."""
        try:
            with open_frames(self._path) as file:
                if read_frame(file) != self._head:
                    raise ValueError("it begins with something else")
                while (payload := read_frame(file)) is not None:
                    yield self._split(payload)
        except FileNotFoundError:
            return
        except (OSError, ValueError, struct.error) as error:
            if not self._is_damaged:
                self._monitor.problem(f"Stat cache {str(self._path)!r} is damaged and will be replaced: {error}")
            self._is_damaged = True

    def _split(self, payload: bytes) -> tuple[list[str], bytes]:
        (paths_bytes,) = _LENGTH.unpack_from(payload)
        records_at = _LENGTH.size + paths_bytes
        paths = os.fsdecode(payload[_LENGTH.size : records_at]).split("\0")
        packed = payload[records_at:]
        if len(packed) != len(paths) * self._record.size:
            raise ValueError("paths and records do not match")
        return paths, packed


class _Merger:
    """Writes the new cache from the old one and what is new, under a temporary name until it is whole.

    What stays is copied as it is packed, in pieces between what is new or dead: one changed file of a hundred costs
    hardly more than that file.
    """

    def __init__(
        self, folder: Path, head: bytes, record: struct.Struct, old: Iterator[tuple[list[str], bytes]]
    ) -> None:
        descriptor, self._name = tempfile.mkstemp(prefix=UNFINISHED, dir=folder)
        self._file: BinaryIO = os.fdopen(descriptor, "wb")
        self._record = record
        self._old = old
        self._old_paths, self._old_packed = next(old, ([], b""))
        self._at = 0  # in them: all before is copied or left out
        self._paths: list[str] = []
        self._packed: list[bytes] = []
        self._open = True
        write_frame(self._file, head)

    def add(self, files: Iterable[tuple[str, Stamp, bytes]], dead: set[str]) -> None:
        """Write new records, each behind those old ones that come before it and are not dead."""
        for path, stamp, digest in files:
            self.advance(path, dead)
            if self._old_paths and self._old_paths[self._at] == path:
                self._pass(1)
            with suppress(struct.error):  # nanoseconds of a year that 64 bits do not hold: read each time
                self._write([path], self._record.pack(*stamp, digest))

    def advance(self, path: str, dead: set[str]) -> None:
        """Write those old ones that come before `path` and are not dead; the dead are forgotten."""
        while self._old_paths and self._old_paths[self._at] < path:
            self._copy(bisect_left(self._old_paths, path, self._at), dead)

    def finish(self, path: Path, dead: set[str]) -> None:
        """Write what is left of the old ones, and let the new cache take the name `path`."""
        while self._old_paths:
            self._copy(len(self._old_paths), dead)
        self._flush()
        self._file.close()
        os.replace(self._name, path)
        self._open = False

    def close(self) -> None:
        """Leave nothing behind that `finish` did not make visible."""
        if self._open:
            self._open = False
            self._file.close()
            os.unlink(self._name)

    def _copy(self, end: int, dead: set[str]) -> None:
        """Write the old ones before `end` of their frame that are not dead."""
        paths, packed, size = self._old_paths[self._at : end], self._old_packed, self._record.size
        start = 0
        for gone in sorted(dead.intersection(paths)):
            index = bisect_left(paths, gone, start)
            self._write(paths[start:index], packed[(self._at + start) * size : (self._at + index) * size])
            start = index + 1
            dead.remove(gone)
        self._write(paths[start:], packed[(self._at + start) * size : end * size])
        self._pass(len(paths))

    def _pass(self, count: int) -> None:
        """Go on behind so many old ones of this frame."""
        self._at += count
        if self._at == len(self._old_paths):
            self._old_paths, self._old_packed = next(self._old, ([], b""))
            self._at = 0

    def _write(self, paths: list[str], packed: bytes) -> None:
        self._paths += paths
        self._packed.append(packed)
        while len(self._paths) >= FRAME_FILES:
            self._flush()

    def _flush(self) -> None:
        """Write what waits, as much as a frame holds."""
        if self._paths:
            paths, self._paths = self._paths[:FRAME_FILES], self._paths[FRAME_FILES:]
            packed, path_text = b"".join(self._packed), os.fsencode("\0".join(paths))
            end = len(paths) * self._record.size
            write_frame(self._file, _LENGTH.pack(len(path_text)) + path_text + packed[:end])
            self._packed = [packed[end:]]
