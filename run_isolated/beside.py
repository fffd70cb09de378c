"""Processes beside a run that do a part of what it has to do for each name of a large tree.

Threads would not do: a call of the kernel takes 3 to 10 us, and to wake a thread that waits for the interpreter's lock
after each of them costs as much again. Knows not what is done: numbered pieces of work go out, and the numbers of those
that came to nothing come back. The invariants: when the context is left, no process is at it any more; one that was
killed is no reason to fail, what it did not answer for is told; one that does not answer (somebody stopped it) is
killed. Each is fresh, imports little, and ends when its stdin does.
"""

from __future__ import annotations

import os
import select
import subprocess
import sys
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import IO

from run_isolated.stopping import Check

MAX_HELPERS = 3  # besides us; the journal of a file system is one for all

_AHEAD = 2  # batches that a process has, so that it need not wait for us
_PIPE_BYTES = 1 << 20  # holds them, so that we need not wait for it
LOOK_MS = 100  # a signal is heeded that soon while we wait for another process
PATIENCE_LOOKS = 100  # without a sign of life; a batch takes it 10 ms
END_S = 1.0  # what it has after that, to end by itself
_PACKAGES = str(Path(__file__).resolve().parent.parent)


class Helper:
    """One process; when it is lost, what it was given and did not answer is in `left`."""

    def __init__(self, command_line: Sequence[str], descriptors: Sequence[int], check: Check) -> None:
        self._process = subprocess.Popen(
            [sys.executable, *command_line, _PACKAGES, *map(str, descriptors)],
            bufsize=0,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            pass_fds=descriptors,
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

    def give(self, numbers: range, batch: bytes) -> None:
        """Have the work with these numbers done."""
        left = memoryview(batch)
        self._given.append(numbers)
        try:
            while left and self._is_ready(self._tasks, select.POLLOUT):
                left = left[self._tasks.write(left) or 0 :]
        except BrokenPipeError:
            self._lose()

    def collect(self, *, wait: bool) -> Iterator[int]:
        """Yield the numbers that came to nothing, of the batches it is done with or, if we `wait`, of all."""
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
        """Wait until it has done what it was given; one that is stopped is killed."""
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


def start_helpers(
    stack: ExitStack,
    command_line: Sequence[str],
    check: Check,
    descriptors: Sequence[int] = (),
    count: int | None = None,
) -> list[Helper]:
    """Start `count` processes, by default as many as are of use, which end with `stack`; fewer if no more may be.

    `command_line` is that of a module, which is told the `descriptors` it may use; `check` is called while one of them
    is waited for, and may raise.
    """
    started: list[Helper] = []
    with suppress(OSError):  # no more processes may be started: we do it all
        for _ in range(helper_count() if count is None else count):
            started.append(Helper(command_line, descriptors, check))
            stack.callback(started[-1].end)
    return started


def helper_count() -> int:
    """Return how many are of use: one for each further processor we may use."""
    processors = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(MAX_HELPERS, processors - 1)
