"""The outputs of a run: picked up after the command, cleared of what cannot be stored, uploaded.

Knows no command; runs only when none is left that could change things under its hands. Everything it meets was made by
the command and may be hostile. The invariant: nothing outside the run directory and the output directory is read,
linked or written, because every path is resolved first and no link is followed out. What is left out is reported.
"""

from __future__ import annotations

import errno
import os
import shutil
import stat
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Protocol

from isolate.archive import ArchiveOptions, InformedStore, archive_tree
from isolate.cas.block import Absent, Block, ChunkList
from isolate.cas.digest import Blob, Namespace
from isolate.cas.store import BlobStore, Written
from isolate.cas.wire import StoreInfo
from isolate.clock import Clock
from isolate.entries import MAX_PATH_BYTES, MAX_PATH_PARTS
from isolate.monitor import Monitor
from run_isolated.result import Transfer
from run_isolated.waiting import in_thread

Report = Callable[[str], None]

# A command can make links that lead to more names than there are atoms; no real one has as many outputs.
MAX_COLLECTED = 1_000_000
_LONGEST_NAMED = 200  # characters of a path in a report

_CANNOT_LINK = {errno.EXDEV, errno.EMLINK, errno.EPERM, errno.EOPNOTSUPP}


class Store(BlobStore, InformedStore, Protocol):
    """Where outputs go."""


