"""How fast to compress: as thoroughly as the processors allow while the connection is what an upload waits for.

Knows no files, no blocks and no connection. The invariant: the level moves only on what was seen over a whole
WINDOW_S, and is always one of LEVELS.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TypeVar, TypeVarTuple

from isolate.clock import Clock

# doc/decisions/015: below 1 zstd leaves out the entropy coder, which saves less time than it costs all who read.
LEVELS = (1, 3, 5, 7, 9)
FIRST_LEVEL = LEVELS[0]
WINDOW_S = 0.25
BUSY, IDLE = 0.75, 0.40  # share of the time: above, compression is in the way; below, there is time for more of it

T = TypeVar("T")
Arguments = TypeVarTuple("Arguments")


class Effort:
    """Decides the level from how busy `threads` threads are during uploads; pure, and safe to use in all of them."""

    def __init__(self, threads: int) -> None:
        self.level = FIRST_LEVEL
        self._threads = threads
        self._uploads = 0
        self._since_s = self._busy_s = 0.0
        self._lock = threading.Lock()

    def begin(self, now_s: float) -> None:
        """Note that an upload begins: until it ends, idle threads mean a slow connection."""
        with self._lock:
            if not self._uploads:
                self._since_s, self._busy_s = now_s, 0.0
            self._uploads += 1

    def end(self) -> None:
        with self._lock:
            self._uploads -= 1

    def worked(self, started_s: float, ended_s: float) -> None:
        """Note that one thread was busy for a while."""
        with self._lock:
            if not self._uploads:
                return
            self._busy_s += ended_s - started_s
            passed_s = ended_s - self._since_s
            if passed_s < WINDOW_S:
                return
            share = self._busy_s / (passed_s * self._threads)
            self._since_s, self._busy_s = ended_s, 0.0
            if share > BUSY:
                self.level = LEVELS[max(0, LEVELS.index(self.level) - 1)]
            elif share < IDLE:
                self.level = LEVELS[min(len(LEVELS) - 1, LEVELS.index(self.level) + 1)]


class Threads:
    """A few threads for the work with files, and the effort they make."""

    def __init__(self, count: int, clock: Clock) -> None:
        self._clock = clock
        self._executor = ThreadPoolExecutor(count, thread_name_prefix="files")
        self.effort = Effort(count)

    @contextmanager
    def uploading(self) -> Iterator[None]:
        """Let the effort be that of an upload which lasts as long as this."""
        self.effort.begin(self._clock.monotonic())
        try:
            yield
        finally:
            self.effort.end()

    async def run(self, work: Callable[[*Arguments], T], *arguments: *Arguments) -> T:
        """Return what `work` returns, computed in a thread."""
        return await asyncio.get_running_loop().run_in_executor(self._executor, self._timed, work, arguments)

    def close(self) -> None:
        """Start nothing more; what runs may go on for a moment."""
        self._executor.shutdown(wait=False, cancel_futures=True)

    def _timed(self, work: Callable[[*Arguments], T], arguments: tuple[*Arguments]) -> T:
        started_s = self._clock.monotonic()
        try:
            return work(*arguments)
        finally:
            self.effort.worked(started_s, self._clock.monotonic())
