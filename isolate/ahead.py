"""The entries of a large tree from a scanner that was started before anything else, while the rest is imported.

Knows no archive. The invariants: the entries are those that `scan` yields here, whatever becomes of the scanner; it is
gone when the context is left.
"""

from __future__ import annotations

import signal
import struct
import subprocess
import sys
from collections.abc import Iterator, Sequence
from types import TracebackType
from typing import IO, Self

from isolate.scan import Found, ScanRules, scan
from isolate.scanner import ENTRY_BYTES, HEAD, WITH_DEFAULTS, WITHOUT_DEFAULTS, unpack

MAX_BATCH_BYTES = 64 << 20


class ScanAhead:
    """A scan of the directory `root` with the rules of our own namespaces; a context manager that ends it."""

    def __init__(self, root: str, patterns: Sequence[str], *, defaults: bool) -> None:
        """Start it; `root` is absolute, `patterns` and `defaults` are those of `denylist`."""
        self.root = root
        self._is_used = False
        argv = [sys.executable, "-P", "-m", "isolate.scanner", root, WITH_DEFAULTS if defaults else WITHOUT_DEFAULTS]
        # Born with SIGINT blocked, it cannot be interrupted before it knows what to do about it.
        blocked = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        self._process: subprocess.Popen[bytes] | None = None
        try:
            self._process = subprocess.Popen(
                [*argv, *patterns], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
            )
        except OSError:
            pass  # we can scan ourselves
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, blocked)

    @property
    def pid(self) -> int | None:
        """The process that scans, None where none could be started."""
        return None if self._process is None else self._process.pid

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._process is not None:
            with self._process:  # closes the line and waits
                self._process.kill()

    def entries(self, rules: ScanRules) -> Iterator[Found]:
        """Yield what is below the root; `rules` are those of the scanner, for what it cannot tell."""
        last = ""
        if self._process is not None and not self._is_used:
            self._is_used = True
            try:
                for batch in _batches(self._process.stdout):
                    yield from batch
                    last = batch[-1].path
            except (EOFError, ValueError, struct.error):
                pass  # it met an error, or was killed: we come to the same place
            else:
                return
        for found in scan(self.root, rules):
            if found.path > last:
                yield found


def _batches(source: IO[bytes] | None) -> Iterator[list[Found]]:
    """Yield batches as they come; raises EOFError when the last one does not, ValueError, struct.error for nonsense."""
    assert source is not None, "it was asked for"
    while True:
        entries, name_bytes = HEAD.unpack(_exactly(source, HEAD.size))
        size = entries * ENTRY_BYTES + name_bytes
        if size > MAX_BATCH_BYTES:
            raise ValueError(f"a batch of {size} bytes")
        batch = unpack(entries, _exactly(source, size)) if entries else []
        if not batch:
            return
        yield batch


def _exactly(source: IO[bytes], length: int) -> bytes:
    data = source.read(length)
    if len(data) != length:
        raise EOFError
    return data
