"""The links of a tree, made by several processes at once.

Threads would not do: a link takes 10 us, and to wake a thread that waits for the interpreter's lock after each of them
costs as much again. Knows no cache and no plan. The invariants: each link is made by exactly one process; when
`Linkers.make` returns or `end` does, nobody makes links any more; what another process did not link, for
whatever reason, is tried again here, where the reason is dealt with. One that was killed is no reason to fail, and one
that does not answer (somebody stopped it) is killed.
"""

from __future__ import annotations

import os
import select
import subprocess
import sys
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import IO, Self

from run_isolated.linker import COMMAND_LINE, batch_of
from run_isolated.many_links import Places
from run_isolated.stopping import Check, go_on

MAX_LINKERS = 3  # besides us; the journal of a file system is one for all
BATCH = 512  # links that another process makes in one go
OWN_BATCH = 64  # links of ours between looks at the others

_AHEAD = 2  # batches that a process has, so that it need not wait for us
_PIPE_BYTES = 1 << 20  # holds them, so that we need not wait for it
LOOK_MS = 100  # a signal is heeded that soon while we wait for another process
PATIENCE_LOOKS = 100  # without a sign of life; a batch takes it 10 ms
END_S = 1.0  # what it has after that, to end by itself
_PACKAGES = str(Path(__file__).resolve().parent.parent)


class Linkers:
    """Processes that link files below one directory to names below another; a context manager."""

    def __init__(self, count: int | None = None, check: Check = go_on) -> None:
        """Start `count` of them, by default one for each further processor we may use; `check` may raise."""
        self._stack = ExitStack()
        self._started: list[_Linker] = []
        with suppress(OSError):  # no more processes may be started: we make the links
            for _ in range(min(MAX_LINKERS, _processors() - 1) if count is None else count):
                self._started.append(_Linker(check))
                self._stack.callback(self._started[-1].end)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.end()

    def end(self) -> None:
        """Return when nobody makes links any more; whatever is asked for then is made by us alone."""
        self._started = []
        self._stack.close()

    def make(
        self,
        places: Places,
        numbers: range,
        sources: Sequence[str],
        paths: Sequence[str],
        make_one: Callable[[int], None],
    ) -> None:
        """Link those of `sources` that have these numbers to the paths beside them; `make_one` makes one here.

        After an error nobody makes links any more, as after `end`.
        """
        try:
            self._share_out(places, _Todo(numbers), sources, paths, make_one)
            for linker in self._started:
                for failed in linker.collect(wait=True):
                    make_one(failed)
                for number in linker.left():
                    if not _is_made(f"{places.files}/{sources[number]}", f"{places.root}/{paths[number]}"):
                        make_one(number)
        except BaseException:
            self.end()
            raise

    def _share_out(
        self,
        places: Places,
        todo: _Todo,
        sources: Sequence[str],
        paths: Sequence[str],
        make_one: Callable[[int], None],
    ) -> None:
        while ours := todo.take(OWN_BATCH):
            for linker in self._started:
                for failed in linker.collect(wait=False):
                    make_one(failed)
                while linker.is_waiting and (batch := todo.take(BATCH)):
                    linker.give(places, batch, sources, paths)
            for number in ours:
                make_one(number)


def _is_made(source: str, path: str) -> bool:
    """Whether a process that is no more, and that had no time to say so, made this link."""
    try:
        return os.path.samestat(os.lstat(path), os.lstat(source))
    except OSError:  # whoever makes it sees why
        return False


class _Todo:
    """Numbers, given out in turn."""

    def __init__(self, numbers: range) -> None:
        self._left = numbers

    def take(self, count: int) -> range:
        taken, self._left = self._left[:count], self._left[count:]
        return taken


class _Linker:
    """One process; when it is lost, what it was given and did not answer is in `left`."""

    def __init__(self, check: Check) -> None:
        self._process = subprocess.Popen(
            [sys.executable, *COMMAND_LINE, _PACKAGES],
            bufsize=0,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            start_new_session=True,  # a Ctrl-C is meant for us
            pipesize=_PIPE_BYTES,
        )
        assert self._process.stdin is not None, "it was asked for"
        assert self._process.stdout is not None, "it was asked for"
        self._tasks, self._answers, self._check = self._process.stdin, self._process.stdout, check
        self._given: deque[range] = deque()
        self._is_lost = False
        os.set_blocking(self._tasks.fileno(), False)

    @property
    def is_waiting(self) -> bool:
        """Whether it takes another batch."""
        return not self._is_lost and len(self._given) < _AHEAD

    def give(self, places: Places, numbers: range, sources: Sequence[str], paths: Sequence[str]) -> None:
        """Have a batch linked."""
        part = slice(numbers.start, numbers.stop)
        left = memoryview(batch_of(places.files, places.root, [*sources[part], *paths[part]]))
        self._given.append(numbers)
        try:
            while left and self._is_ready(self._tasks, select.POLLOUT):
                left = left[self._tasks.write(left) or 0 :]
        except BrokenPipeError:
            self._lose()

    def collect(self, *, wait: bool) -> Iterator[int]:
        """Yield the numbers it could not link, of the batches it is done with or, if we `wait`, of all."""
        while self._given and not self._is_lost and self._is_ready(self._answers, select.POLLIN, wait=wait):
            answer = self._answers.readline()
            if not answer.endswith(b"\n"):
                self._lose()
                return
            first = self._given.popleft().start
            yield from (first + int(number) for number in answer.split())

    def left(self) -> Iterator[int]:
        """Yield the numbers of which it never said that they are done; none of a process that lives."""
        while self._is_lost and self._given:
            yield from self._given.popleft()

    def end(self) -> None:
        """Wait until it has made what it was given; one that is stopped is killed."""
        with suppress(OSError):
            self._tasks.close()
        try:
            self._process.wait(END_S)
        except subprocess.TimeoutExpired:
            self._lose()
        self._answers.close()

    def _is_ready(self, pipe: IO[bytes], event: int, *, wait: bool = True) -> bool:
        """Whether `pipe` can be used, or is at its end; with `wait`, False only of a process that is lost now."""
        poll = select.poll()
        poll.register(pipe, event)
        if not wait:
            return bool(poll.poll(0))
        for _ in range(PATIENCE_LOOKS):
            if poll.poll(LOOK_MS):
                return True
            self._check()
        self._lose()
        return False

    def _lose(self) -> None:
        self._is_lost = True
        self._process.kill()
        self._process.wait()


def _processors() -> int:
    """Return how many we may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
