"""Commands on a terminal: a pseudo-terminal that a test types on and reads from."""

from __future__ import annotations

import os
import pty
import select
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

PATIENCE_S = 60.0  # only a broken program or a very loaded machine needs as long


class OnTerminal:
    """One command whose stdin, stdout and stderr are a terminal of its own, which sends it SIGINT for Ctrl-C."""

    def __init__(self, argv: Sequence[str], env: Mapping[str, str], cwd: str) -> None:
        self._ours, theirs = pty.openpty()
        self.said = ""
        # `setsid` makes it the terminal's own session, so that Ctrl-C becomes a signal.
        self.process = subprocess.Popen(
            ["setsid", "--ctty", *argv],
            env={**env, "TERM": "xterm"},
            cwd=cwd,
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
        )
        os.close(theirs)

    def expect(self, text: str) -> None:
        """Read on until `text` has come since the last time."""
        seen = ""
        while text not in seen:
            piece = self._read()
            assert piece, f"{text!r} never came, but {seen!r}"
            seen += piece

    def type(self, text: str) -> None:
        os.write(self._ours, text.encode())

    def end(self) -> int:
        """Return the exit status, everything having been read."""
        while self._read():
            pass
        return self.process.wait(PATIENCE_S)

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        os.close(self._ours)

    def _read(self) -> str:
        ready, _, _ = select.select([self._ours], [], [], PATIENCE_S)
        try:
            piece = os.read(self._ours, 65536).decode(errors="replace") if ready else ""
        except OSError:  # the other end is closed
            piece = ""
        self.said += piece
        return piece


@contextmanager
def on_terminal(argv: Sequence[str], env: Mapping[str, str], cwd: str) -> Iterator[OnTerminal]:
    """Run a command on a terminal; it is gone when the block ends."""
    command = OnTerminal(argv, env, cwd)
    try:
        yield command
    finally:
        command.close()
