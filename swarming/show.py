"""Tasks being collected, as a user sees them: each when it ends, or one of them while it runs.

Knows no flags; lines go through a `Screen`. The invariants: stdout is the same with or without a table on the screen;
a summary is written even when some shards are missing.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from isolate.clock import Clock
from isolate.errors import IsolateError, NotFound, OutputLost, Unavailable
from swarming import report
from swarming.actions import Screen
from swarming.board import Board
from swarming.client import SwarmingClient
from swarming.collect import Shard, Wanted, Watch, collect, exit_status, in_time
from swarming.live import Indented, follow
from swarming.patience import Patience
from swarming.summary import Summary

if TYPE_CHECKING:
    from rich.console import Console

STATUS_EVERY_S = 300.0  # what the client of 2020 does


@dataclass(frozen=True, slots=True, kw_only=True)
class Show:
    """How collected shards are shown, and where they are written."""

    url: str
    console: bool = True
    decorate: bool = False
    live: bool = False  # print the output of the one task there is while it runs
    terminal: Console | None = None  # where a table may be drawn
    summary_files: tuple[Path, ...] = ()
    summary_output: bool = True
    status_updates: bool = False
    again: str = ""  # what to type for the shards that are missing


async def collect_and_show(
    client: SwarmingClient, task_ids: Sequence[str], wanted: Wanted, how: Show, clock: Clock, screen: Screen
) -> int:
    """Wait for tasks, print each as it ends, write the summaries; returns the exit status of the whole."""
    with ExitStack() as stack:
        board = stack.enter_context(Board(task_ids, clock, None if how.live else how.terminal))
        summary = stack.enter_context(Summary(how.summary_files, len(task_ids), with_output=how.summary_output))
        display = _Display(task_ids, how, board, summary, screen)
        async with asyncio.TaskGroup() as group:
            status = group.create_task(display.say_who_is_awaited(clock)) if how.status_updates else None
            if how.live:
                shards = await display.live(client, wanted, clock)
            else:
                watch = Watch(board.states, display.ended, display.say, display.say)
                shards = await collect(client, task_ids, wanted, clock, watch)
            if status:
                status.cancel()
        summary.write()
    if how.decorate and (total := report.total(shards)):
        screen.out(total)
    if display.waiting:
        screen.err(f"Results from some shards are missing: {_listed(display.waiting)}")
        if how.again:
            screen.err(f"To collect results, use:\n  {how.again}")
    return exit_status(shards, len(task_ids))


class _Display:
    """What is on the screen of one collection."""

    def __init__(self, task_ids: Sequence[str], how: Show, board: Board, summary: Summary, screen: Screen) -> None:
        self.waiting = set(range(len(task_ids)))
        self._task_ids, self._how, self._board, self._summary, self._screen = task_ids, how, board, summary, screen
        self._running = Indented(screen.piece)

    def ended(self, shard: Shard) -> None:
        """Print a shard."""
        self.waiting.discard(shard.index)
        self._board.ended(shard.index, shard.result.state)
        self._summary.add(shard)
        console = self._how.console and not self._how.live
        shown = shard if console else replace(shard, stdout=None)
        with self._board.aside():
            self._running.end()
            self._screen.out(report.decorated(shown, self._how.url) if self._how.decorate else report.plain(shown))
            if self._how.decorate and self.waiting:
                self._screen.out("")
            boxed = self._how.decorate and shard.result.is_final  # a box says it
            ending = None if boxed else report.ending(shard)
            if ending:
                self._screen.err(ending)
            if shard.problem:
                self._screen.err(f"Outputs of shard {shard.index} are incomplete: {shard.problem}")
            if shard.lost:
                self._screen.err(f"The text of shard {shard.index} is lost: {shard.lost}")

    def say(self, text: str) -> None:
        """Print what is no result."""
        with self._board.aside():
            self._running.end()
            self._screen.err(text)

    async def say_who_is_awaited(self, clock: Clock) -> None:
        """Print it every now and then, until cancelled."""
        while True:
            await clock.sleep(STATUS_EVERY_S)
            now = datetime.fromtimestamp(clock.now(), UTC).astimezone().time().isoformat("microseconds")
            self.say(f"{now} Waiting for results from the following shards: {_listed(self.waiting)}")

    async def live(self, client: SwarmingClient, wanted: Wanted, clock: Clock) -> list[Shard]:
        """Print the output of the one task while it runs, then what became of it."""
        held: list[Shard] = []
        lost: list[str] = []
        started_s = clock.monotonic()

        async def printed() -> bool:
            """Print the output; return whether all of it came."""
            try:
                await follow(client, self._task_ids[0], clock, Patience(clock, self.say), self._running)
            except (NotFound, Unavailable):  # `collect` meets it, too
                raise
            except OutputLost as error:
                lost.append(str(error))
            except IsolateError as error:
                self.say(f"The output of task {self._task_ids[0]} is incomplete: {error}")
                return False
            return True

        async with asyncio.TaskGroup() as group:
            following = group.create_task(printed())
            # `following` meets the same troubles
            watch = Watch(self._board.states, held.append, lambda _text: None, self.say)
            shards = await collect(client, self._task_ids, wanted, clock, watch)
            left_s = None if wanted.limit_s is None else started_s + wanted.limit_s - clock.monotonic()
            try:
                if shards and not await in_time(clock, left_s, _result_of(following)):
                    held, shards = [], []
            except TimeoutError:  # what it printed is not all here
                held, shards = [], []
            if not shards:  # it is still running, and our time is over
                following.cancel()
        if lost:
            held, shards = ([replace(shard, lost=lost[0]) for shard in some] for some in (held, shards))
        for shard in held:
            self.ended(shard)
        self._running.end()
        return shards


async def _result_of(task: asyncio.Task[bool]) -> bool:
    return await task


def _listed(indexes: Iterable[int]) -> str:
    return ", ".join(map(str, sorted(indexes)))
