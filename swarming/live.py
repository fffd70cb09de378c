"""The output of a running task, as it comes.

Knows no terminal. The invariant: what is written is the whole output, once and in order, however often the connection
or the server is interrupted; a character is never cut in two.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from io import IncrementalNewlineDecoder

from isolate.clock import Clock
from swarming.client import UNFINISHED, SwarmingClient
from swarming.patience import Patience

FIRST_WAIT_S, LONGEST_WAIT_S, BACK_OFF = 0.1, 2.0, 1.5
INDENT = "  "  # what a task prints is set off from what we say (§7.5)


class Indented:
    """Writes texts, of which lines may come in parts, with an indent before each line; a bare return ends one, too."""

    def __init__(self, write: Callable[[str], None]) -> None:
        self._write = write
        self._in_line = False
        self._newlines = IncrementalNewlineDecoder(None, translate=True)  # holds back a return: a newline may follow

    def __call__(self, text: str) -> None:
        """Write what came."""
        self._print(self._newlines.decode(text))

    def _print(self, text: str) -> None:
        if not text:
            return
        ends = text.endswith("\n")
        lines = text[:-1] if ends else text
        self._write(("" if self._in_line else INDENT) + lines.replace("\n", f"\n{INDENT}") + ("\n" if ends else ""))
        self._in_line = not ends

    def end(self) -> None:
        """End a line that the task left open."""
        self._print(self._newlines.decode("", final=True))
        if self._in_line:
            self._write("\n")
            self._in_line = False


async def follow(
    client: SwarmingClient, task_id: str, clock: Clock, patience: Patience, write: Callable[[str], None]
) -> None:
    """Write what the task prints until it has ended and all is written; raises what the client does."""
    offset, wait_s = 0, FIRST_WAIT_S
    while True:
        piece = await patience(partial(client.output, task_id, offset))
        if piece.text:
            write(piece.text)
            offset, wait_s = piece.next_offset, FIRST_WAIT_S
            continue
        if piece.state not in UNFINISHED:
            return
        await clock.sleep(wait_s)
        wait_s = min(wait_s * BACK_OFF, LONGEST_WAIT_S)
