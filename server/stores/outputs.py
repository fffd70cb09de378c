"""What attempts print, as one growing file each.

Knows run ids and bytes, no task and no text. `append` returns only when the bytes are durable; appends that wait
together are written together and their files synced side by side, so that a thousand small tasks do not wait for a
thousand syncs in a row. Files lie in one directory for each 17 minutes of task ids, which keeps directories small and
lets old ones go as a whole.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import queue
import re
import threading
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from isolate.errors import IsolateError, NoSpace, Unavailable
from swarming import ids
from swarming.store import MAX_OUTPUT_BYTES

MAX_WAITING_BYTES = 64 << 20  # of appends not written yet; beyond, bots are asked to come back
SYNC_THREADS = 4  # a sync mostly waits for the disk
GROUP_APPENDS = 500  # synced together; the files are open meanwhile
_DIGITS_IN_DIRECTORY = 11  # hex digits of a run id that are not in the name of its directory: 2^20 ms and the rest
_NUMBER = re.compile("[0-9a-f]+")
_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


@dataclass(frozen=True, slots=True)
class Quiet:
    """A file that was not written to for a while."""

    run_id: str
    path: Path
    size_bytes: int
    changed_ns: int

    def content(self, start: int, length: int) -> bytes:
        """Return some of it; empty when it is gone. Blocks."""
        return _read(self.path, start, length) or b""


@dataclass(slots=True)
class _Append:
    """Bytes that wait to be durable."""

    path: Path
    start: int
    data: bytes
    future: asyncio.Future[None]
    error: Exception | None = None


class FileOutputs:
    """Implements `swarming.store.OutputStore` in a directory."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._root.mkdir(parents=True, exist_ok=True)
        self._closing = False
        self._waiting_bytes = 0
        self._appends: queue.SimpleQueue[_Append | None] = queue.SimpleQueue()
        self._syncers = ThreadPoolExecutor(SYNC_THREADS, thread_name_prefix="sync-outputs")
        self._thread = threading.Thread(target=self._run, name="outputs", daemon=True)
        self._thread.start()

    async def append(self, run_id: str, start: int, data: bytes) -> None:
        path, data = self._path(run_id), data[: max(0, MAX_OUTPUT_BYTES - start)]
        if not data:
            return
        if self._closing:
            raise Unavailable("Outputs are closing")
        if self._waiting_bytes + len(data) > MAX_WAITING_BYTES and self._waiting_bytes:
            raise Unavailable("Too much output waits for the disk", retry_after_s=1.0)
        append = _Append(path, start, data, asyncio.get_running_loop().create_future())
        self._waiting_bytes += len(data)
        self._appends.put(append)
        try:
            await append.future
        finally:
            self._waiting_bytes -= len(data)

    async def read(self, run_id: str, start: int, length: int) -> bytes:
        return await self.find(run_id, start, length) or b""

    async def find(self, run_id: str, start: int, length: int) -> bytes | None:
        """Do what `read` does; None where there is no file."""
        return await asyncio.to_thread(_read, self._path(run_id), start, length)

    async def size(self, run_id: str) -> int:
        return await asyncio.to_thread(_size, self._path(run_id))

    async def forget(self, before: float) -> int:
        last = ids.number(before, 0) >> (4 * (_DIGITS_IN_DIRECTORY - 1))
        return await asyncio.to_thread(_remove_directories, self._root, last)

    def quiet(self, before: float, limit: int, goes_on: Callable[[str], bool]) -> list[Quiet]:
        """Return up to `limit` files not written to since `before`, of runs that do not go on; blocks."""
        found: list[Quiet] = []
        for directory in sorted(_directories(self._root), key=lambda path: int(path.name, 16)):
            for path in list(directory.iterdir()):
                with contextlib.suppress(FileNotFoundError):  # its time was over at this moment
                    state = path.stat()
                    if state.st_mtime < before and not goes_on(path.name):
                        found.append(Quiet(path.name, path, state.st_size, state.st_mtime_ns))
            if len(found) >= limit:
                break
        return found[:limit]

    def remove(self, files: Sequence[Quiet]) -> None:
        """Remove files that are as they were found, and directories that are empty then; blocks."""
        for one in files:
            with contextlib.suppress(FileNotFoundError):
                state = one.path.stat()
                if (state.st_size, state.st_mtime_ns) == (one.size_bytes, one.changed_ns):
                    one.path.unlink()
        for directory in {one.path.parent for one in files}:
            with contextlib.suppress(OSError):  # something is in it
                directory.rmdir()

    async def close(self) -> None:
        """Finish what was asked for; later appends raise Unavailable."""
        if not self._closing:
            self._closing = True
            self._appends.put(None)
            await asyncio.to_thread(self._thread.join)
            await asyncio.to_thread(self._syncers.shutdown)

    def _path(self, run_id: str) -> Path:
        ids.unpack(run_id)  # nothing else may become a path
        return self._root / (run_id[:-_DIGITS_IN_DIRECTORY] or "0") / run_id

    def _run(self) -> None:
        """The writing thread: take what waits, make it durable, answer, until closed."""
        while (group := self._group()) is not None:
            with contextlib.ExitStack() as stack:
                self._make_durable(group, stack)
            for append in group:
                with contextlib.suppress(RuntimeError):  # the loop is closed: nobody is left to hear the answer
                    append.future.get_loop().call_soon_threadsafe(_resolve, append)

    def _group(self) -> Sequence[_Append] | None:
        """Return the appends that wait now, at least one; None to stop."""
        first = self._appends.get()
        group = [] if first is None else [first]
        while first is not None and len(group) < GROUP_APPENDS:
            try:
                following = self._appends.get_nowait()
            except queue.Empty:
                break
            if following is None:
                self._appends.put(None)
                break
            group.append(following)
        return group or None

    def _make_durable(self, group: Sequence[_Append], stack: contextlib.ExitStack) -> None:
        """Write every append, then sync the files, then the directories that got new names."""
        written: dict[int, list[_Append]] = {}
        changed: dict[Path, list[_Append]] = {}
        for append in group:
            try:
                is_new_place = _make_directory(append.path.parent)
                is_new = not append.path.exists()
                try:
                    file = _open(append.path)
                except FileNotFoundError:  # the directory went at this moment, because it was empty
                    is_new_place = _make_directory(append.path.parent)
                    file = _open(append.path)
                stack.callback(os.close, file)
                _write(file, append.start, append.data)
            except OSError as error:
                append.error = _translated(error)
                continue
            written.setdefault(file, []).append(append)
            if is_new:
                changed.setdefault(append.path.parent, []).append(append)
            if is_new_place:
                changed.setdefault(self._root, []).append(append)
        self._sync_all(written.items())
        for path, appends in changed.items():
            try:
                directory = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            except OSError as error:
                _blame(appends, error)
                continue
            stack.callback(os.close, directory)
            _sync(directory, appends)

    def _sync_all(self, written: Iterable[tuple[int, list[_Append]]]) -> None:
        pairs = list(written)
        if len(pairs) == 1:
            _sync(*pairs[0])
        else:
            list(self._syncers.map(lambda pair: _sync(*pair), pairs))


