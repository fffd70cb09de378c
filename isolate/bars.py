"""Shows how far a piece of work is, on stderr, from its second second on: bars on a terminal, else a line now and then.

A root beside `terminal`: it draws with rich, which is imported when there is something to draw. The invariants: stdout
gets nothing; when the work is over, or a command gets the terminal, nothing of the bars is left on it; what is said
meanwhile stays above them; where there is no thread to show anything, the work is done all the same.
"""

from __future__ import annotations

import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import TYPE_CHECKING, TextIO

import click

from isolate.progress import COMMAND_COUNTER, Progress, Stage, plain_line

if TYPE_CHECKING:
    from rich.console import Console as RichConsole
    from rich.live import Live
    from rich.table import Table

_QUIET_S = 1.0  # what ends within a second shows no progress
_REFRESH_S = 0.1
_PLAIN_S = 10.0  # between two lines where nothing can be drawn
_BAR_WIDTHS = ((110, 30), (76, 10))  # of the screen and of the bars on it; on narrower ones there is a percentage


class TerminalMonitor:
    """A `Monitor` that tallies, and shows each problem as a line on stderr."""

    def __init__(self, program: str) -> None:
        self.counters: Counter[str] = Counter()
        self.expected: Counter[str] = Counter()
        self.leave_terminal: Callable[[], object] = lambda: None  # called before a command gets the terminal
        self.aside: Callable[[], AbstractContextManager[object]] = nullcontext  # held while a line is written
        self._program = program
        self._lock = threading.Lock()

    def count(self, counter: str, amount: int = 1) -> None:
        if counter == COMMAND_COUNTER:
            self.leave_terminal()
        with self._lock:
            self.counters[counter] += amount

    def expect(self, counter: str, more: int) -> None:
        with self._lock:
            self.expected[counter] += more

    def snapshot(self) -> dict[str, int]:
        """Return the counters as they are now."""
        with self._lock:
            return dict(self.counters)

    def outlook(self) -> dict[str, int]:
        """Return what is expected of the counters as of now."""
        with self._lock:
            return dict(self.expected)

    def problem(self, message: object) -> None:
        self.say(f"warning: {one_line(str(message))}")

    def say(self, line: str) -> None:
        """Put a line on stderr."""
        with self.aside():
            click.echo(f"{self._program}: {line}", err=True)


class Bars:
    """A thread that shows what `monitor` counts until `stop`."""

    def __init__(self, monitor: TerminalMonitor) -> None:
        self._monitor = monitor
        self._progress = Progress()
        self._over = threading.Event()
        self._screen = threading.RLock()  # whose turn it is to write there
        self._live: Live | None = None  # while something is drawn
        self._thread = showing(self._run)

    def stop(self) -> None:
        """Take away what is drawn; any number of times."""
        self._over.set()
        if self._thread is not None:
            self._thread.join()

    @contextmanager
    def aside(self) -> Iterator[None]:
        """Keep the terminal free of bars while the body writes whole lines to it."""
        with self._screen:
            if self._live is not None:
                self._live.update("", refresh=True)
            yield

    def _run(self) -> None:
        self._stages()  # where the pace begins
        if self._over.wait(_QUIET_S):
            return
        screen = drawing_console()
        if screen is None or screen.is_dumb_terminal:
            self._tell()
        else:
            self._draw(screen)

    def _tell(self) -> None:
        """Say where the work is from time to time."""
        while not self._over.wait(_PLAIN_S):
            # Fetching has its own words, or shares stderr with a command.
            stages = [stage for stage in self._stages() if stage.name != "fetching" and not stage.is_over]
            if stages:
                self._monitor.say(plain_line(stages))

    def _draw(self, screen: RichConsole) -> None:
        from rich.live import Live

        # What others write is written as it is: rich would break lines, and sees no bytes.
        drawing = Live(console=screen, transient=True, auto_refresh=False, redirect_stdout=False, redirect_stderr=False)
        with self._screen, drawing as live:
            self._live = live
            while not self._waited():
                live.update(_table(self._stages(), screen.width), refresh=True)
            self._live = None

    def _waited(self) -> bool:
        """Let others have the screen for a moment; say whether it is over."""
        self._screen.release()
        try:
            return self._over.wait(_REFRESH_S)
        finally:
            self._screen.acquire()

    def _stages(self) -> list[Stage]:
        counted: Mapping[str, int] = self._monitor.snapshot()
        return self._progress.stages(counted, self._monitor.outlook(), time.monotonic())


def showing(show: Callable[[], None]) -> threading.Thread | None:
    """Have `show` run beside the work; None when no thread can be had, which is no reason to fail."""
    thread = threading.Thread(target=show, daemon=True)
    try:
        thread.start()
    except (RuntimeError, MemoryError):
        return None
    return thread


def _table(stages: list[Stage], width: int) -> Table:
    """Return what to draw: one line for each stage, on a wide screen with a bar."""
    from rich.progress_bar import ProgressBar
    from rich.table import Table
    from rich.text import Text

    table = Table.grid(padding=(0, 1))
    names = max((len(stage.name) for stage in stages), default=0)
    bar = next((wide for least, wide in _BAR_WIDTHS if width >= least), 0)
    room = max(4, width - names - 2 - (bar + 1 if bar else 0))
    for stage in stages:
        state = Text(stage.text(room, share=not bar), no_wrap=True, overflow="ellipsis")
        name = Text(stage.name, no_wrap=True)
        if bar:
            table.add_row(name, ProgressBar(total=1.0, completed=stage.share, width=bar), state)
        else:
            table.add_row(name, state)
    return table


def printable(text: str) -> str:
    """Return `text` with surrogate-escaped bytes spelt out, so that every stream can print it."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def one_line(text: str) -> str:
    """Return `text` as one line that every stream can print."""
    return printable(" ".join(text.split()))


def is_terminal(stream: TextIO | None) -> bool:
    """Say whether a stream, which may have been closed before we began, is a terminal."""
    return stream is not None and stream.isatty()


def drawing_console() -> RichConsole | None:
    """Return where to draw what is no result; None where nobody would see it."""
    if not is_terminal(sys.stderr):
        return None
    from rich.console import Console as RichConsole

    return RichConsole(stderr=True)
