"""What a run has to say while it goes on, to whoever watches it and to whoever reads what its command prints.

Knows nothing of runs. The invariant: a reader that is gone stops nothing.
"""

from __future__ import annotations

import os
from contextlib import suppress

from isolate.monitor import Monitor

_STDERR = 2


class Teller:
    """The two listeners of one run: `stdout` is where its command prints, None our own."""

    def __init__(self, stdout: int | None, monitor: Monitor) -> None:
        self._stdout, self._monitor = stdout, monitor

    def report(self, text: str) -> None:
        """Tell whoever watches, and the reader of the command's output if that is somebody else."""
        self._monitor.problem(text)
        if self._stdout is not None:
            self._write(text, self._stdout)

    def answer(self, text: str) -> None:
        """Tell the reader of the command's output in place of the command."""
        self._write(text, _STDERR if self._stdout is None else self._stdout)

    def _write(self, text: str, descriptor: int) -> None:
        with suppress(OSError):
            os.write(descriptor, f"{text}\n".encode(errors="backslashreplace"))
