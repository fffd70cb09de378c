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
import socket
import sys
from asyncio.subprocess import DEVNULL, STDOUT, Process
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from isolate.clock import Clock
from isolate.errors import InternalFailure
from run_isolated import linux
from run_isolated.cgroups import NO_LIMITS, Group, Limits, make, own_group
from run_isolated.launcher import COMMAND_LINE, KILL, LIMITED, LOWER_PRIORITY, NO_NETWORK, TERMINATE, TRIAL, Request

# In the environment of the command: its work directory. Leftovers of a run whose launcher was killed are found by it.
MARK = "RUN_ISOLATED_WORK_DIR"

_PACKAGES = str(Path(__file__).resolve().parent.parent)
_PASSES = 50  # of looking for leftovers by mark; each kills what it saw, so one is the rule
_GROUP_END_S = 10.0  # for the kernel to end a group of which the launcher is gone
_LOOK_S = 0.5  # between looks at a launcher that is to end
_LOOKS = 120  # a healthy one may need 40 s: it waits for processes that do not die of SIGKILL


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
    """A launcher process that waits for its one command."""

    def __init__(
        self, process: Process, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, looks: int
    ) -> None:
        self._process, self._reader, self._writer, self._looks = process, reader, writer, looks
        self._reason: Literal["", "timeout", "stop"] = ""
        self._group: CommandGroup | None = None

    @classmethod
    @asynccontextmanager
    async def started(cls, stdout: int | None, *, looks: int = _LOOKS) -> AsyncIterator[Launcher]:
        """Start a launcher whose command writes stdout and stderr to `stdout`, or inherits all three of ours.

        Start early: it needs some 15 ms. On leaving, it and all its descendants are gone: it is killed when it did not
        do as it was told after so many `looks`, each of _LOOK_S.
        """
        ours, its = socket.socketpair()
        with ours:
            with its:
                arguments = [_PACKAGES, str(its.fileno()), str(os.getpid())]
                stdin, stderr = (None, None) if stdout is None else (DEVNULL, STDOUT)
                process = await asyncio.create_subprocess_exec(
                    *(sys.executable, *COMMAND_LINE, *arguments),
                    stdin=stdin,
                    stdout=stdout,
                    stderr=stderr,
                    pass_fds=[its.fileno()],
                    start_new_session=True,
                )
            reader, writer = await asyncio.open_connection(sock=ours)
            launcher = cls(process, reader, writer, looks)
            try:
                yield launcher
            finally:
                writer.close()  # tells it to end everything
                with suppress(OSError):
                    await writer.wait_closed()
                await launcher._see_it_end()

    async def mounts(self, overlay: Sequence[str]) -> str:
        """Return why this system would not let a command have `overlay`, or ""; tried out, and undone."""
        self._writer.write(Request.of([], "", {}, TRIAL, overlay=overlay).encode())
        word, _, problem = (await self._answer()).partition(" ")
        return problem if word == "tried" else "the process that watches over the command was killed"

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
        """Run `argv` (its first item a path) in `cwd` with exactly `env`, and return how it ended.

        After `hard_timeout_s`, or when `stop` is set: SIGTERM to its process group, SIGKILL to whatever is left when
        the grace is over. 0 or None for a time means for ever. Raises InternalFailure when the launcher was
        killed, or when this system does not allow what was asked for. Of `group` nothing is left either. `overlay` is
        mounted for the command alone, see overlay.py.
        """
        self._group = group
        wishes = LOWER_PRIORITY * lower_priority + NO_NETWORK * no_network
        if group is not None:
            wishes += LIMITED * group.is_limited
        try:
            path = "" if group is None else group.group.path
            request = Request.of(argv, str(cwd), env, wishes, path, overlay)
        except ValueError as error:
            return Ended(1, 0.0, start_error=str(error))
        self._writer.write(request.encode())
        async with asyncio.TaskGroup() as watch:
            watchers = [watch.create_task(self._end_when_stopped(stop, grace_period_s, clock))]
            if hard_timeout_s:
                watchers.append(watch.create_task(self._end_in_time(hard_timeout_s, grace_period_s, clock)))
            answer = await self._answer()
            for watcher in watchers:
                watcher.cancel()
        return await self._ended(answer, env, group)

    async def _ended(self, answer: str, env: Mapping[str, str], group: CommandGroup | None) -> Ended:
        """Return what the launcher's answer means; when there is none, end what it was to end."""
        word, _, rest = answer.partition(" ")
        if word == "failed":
            return Ended(1, 0.0, start_error=rest)
        if word == "refused":
            raise InternalFailure(rest)
        if word != "exited":
            if group is not None:
                await asyncio.to_thread(group.end)
            await asyncio.to_thread(end_leftovers, Path(env[MARK])) if MARK in env else None
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

    async def _answer(self) -> str:
        try:
            return (await self._reader.readline()).decode().rstrip("\n")
        except OSError:
            return ""

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
        self._writer.write(TERMINATE)
        self._signal(signal.SIGCONT)  # the command may have stopped it
        if grace_period_s:
            await clock.sleep(grace_period_s)
            self._writer.write(KILL)
            await self._see_it_end()

    async def _see_it_end(self) -> None:
        """Wait for the end of a launcher that was told to end everything; one that cannot is helped, then killed.

        A command may stop it, again and again, with SIGSTOP: then we kill its descendants, which it adopts even so,
        until nobody is left to stop it, and let it go on.
        """
        pid = self._process.pid
        for _ in range(self._looks):
            with suppress(TimeoutError):
                async with asyncio.timeout(_LOOK_S):
                    await self._process.wait()
                return
            if linux.is_stopped(pid):
                await asyncio.to_thread(self._end_descendants)
                self._signal(signal.SIGCONT)
        await asyncio.to_thread(self._end_descendants)
        self._signal(signal.SIGKILL)
        await self._process.wait()

    def _end_descendants(self) -> None:
        """Kill what the launcher would."""
        if self._group is not None:
            self._group.group.kill()
        for _ in range(_PASSES):
            family = linux.descendants(linux.processes(), self._process.pid)
            if not any(process.alive for process in family):
                return
            linux.kill_groups(family, self._process.pid)  # which leads its own
            linux.kill(family)

    def _signal(self, number: signal.Signals) -> None:
        if self._process.returncode is None:
            with suppress(ProcessLookupError):
                self._process.send_signal(number)


