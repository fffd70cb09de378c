"""The entries of a large tree from scanners that were started before anything else, while the rest is imported.

Knows no archive. Two scanners share a tree that had parts before, each up to where the other begins. They are forks of
this process, which has imported what they need and has no second thread yet. The invariants: the entries are those that
`scan` yields here, whatever becomes of the scanners, or FileChanged is raised where both saw the place between them
differently; they are gone when the context is left.
"""

from __future__ import annotations

import fcntl
import os
import signal
import struct
from collections.abc import Iterator, Sequence
from contextlib import suppress
from types import TracebackType
from typing import BinaryIO, NoReturn, Self

from isolate import scanner
from isolate.errors import FileChanged
from isolate.scan import Found, ScanRules, place_of, scan
from isolate.scanned import HEAD, Run, body_bytes

MAX_BATCH_BYTES = 64 << 20
LINE_BYTES = 1 << 20  # a scanner that has to be woken for each 64 KiB scans half as fast
_ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class ScanAhead:
    """A scan of the directory `root` with the rules of our own namespaces; a context manager that ends it."""

    def __init__(self, root: str, rules: ScanRules, known: Sequence[tuple[str, int]] = ()) -> None:
        """Start it, before there are other threads; `root` is absolute.

        `known` are first paths and numbers of entries of the parts that the tree had.
        """
        self.root = root
        self._is_used = False
        seam = _middle(known)
        self._ranges = [("", seam), (seam, "")] if seam else [("", "")]
        self._scanners: list[_Scanner] = []
        # Born with these blocked, they cannot be interrupted before they know what to do about it.
        blocked = signal.pthread_sigmask(signal.SIG_BLOCK, _ENDING)
        try:
            for start, end in self._ranges:
                self._scanners.append(_Scanner(scanner.Order(root, rules, start, end, dict(known))))
        except OSError:
            pass  # we can scan ourselves what nobody else does
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
        for one in self._scanners[:1]:  # the others would take processors from it and from our imports
            one.begin()

    def start_all(self) -> None:
        """Have all scanners at work; who asks for the runs does so, now that there is nothing to import any more."""
        for one in self._scanners[1:]:
            one.begin()

    @property
    def pids(self) -> list[int]:
        """The processes that scan."""
        return [one.pid for one in self._scanners]

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for one in self._scanners:
            one.end()

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
            if number == len(self._scanners):
                raise EOFError  # it could not be started
            is_first = number > 0
            while True:
                run = _received(self._scanners[number].line)
                if is_first and run.first != behind:
                    # Both looked at the directories above the place between them, and these have changed meanwhile.
                    raise FileChanged(os.path.join(self.root, behind or run.first))
                is_first = False
                if not run:
                    behind = run.first
                    break
                yield run


class _Scanner:
    """A forked process that scans once it is told to begin; whoever made it ends it."""

    def __init__(self, order: scanner.Order) -> None:
        told, self._tell = os.pipe()
        try:
            reading, writing = os.pipe()
        except OSError:
            os.close(told)
            os.close(self._tell)
            raise
        with suppress(OSError):  # more than the system lets a user have
            fcntl.fcntl(reading, fcntl.F_SETPIPE_SZ, LINE_BYTES)
        self.line: BinaryIO = os.fdopen(reading, "rb")
        try:
            self.pid = os.fork()
            if not self.pid:
                _scan(order, told, writing)
        except OSError:
            os.close(self._tell)
            self.line.close()
            raise
        finally:
            os.close(told)
            os.close(writing)

    def begin(self) -> None:
        """Let it scan; any number of times."""
        if self._tell >= 0:
            with suppress(BrokenPipeError):  # somebody killed it
                os.write(self._tell, b"!")
            os.close(self._tell)
            self._tell = -1

    def end(self) -> None:
        """Have it gone."""
        os.kill(self.pid, signal.SIGKILL)
        os.waitpid(self.pid, 0)
        self.line.close()
        if self._tell >= 0:
            os.close(self._tell)


def _scan(order: scanner.Order, told: int, writing: int) -> NoReturn:
    """Be a scanner in this forked child; nothing of its parent is left to it but what it is told and tells."""
    try:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the parent decides
        for number in _ENDING[1:]:
            if signal.getsignal(number) is not signal.SIG_IGN:
                signal.signal(number, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _ENDING)
        nothing = os.open(os.devnull, os.O_RDWR)
        first, last = sorted((told, writing))
        for standard in range(3):
            if standard not in (first, last):  # taken, where the command was started without it
                os.dup2(nothing, standard)
        os.closerange(3, first)
        os.closerange(max(3, first + 1), last)
        os.closerange(max(3, last + 1), os.sysconf("SC_OPEN_MAX"))
        if os.read(told, 1):  # else our parent is gone
            scanner.tell(order, writing)
    finally:
        os._exit(1)


def _middle(known: Sequence[tuple[str, int]]) -> str:
    """Return the first path of the part in the middle; "" where there are too few."""
    half, passed = sum(entries for _, entries in known) // 2, 0
    for first, entries in known:
        if passed >= half:
            return first
        passed += entries
    return ""


def _received(source: BinaryIO) -> Run:
    """Return the next run; raises EOFError when it does not come, ValueError, struct.error for nonsense."""
    head = _exactly(source, HEAD.size)
    size = body_bytes(head)
    if size > MAX_BATCH_BYTES:
        raise ValueError(f"a batch of {size} bytes")
    return Run(head, _exactly(source, size))


def _exactly(source: BinaryIO, length: int) -> bytes:
    data = source.read(length)
    if len(data) != length:
        raise EOFError
    return data
