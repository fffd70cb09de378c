"""The live table of shards that are awaited, on a terminal.

Knows no server: it is told states. The invariants: nothing is drawn where nobody looks, nor within the first second;
lines that are printed while the table is up stand above it, and go where they would go without it.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from isolate.clock import Clock

if TYPE_CHECKING:
    from rich.console import Console, RenderableType
    from rich.live import Live

QUIET_S = 1.0  # what ends within a second needs no table
ROWS = 12  # shards shown at most; the rest is counted
PER_SECOND = 4


class Board:
    """A context that shows a table while it lasts, if `console` is given: that of a terminal nobody else draws on."""

    def __init__(self, task_ids: Sequence[str], clock: Clock, console: Console | None) -> None:
        self._task_ids, self._clock, self._console = task_ids, clock, console
        self._started_s = clock.monotonic()
        self._states: dict[int, str] = {}
        self._ended: Counter[str] = Counter()
        self._lock = threading.RLock()
        self._over = threading.Event()
        self._live: Live | None = None
        self._opener = threading.Thread(target=self._open_later, daemon=True)

    def __enter__(self) -> Self:
        if self._console is not None:
            self._opener.start()
        return self

    def __exit__(
        self, _kind: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        self._over.set()
        with self._lock:
            if self._live is not None:
                self._live.stop()
                self._live = None

    def states(self, states: Mapping[int, str]) -> None:
        """Take the states of shards that were awaited a moment ago."""
        with self._lock:
            self._states.update(states)

    def ended(self, index: int, state: str) -> None:
        """Take it that a shard is done with."""
        with self._lock:
            self._states.pop(index, None)
            self._ended[state] += 1

    @contextmanager
    def aside(self) -> Iterator[None]:
        """Take the table away while lines are printed."""
        with self._lock:
            if self._live is not None:
                self._live.stop()
            yield
            if self._live is not None:
                self._live.start(refresh=True)

    def opened(self) -> None:
        """Wait until the table is up."""
        self._opener.join()

    def _open_later(self) -> None:
        if self._over.wait(QUIET_S):
            return
        from rich.live import Live

        with self._lock:
            if self._over.is_set():
                return
            self._live = Live(
                console=self._console,
                get_renderable=self.table,
                refresh_per_second=PER_SECOND,
                transient=True,
                redirect_stdout=False,  # results are results, also with a table on the screen
                redirect_stderr=False,
            )
            self._live.start(refresh=True)

    def table(self) -> RenderableType:
        """Return what is to be seen now."""
        from rich.table import Table

        with self._lock:
            waiting, ended = sorted(self._states.items()), Counter(self._ended)
        passed_s = int(self._clock.monotonic() - self._started_s)
        done = sum(ended.values())
        title = f"{done} of {len(self._task_ids)} shards ended, {passed_s // 60}:{passed_s % 60:02}"
        table: Any = Table(title=title, title_justify="left", caption=_counted(ended), caption_justify="left")
        for name in ("Shard", "Task", "State"):
            table.add_column(name, justify="right" if name == "Shard" else "left")
        for index, state in waiting[:ROWS]:
            table.add_row(str(index), self._task_ids[index], state)
        if len(waiting) > ROWS:
            rest = Counter(state for _, state in waiting[ROWS:])
            table.add_row("…", f"{len(waiting) - ROWS} more", _counted(rest))
        found: RenderableType = table
        return found


def _counted(states: Mapping[str, int]) -> str:
    return ", ".join(f"{number} {state}" for state, number in sorted(states.items()))