class Ledger:
    """A store that remembers what it was asked for: which blobs were there, and which had to be sent."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._asked: dict[Blob, bool] = {}  # whether it was missing, when first asked for

    @property
    def namespace(self) -> Namespace:
        return self._store.namespace

    def transfer(self, duration_s: float) -> Transfer:
        """Return what was sent and what was not."""
        cold = [blob.size for blob, was_missing in self._asked.items() if was_missing]
        hot = [blob.size for blob, was_missing in self._asked.items() if not was_missing]
        return Transfer(duration_s, tuple(cold), tuple(hot))

    async def missing(self, blobs: Sequence[Blob]) -> list[Blob]:
        lacking = await self._store.missing(blobs)
        absent = set(lacking)
        for blob in blobs:
            self._asked.setdefault(blob, blob in absent)
        return lacking

    async def write(self, blocks: AsyncIterator[Block]) -> Written:
        return await self._store.write(blocks)

    async def compose(self, blob: Blob, chunks: Sequence[Blob]) -> None:
        await self._store.compose(blob, chunks)

    def read(self, blobs: Sequence[Blob]) -> AsyncIterator[Block | ChunkList | Absent]:
        return self._store.read(blobs)

    async def info(self) -> StoreInfo:
        return await self._store.info()


async def upload(
    out_dir: Path, store: Store, report: Report, clock: Clock, monitor: Monitor
) -> tuple[str, Transfer] | None:
    """Store what is in `out_dir`; return its hash and how it went, None when there is nothing; raises IsolateError."""
    started_s = clock.monotonic()
    left_out = await in_thread(partial(refused, out_dir, report))
    if not set(os.listdir(out_dir)) - left_out:
        return None
    ledger = Ledger(store)
    # No denylist: an output is what the command put there. What is broken is skipped, because half of the outputs is
    # better than none. No worker processes: they would cost a bot more memory than they save time.
    options = ArchiveOptions(is_denied=left_out.__contains__, skip_broken=True, workers=0, clock=clock)
    archived = await archive_tree(out_dir, ledger, options, monitor)
    return archived.hash, ledger.transfer(clock.monotonic() - started_s)


def collect(run_dir: Path, out_dir: Path, paths: Sequence[str], report: Report) -> None:
    """Link the files and directories `paths`, relative to `run_dir`, into `out_dir` at the same places.

    Links are followed, so the result has none; one that leads out of `run_dir` is reported and skipped, as is what does
    not exist. A file that the command itself put into `out_dir` at such a place is kept.
    """
    inside = _Root(run_dir)
    # What to take, under which name, and the directories we came through, to notice a cycle of links.
    pending: list[tuple[str, str, frozenset[str]]] = [
        (os.path.join(inside.real, path), path, frozenset()) for path in reversed(paths)
    ]
    taken = 0
    while pending:
        source, path, above = pending.pop()
        taken += 1
        if len(os.fsencode(source)) >= MAX_PATH_BYTES:
            report(f"Output {_named(path)} lies too deep; skipped")
            continue
        real = inside.resolve(source)
        if taken > MAX_COLLECTED:
            report(f"More than {MAX_COLLECTED} outputs; {path!r} and the rest are skipped")
            return
        if real is None:
            report(f"Output {path!r} leads out of the run directory; skipped")
        elif not os.path.lexists(real):
            report(f"Output {path!r} does not exist; skipped")
        elif real in above or path.count("/") >= MAX_PATH_PARTS:
            report(f"Output {path!r} is a link to a directory it is in, or lies too deep; skipped")
        elif os.path.isdir(real):
            if _make_directory(out_dir, path, report):
                _make_accessible(real)
                names, through = sorted(os.listdir(real), reverse=True), above | {real}
                pending += [(os.path.join(real, name), os.path.join(path, name), through) for name in names]
        elif not os.path.isfile(real):
            report(f"Output {path!r} is neither a file nor a directory; skipped")
        elif _make_directory(out_dir, os.path.dirname(path), report):
            _link(real, os.path.join(out_dir, path), path, report)


def refused(out_dir: Path, report: Report) -> frozenset[str]:
    """Return the paths in `out_dir` that cannot be uploaded, each reported; gives us back the right to read the rest.

    Those are sockets, pipes, devices, links that lead out of `out_dir`, and what lies too deep for a manifest.
    """
    inside = _Root(out_dir)
    bad: set[str] = set()
    pending = [""]
    while pending:
        directory = pending.pop()
        _make_accessible(os.path.join(inside.real, directory))
        for path, status in _children(inside.real, directory):
            problem = _problem(inside, path, status)
            if problem:
                report(f"Output {_named(path)} {problem}; skipped")
                bad.add(path)
            elif stat.S_ISDIR(status.st_mode):
                pending.append(path)
    return frozenset(bad)


def _problem(inside: _Root, path: str, status: os.stat_result) -> str:
    """Return what is wrong with an output, "" for nothing."""
    if len(os.fsencode(path)) >= MAX_PATH_BYTES - len(inside.real) - 1 or path.count("/") >= MAX_PATH_PARTS:
        return "lies too deep"
    absolute = os.path.join(inside.real, path)
    if stat.S_ISLNK(status.st_mode):
        return "" if inside.resolve(absolute) is not None else f"is a link to {os.readlink(absolute)!r}, outside"
    if stat.S_ISREG(status.st_mode):
        if not os.access(absolute, os.R_OK) and status.st_nlink == 1:  # else it may be an input, shared with others
            with suppress(OSError):
                os.chmod(absolute, stat.S_IMODE(status.st_mode) | stat.S_IRUSR)
        return "" if os.access(absolute, os.R_OK) else "cannot be read"
    return "" if stat.S_ISDIR(status.st_mode) else "is neither a file, a directory nor a link"


def _named(path: str) -> str:
    """Return `path` as a report names it: its ends are enough of a long one."""
    return repr(path) if len(path) <= _LONGEST_NAMED else f"{path[:100]!r} ... {path[-50:]!r}"


class _Root:
    """A directory that nothing may lead out of."""

    def __init__(self, path: Path) -> None:
        self.real = os.path.realpath(path)

    def resolve(self, path: str) -> str | None:
        """Return where `path` really is; None when that is outside."""
        real = os.path.realpath(path)
        return real if f"{real}/".startswith(f"{self.real}/") else None


def _children(root: str, directory: str) -> Iterator[tuple[str, os.stat_result]]:
    descriptor = os.open(os.path.join(root, directory), os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        with os.scandir(descriptor) as entries:  # by paths, an entry may be too deep to be looked at
            for entry in entries:
                yield os.path.join(directory, entry.name), entry.stat(follow_symlinks=False)
    finally:
        os.close(descriptor)


def _make_accessible(directory: str) -> None:
    if not os.access(directory, os.R_OK | os.W_OK | os.X_OK):
        with suppress(OSError):
            os.chmod(directory, stat.S_IRWXU)


def _make_directory(out_dir: Path, path: str, report: Report) -> bool:
    """Make the directory `path` in `out_dir` without following links; False, reported, when something is in the way."""
    place = os.path.realpath(out_dir)
    for part in filter(lambda part: part not in {"", "."}, path.split("/")):
        place = os.path.join(place, part)
        with suppress(FileExistsError):
            os.mkdir(place, stat.S_IRWXU)
        if not stat.S_ISDIR(os.lstat(place).st_mode):
            report(f"Output {path!r} is in the way of what the command wrote there itself; skipped")
            return False
        _make_accessible(place)
    return True


def _link(source: str, destination: str, path: str, report: Report) -> None:
    """Make `destination` the same file as `source`, or a copy where that is impossible; keeps what is there."""
    try:
        try:
            os.link(source, destination, follow_symlinks=False)
        except FileExistsError:
            return
        except OSError as error:
            if error.errno not in _CANNOT_LINK:
                raise
            shutil.copyfile(source, destination, follow_symlinks=False)
            shutil.copymode(source, destination, follow_symlinks=False)
    except OSError as error:
        report(f"Output {path!r} cannot be taken: {error.strerror}; skipped")
