"""Run one command to its end: time-out, grace, and no process left behind.

Knows neither trees nor stores, and where the output goes only as a descriptor. Policy is here, the system calls are in
the launcher, which outlives us: should this process be killed, it ends the command. The invariant: when `run` returns,
raises or is cancelled, every descendant of the command is dead, so its output is complete; nothing waits for the end of
a pipe that a stray process holds open.

Where control groups of version 2 can be made, a command gets one of its own, which is killed as a whole, whoever is in
it, also when the launcher was killed. Everywhere on Linux the launcher adopts orphans and ends them; elsewhere the
process group is all there is.
"""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from subprocess import TimeoutExpired
from typing import Literal

from isolate.clock import Clock
from isolate.errors import InternalFailure
from run_isolated import linux
from run_isolated.command import Command
from run_isolated.command_group import MARK, CommandGroup, end_leftovers
from run_isolated.launcher import KILL, TERMINATE
from run_isolated.starting import LOOK_S, LOOKS, LauncherProcess, request_of
from run_isolated.waiting import in_thread


@dataclass(frozen=True, slots=True)
class Ended:
    """How a command ended; `exit_code` is negative for a signal. With `start_error` it never ran."""

    exit_code: int
    duration_s: float
    timed_out: bool = False
    stopped: bool = False
    survivors: int = 0  # processes that even SIGKILL did not end
    out_of_memory: int = 0  # processes that the kernel killed because of the memory limit of the group
    start_error: str = ""


