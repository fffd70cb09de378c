"""The entries of a large tree from scanners that were started before anything else, while the rest is imported.

Knows no archive. Two scanners share a tree that had parts before, each up to where the other begins. The invariants:
the entries are those that `scan` yields here, whatever becomes of the scanners, or FileChanged is raised where both
saw the place between them differently; they are gone when the context is left.
"""

from __future__ import annotations

import fcntl
import os
import signal
import struct
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, suppress
from types import TracebackType
from typing import IO, Self

from isolate.errors import FileChanged
from isolate.scan import Found, ScanRules, place_of, scan
from isolate.scanned import HEAD, Run, body_bytes
from isolate.scanner import WITH_DEFAULTS, WITHOUT_DEFAULTS

MAX_BATCH_BYTES = 64 << 20
LINE_BYTES = 1 << 20  # a scanner that has to be woken for each 64 KiB scans half as fast


class ScanAhead:
    """A scan of the directory `root` with the rules of our own namespaces; a context manager that ends it."""

    def __init__(
        self, root: str, patterns: Sequence[str], known: Sequence[tuple[str, int]] = (), *, defaults: bool
    ) -> None:
        """Start it; `root` is absolute, `patterns` and `defaults` are those of `denylist`.

        `known` are first paths and numbers of entries of the parts that the tree had.
        """
        self.root = root
        self._is_used = False
        seam = _middle(known)
        self._ranges = [("", seam), (seam, "")] if seam else [("", "")]
        self._commands: list[list[str]] = []
        for start, end in self._ranges:
            parts = [one for one in known if start <= one[0] and (one[0] < end or not end)]
            argv = [sys.executable, "-P", "-m", "isolate.scanner", root]
            argv += [WITH_DEFAULTS if defaults else WITHOUT_DEFAULTS, start, end, str(len(parts))]
            argv += [item for first, entries in parts for item in (first, str(entries))]
            self._commands.append([*argv, *patterns])
        self._processes: list[subprocess.Popen[bytes]] = []
        self._start(1)  # the others would take processors from it and from our imports

    def _start(self, number: int) -> None:
        """Have the first `number` scanners at work, if they can be had."""
        # Born with SIGINT blocked, they cannot be interrupted before they know what to do about it.
        blocked = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            for argv in self._commands[len(self._processes) : number]:
                nothing = subprocess.DEVNULL
                process = subprocess.Popen(argv, stdin=nothing, stdout=subprocess.PIPE, stderr=nothing)
                self._processes.append(process)
                assert process.stdout is not None, "it was asked for"
                with suppress(OSError):  # more than the system lets a user have
                    fcntl.fcntl(process.stdout, fcntl.F_SETPIPE_SZ, LINE_BYTES)
        except OSError:
            pass  # we can scan ourselves what nobody else does
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, blocked)

    def start_all(self) -> None:
        """Have all scanners at work; who asks for the runs does so, now that there is nothing to import any more."""
        self._start(len(self._commands))

    @property
    def pids(self) -> list[int]:
        """The processes that scan."""
        return [process.pid for process in self._processes]

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with ExitStack() as stack:
            for process in self._processes:
                stack.enter_context(process)  # closes the line and waits
                process.kill()

    def runs(self, rules: ScanRules) -> Iterator[Found | Run]:
        """Yield what is below the root; `rules` are those of the scanners, for what they cannot tell.

        Raises FileChanged as well as what `scan` raises.
        """
        last: Run | None = None
        if not self._is_used:
            self._is_used = True
            self.start_all()
            try:
                for run in self._told():
                    if run.proof is None:
                        yield from run
                    else:
                        yield run
                    last = run
            except (EOFError, ValueError, struct.error):
                pass  # one met an error, or was killed: we come to the same place
            else:
                return
        reached = place_of(last[-1]) if last else ""
        for found in scan(self.root, rules, reached):
            if place_of(found) > reached:
                yield found

    def _told(self) -> Iterator[Run]:
        """Yield what the scanners tell; raises EOFError, ValueError, struct.error where that ends early."""
        behind = ""
        for number in range(len(self._ranges)):
            if number == len(self._processes):
                raise EOFError  # it could not be started
            is_first = number > 0
            while True:
                run = _received(self._processes[number].stdout)
                if is_first and run.first != behind:
                    # Both looked at the directories above the place between them, and these have changed meanwhile.
                    raise FileChanged(os.path.join(self.root, behind or run.first))
                is_first = False
                if not run:
                    behind = run.first
                    break
                yield run


def _middle(known: Sequence[tuple[str, int]]) -> str:
    """Return the first path of the part in the middle; "" where there are too few."""
    half, passed = sum(entries for _, entries in known) // 2, 0
    for first, entries in known:
        if passed >= half:
            return first
        passed += entries
    return ""


def _received(source: IO[bytes] | None) -> Run:
    """Return the next run; raises EOFError when it does not come, ValueError, struct.error for nonsense."""
    assert source is not None, "it was asked for"
    head = _exactly(source, HEAD.size)
    size = body_bytes(head)
    if size > MAX_BATCH_BYTES:
        raise ValueError(f"a batch of {size} bytes")
    return Run(head, _exactly(source, size))


def _exactly(source: IO[bytes], length: int) -> bytes:
    data = source.read(length)
    if len(data) != length:
        raise EOFError
    return data