@dataclass(frozen=True, slots=True)
class CommandGroup:
    """The control group of one command; `end` it in the end."""

    group: Group
    is_limited: bool

    @classmethod
    def make(cls, work_dir: Path, parent: str | None = None, limits: Limits = NO_LIMITS) -> CommandGroup | None:
        """Make one below `parent`, by default beside those of this process; None where that cannot be had.

        Its name is that of the work directory, by which the next run finds it. Raises InternalFailure when there are
        to be limits and cannot be.
        """
        try:
            return cls(make(_parent(parent), _group_name(work_dir), limits), limits != NO_LIMITS)
        except OSError as error:
            if limits != NO_LIMITS:
                raise InternalFailure(f"The command cannot be limited here: {error.strerror}") from error
            return None

    def end(self) -> None:
        """Kill everyone in it and remove it, if it is still there."""
        self.group.end(_GROUP_END_S)


def _parent(given: str | None) -> str:
    return own_group() if given is None else given


def _group_name(work_dir: Path) -> str:
    return f"run_isolated-{work_dir.name}"


def end_leftovers(work_dir: Path, parent: str | None = None, *, by_place: bool = True) -> int:
    """Kill what still belongs to a run whose launcher is gone; return how many processes it were.

    They are found by their control group, below `parent` as in `CommandGroup.make`, by their environment and, unless
    the directory may be somebody else's by now, by where they work.
    """
    ended = 0
    if above := _parent(parent):
        group = Group(f"{above}/{_group_name(work_dir)}")
        ended += len(group.processes())
        group.end(_GROUP_END_S)
    for _ in range(_PASSES):
        victims = linux.of_directory(str(work_dir), MARK, by_place=by_place)
        if not victims:
            break
        linux.kill(victims)
        ended += len(victims)
    return ended
