"""The links of a tree, made by several processes at once.

Threads would not do: a link takes 10 us, and to wake a thread that waits for the interpreter's lock after each of them
costs as much again. Knows no cache and no plan. The invariants: each link is made by exactly one
process; when `Linkers.make` returns or the context is left, nobody makes links any more; what another process could not
link, for whatever reason, is tried again here, where the reason is dealt with.
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
from typing import Self

from isolate.errors import InternalFailure
from run_isolated.linker import COMMAND_LINE, batch_of

MAX_LINKERS = 3  # besides us; the journal of a file system is one for all
BATCH = 512  # links that another process makes in one go
OWN_BATCH = 64  # links of ours between looks at the others

_AHEAD = 2  # batches that a process has, so that it need not wait for us
_PIPE_BYTES = 1 << 20  # holds them, so that we need not wait for it
_KILLED = "A process that made links of the tree was killed"
_PACKAGES = str(Path(__file__).resolve().parent.parent)


class Linkers:
    """Processes that link files below the descriptor `files` to names below `root`; a context manager.

    They are started when there is something to do.
    """

    def __init__(self, files: int, root: int, count: int | None = None) -> None:
        """`count` is how many to start, by default one for each further processor we may use."""
        self._files, self._root = files, root
        self._count = min(MAX_LINKERS, _processors() - 1) if count is None else count
        self._stack = ExitStack()
        self._started: list[_Linker] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def make(
        self, numbers: range, sources: Sequence[str], paths: Sequence[str], make_one: Callable[[int], None]
    ) -> None:
        """Link those of `sources` that have these numbers to the paths beside them; `make_one` makes one here."""
        if self._count < 1:
            for number in numbers:
                make_one(number)
            return
        linkers = self._linkers()
        todo = _Todo(numbers)
        while ours := todo.take(OWN_BATCH):
            for linker in linkers:
                for failed in linker.collect(wait=False):
                    make_one(failed)
                while linker.is_waiting and (batch := todo.take(BATCH)):
                    linker.give(batch, sources, paths)
            for number in ours:
                make_one(number)
        for linker in linkers:
            for failed in linker.collect(wait=True):
                make_one(failed)

    def _linkers(self) -> list[_Linker]:
        if self._started is None:
            self._started = []
            with suppress(OSError):  # no more processes may be started: we make the links
                for _ in range(self._count):
                    self._started.append(_Linker(self._files, self._root))
                    self._stack.callback(self._started[-1].end)
        return self._started


class _Todo:
    """Numbers, given out in turn."""

    def __init__(self, numbers: range) -> None:
        self._left = numbers

    def take(self, count: int) -> range:
        taken, self._left = self._left[:count], self._left[count:]
        return taken


class _Linker:
    """One process."""

    def __init__(self, files: int, root: int) -> None:
        arguments = [_PACKAGES, str(files), str(root)]
        self._process = subprocess.Popen(
            [sys.executable, *COMMAND_LINE, *arguments],
            bufsize=0,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            pass_fds=(files, root),
            start_new_session=True,  # a Ctrl-C is meant for us
            pipesize=_PIPE_BYTES,
        )
        assert self._process.stdin is not None, "it was asked for"
        assert self._process.stdout is not None, "it was asked for"
        self._tasks, self._answers = self._process.stdin, self._process.stdout
        self._given: deque[range] = deque()
        self._poll = select.poll()
        self._poll.register(self._answers, select.POLLIN)

    @property
    def is_waiting(self) -> bool:
        """Whether it takes another batch."""
        return len(self._given) < _AHEAD

    def give(self, numbers: range, sources: Sequence[str], paths: Sequence[str]) -> None:
        part = slice(numbers.start, numbers.stop)
        left = memoryview(batch_of(list(sources[part]), list(paths[part])))
        self._given.append(numbers)
        try:
            while left:
                left = left[self._tasks.write(left) or 0 :]
        except BrokenPipeError as error:
            raise InternalFailure(_KILLED) from error

    def collect(self, *, wait: bool) -> Iterator[int]:
        """Yield the numbers it could not link, of the batches it is done with or, if we `wait`, of all."""
        while self._given and (wait or self._poll.poll(0)):
            answer = self._answers.readline()
            if not answer.endswith(b"\n"):
                raise InternalFailure(_KILLED)
            first = self._given.popleft().start
            yield from (first + int(number) for number in answer.split())

    def end(self) -> None:
        """Wait until it has made what it was given."""
        with suppress(OSError):
            self._tasks.close()
        self._process.wait()
        self._answers.close()


def _processors() -> int:
    """Return how many we may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