class Launcher:
    """The owner of a launcher process: hears what became of its command, and sees that both end."""

    def __init__(self, started: LauncherProcess, looks: int = LOOKS) -> None:
        """`looks` is how often, each for LOOK_S, it is looked whether it ended as it was told, before it is killed."""
        self._started, self._process, self._looks = started, started.process, looks
        self._reader: asyncio.StreamReader | None = None
        self._writer: asyncio.StreamWriter | None = None
        self._reason: Literal["", "timeout", "stop"] = ""
        self._group: CommandGroup | None = None

    @classmethod
    @asynccontextmanager
    async def started(cls, stdout: int | None, *, looks: int = LOOKS) -> AsyncIterator[Launcher]:
        """Start a launcher, see `LauncherProcess.start`; on leaving, it and all its descendants are gone."""
        launcher = cls(LauncherProcess.start(stdout), looks)
        try:
            yield launcher
        finally:
            await launcher.close()

    async def mounts(self, overlay: Sequence[str]) -> str:
        """Return why this system would not let a command have `overlay`, or ""; tried out, and undone."""
        return await in_thread(partial(self._started.mounts, overlay))

    async def run(
        self,
        argv: Sequence[str],
        cwd: Path,
        env: Mapping[str, str],
        *,
        hard_timeout_s: float | None,
        grace_period_s: float | None,
        stop: asyncio.Event,
        clock: Clock,
        lower_priority: bool = False,
        no_network: bool = False,
        group: CommandGroup | None = None,
        overlay: Sequence[str] = (),
    ) -> Ended:
        """Run `argv` (its first item a path) in `cwd` with exactly `env`, and return how it ended: see `ended`.

        0 for a time means for ever, too.
        """
        command = Command(list(argv), cwd, dict(env))
        try:
            request = request_of(
                command, lower_priority=lower_priority, no_network=no_network, group=group, overlay=overlay
            )
        except ValueError as error:
            return Ended(1, 0.0, start_error=str(error))
        await in_thread(partial(self._started.send, request))
        return await self.ended(
            env.get(MARK),
            group,
            hard_timeout_s=hard_timeout_s or None,
            grace_period_s=grace_period_s,
            stop=stop,
            clock=clock,
        )

    async def ended(
        self,
        mark: str | None,
        group: CommandGroup | None,
        *,
        hard_timeout_s: float | None,
        grace_period_s: float | None,
        stop: asyncio.Event,
        clock: Clock,
    ) -> Ended:
        """Return how the command ended that the launcher was asked to run in `group`; `mark` is what it has as MARK.

        After `hard_timeout_s`, or when `stop` is set: SIGTERM to its process group, SIGKILL to whatever is left when
        the grace is over. None for a time means for ever, as does 0 for the grace. Raises InternalFailure when the
        launcher was killed, or when this system does not allow what was asked for. Of `group` nothing is left either.
        """
        self._group = group
        reader, writer = await asyncio.open_connection(sock=self._started.control)
        self._reader, self._writer = reader, writer
        async with asyncio.TaskGroup() as watch:
            watchers = [watch.create_task(self._end_when_stopped(stop, grace_period_s, clock))]
            if hard_timeout_s is not None:
                watchers.append(watch.create_task(self._end_in_time(hard_timeout_s, grace_period_s, clock)))
            answer = await _line(reader)
            for watcher in watchers:
                watcher.cancel()
        return await self._meant(answer, mark, group)

    async def _meant(self, answer: str, mark: str | None, group: CommandGroup | None) -> Ended:
        """Return what the launcher's answer means; when there is none, end what it was to end."""
        word, _, rest = answer.partition(" ")
        if word == "failed":
            return Ended(1, 0.0, start_error=rest)
        if word == "refused":
            raise InternalFailure(rest)
        if word != "exited":
            if group is not None:
                await in_thread(group.end)
            await in_thread(partial(end_leftovers, Path(mark))) if mark is not None else None
            raise InternalFailure("The process that watches over the command was killed")
        code, duration_s, survivors, out_of_memory = rest.split()
        return Ended(
            int(code),
            float(duration_s),
            self._reason == "timeout",
            self._reason == "stop",
            survivors=int(survivors),
            out_of_memory=int(out_of_memory),
        )

    async def close(self) -> None:
        """End the launcher and everything it started; returns when they are gone."""
        if self._writer is None:
            self._started.control.close()
        else:
            self._writer.close()
            with suppress(OSError):
                await self._writer.wait_closed()
        await self._see_it_end()

    async def _end_when_stopped(self, stop: asyncio.Event, grace_period_s: float | None, clock: Clock) -> None:
        await stop.wait()
        if not self._reason:
            self._reason = "stop"
            await self._terminate(grace_period_s, clock)

    async def _end_in_time(self, hard_timeout_s: float, grace_period_s: float | None, clock: Clock) -> None:
        await clock.sleep(hard_timeout_s)
        if not self._reason:
            self._reason = "timeout"
            await self._terminate(grace_period_s, clock)

    async def _terminate(self, grace_period_s: float | None, clock: Clock) -> None:
        self._write(TERMINATE)
        self._signal(signal.SIGCONT)  # the command may have stopped it
        if grace_period_s:
            await clock.sleep(grace_period_s)
            self._write(KILL)
            await self._see_it_end()

    def _write(self, order: bytes) -> None:
        if self._writer is not None:
            self._writer.write(order)

    async def _see_it_end(self) -> None:
        """Wait for the end of a launcher that was told to end everything; one that cannot is helped, then killed.

        A command may stop it, again and again, with SIGSTOP: then we kill its descendants, which it adopts even so,
        until nobody is left to stop it, and let it go on.
        """
        pid = self._process.pid
        for _ in range(self._looks):
            with suppress(TimeoutError):
                async with asyncio.timeout(LOOK_S):
                    await self._gone()
                return
            if linux.is_stopped(pid):
                await in_thread(self._end_descendants)
                self._signal(signal.SIGCONT)
        await in_thread(self._end_descendants)
        self._signal(signal.SIGKILL)
        await self._gone()

    async def _gone(self) -> None:
        """Return when the launcher has ended, and its status was taken."""
        descriptor = linux.end_of(self._process.pid) if self._process.poll() is None else None
        if descriptor is not None:
            loop, over = asyncio.get_running_loop(), asyncio.Event()
            loop.add_reader(descriptor, over.set)
            try:
                await over.wait()
            finally:
                loop.remove_reader(descriptor)
                os.close(descriptor)
        while self._process.poll() is None:
            with suppress(TimeoutExpired):
                await in_thread(partial(self._process.wait, LOOK_S))

    def _end_descendants(self) -> None:
        self._started.end_descendants(self._group)

    def _signal(self, number: signal.Signals) -> None:
        if self._process.poll() is None:
            with suppress(ProcessLookupError):
                self._process.send_signal(number)


async def _line(reader: asyncio.StreamReader) -> str:
    """Return the launcher's one line; "" when somebody killed it."""
    try:
        return (await reader.readline()).decode().rstrip("\n")
    except OSError:
        return ""
