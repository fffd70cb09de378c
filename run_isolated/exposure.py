"""Whether a command that can reach the files of a cache is running, or has run since we last looked.

    <cache>/exposure    locked by each run whose command sees the cache; holds a number that such a run draws anew

Knows no tree and no command. Whoever proved something about the cache's files notes the number first; while it stays
the same and nobody holds the lock, no command of ours came near them. The invariant: the number changes before such a
command starts. What others do, who are not runs of this cache, is not seen here.
"""

from __future__ import annotations

import fcntl
import os
from contextlib import suppress
from functools import partial
from pathlib import Path

from isolate.locks import when_free
from run_isolated.stopping import Check, go_on

_NAME = "exposure"
_NUMBER_BYTES = 16


class Exposure:
    """The cache at `root`, as far as it can be reached by commands."""

    def __init__(self, root: Path) -> None:
        self._path = root / _NAME
        self._held: int | None = None

    def begin(self, check: Check = go_on) -> None:
        """Say that from now on a command may reach the cache; without a cache, there is nothing to reach.

        While somebody else has the lock, `check` is asked, and may raise to stop waiting.
        """
        with suppress(OSError):  # no cache, or one that we may not write to, and so nor may the command
            self._held = self._opened()
            try:
                when_free(partial(fcntl.flock, self._held, fcntl.LOCK_SH | fcntl.LOCK_NB), check)
            except BaseException:
                self.end()
                raise
            os.pwrite(self._held, os.urandom(_NUMBER_BYTES), 0)

    def end(self) -> None:
        """Say that no process of the command is left."""
        if self._held is not None:
            os.close(self._held)
            self._held = None

    def number(self, check: Check = go_on) -> bytes | None:
        """Return what stays the same until a command may reach the cache again; None while one does.

        While others ask, `check` is asked, and may raise to stop waiting.
        """
        with suppress(OSError):
            # Only who asks takes the other lock, so that askers do not take each other for commands.
            asking = os.open(self._path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                when_free(partial(fcntl.flock, asking, fcntl.LOCK_EX | fcntl.LOCK_NB), check)
                descriptor = self._opened()
                try:
                    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    if not os.fstat(descriptor).st_size:
                        os.pwrite(descriptor, os.urandom(_NUMBER_BYTES), 0)
                    return os.pread(descriptor, _NUMBER_BYTES, 0)
                finally:
                    os.close(descriptor)
            finally:
                os.close(asking)
        return None

    def _opened(self) -> int:
        return os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