def _make_directory(path: Path) -> bool:
    """Make sure of a directory; returns whether it is new."""
    try:
        path.mkdir()
    except FileExistsError:
        return False
    return True


def _open(path: Path) -> int:
    return os.open(path, os.O_CREAT | os.O_WRONLY | os.O_CLOEXEC, 0o600)


def _write(file: int, start: int, data: bytes) -> None:
    rest = memoryview(data)
    while rest:
        count = os.pwrite(file, rest, start)
        rest, start = rest[count:], start + count


def _sync(file: int, appends: Iterable[_Append]) -> None:
    try:
        os.fsync(file)
    except OSError as error:
        _blame(appends, error)


def _blame(appends: Iterable[_Append], error: OSError) -> None:
    for append in appends:
        append.error = append.error or _translated(error)


def _translated(error: OSError) -> IsolateError:
    """Return the error of ours that says what the caller can do."""
    found: IsolateError
    if error.errno in _FULL:
        found = NoSpace("No space left for the output of tasks")
    else:
        found = Unavailable(f"Output cannot be written: {error.strerror}")
    found.__cause__ = error
    return found


def _resolve(append: _Append) -> None:
    if append.future.done():
        return
    if append.error is not None:
        append.future.set_exception(append.error)
    else:
        append.future.set_result(None)


def _remove_directories(root: Path, last: int) -> int:
    """Remove the directories numbered below `last`; returns how many files that were."""
    count = 0
    for directory in _directories(root):
        if int(directory.name, 16) < last:
            for path in list(directory.iterdir()):
                path.unlink(missing_ok=True)
                count += 1
            with contextlib.suppress(FileNotFoundError):  # whoever took its last file took it too
                directory.rmdir()
    return count


def _directories(root: Path) -> list[Path]:
    """Return our directories below `root`, and nothing else that may be there."""
    return [path for path in root.iterdir() if _NUMBER.fullmatch(path.name)]


def _read(path: Path, start: int, length: int) -> bytes | None:
    try:
        file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    try:
        parts = []
        while length > 0 and (part := os.pread(file, min(length, 1 << 20), start)):
            parts.append(part)
            start, length = start + len(part), length - len(part)
        return b"".join(parts)
    finally:
        os.close(file)


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0
