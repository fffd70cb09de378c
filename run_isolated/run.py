"""One run, from a hash to a result: fetch, map, run, archive outputs, clean up.

Knows no flags and no scheduler; each step lives in its own module and gets only what it needs, those up to the command
in attempt.py. The invariant: `run` never raises for what can be foreseen; its `RunResult` says whether the command or
the world failed, and nothing of the command is left, neither a process nor, unless it was to be kept, a file.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import replace
from typing import TYPE_CHECKING

from isolate.clock import Clock
from isolate.errors import BlobsMissing, InternalFailure, IsolateError, LostFromCache, first_cause
from isolate.monitor import Monitor
from run_isolated.attempt import Attempt
from run_isolated.command import Command, cannot_start
from run_isolated.command_group import MARK
from run_isolated.leavings import stored
from run_isolated.process import Launcher
from run_isolated.result import OutputsRef, RunResult, Stats, Stopped, Transfer
from run_isolated.spec import NamedCache, RunSpec
from run_isolated.waiting import in_thread, or_told, unless_stopped

if TYPE_CHECKING:
    from run_isolated.distant import DistantStore

__all__ = ["NamedCache", "OutputsRef", "RunResult", "RunSpec", "Stats", "Transfer", "finished", "preload", "run"]


async def run(spec: RunSpec, *, stdout: int | None, stop: asyncio.Event, monitor: Monitor, clock: Clock) -> RunResult:
    """Run the command of `spec` and return what it came to.

    `stdout` is a file descriptor for both stdout and stderr of the command (stdin is then empty); None inherits all
    three. Setting `stop` ends the command: SIGTERM, grace, SIGKILL; cancelling the call kills it at once. In every case
    no process of the command is left when this returns, so all it ever wrote is in `stdout` by then.
    """
    attempt = Attempt(spec, stdout, stop.is_set, clock, monitor)
    return await finished(attempt, stop, begin=True)


async def finished(attempt: Attempt, stop: asyncio.Event, *, begin: bool = False) -> RunResult:
    """Return what an attempt that has begun comes to, or one that is to `begin`; else as `run`."""
    going = _Run(attempt, stop)
    try:
        await or_told(going.whole(begin=begin), attempt.give_up)
    except Exception as error:
        cause = first_cause(error)
        if not isinstance(cause, (IsolateError, OSError)):
            raise
        going.fail(cause)
    return attempt.result


def preload() -> None:
    """Import now what a run with a tree needs: for a process that is started ahead of time and waits."""
    from isolate.cas import remote
    from run_isolated import distant, inputs, installed, outputs, placing

    _ = distant, remote, inputs, installed, outputs, placing


class _Run:
    """The steps of a run from where somebody has to wait."""

    def __init__(self, attempt: Attempt, stop: asyncio.Event) -> None:
        self._attempt, self._spec, self._stop = attempt, attempt.spec, stop
        self._launcher: Launcher | None = None

    def fail(self, cause: BaseException) -> None:
        """Note why the run is no success; what is known of the command stays."""
        result = self._attempt.result
        gone = isinstance(cause, BlobsMissing) and not isinstance(cause, LostFromCache) and result.exit_code is None
        text, stopped = str(cause), result.stopped or isinstance(cause, Stopped)
        missing = text if gone else None
        self._attempt.result = replace(result, internal_failure=text, inputs_missing=missing, stopped=stopped)

    async def whole(self, *, begin: bool) -> None:
        """Do it all, and leave nothing behind."""
        async with AsyncExitStack() as stack:
            stack.push_async_callback(in_thread, self._attempt.close)
            stack.push_async_callback(self._end_processes)
            if begin:
                await in_thread(self._attempt.begin)
            await self._on(stack)

    async def _end_processes(self) -> None:
        """End the command, if it runs, and the launcher, if there is one."""
        if self._attempt.launcher is not None:
            await self._owned().close()

    def _owned(self) -> Launcher:
        assert self._attempt.launcher is not None, "the first thing that a run starts"
        self._launcher = self._launcher or Launcher(self._attempt.launcher)
        return self._launcher

    async def _on(self, stack: AsyncExitStack) -> None:
        """Go on from where the attempt got to; what has to be undone is left to `stack`."""
        attempt, spec, store = self._attempt, self._spec, None
        if attempt.error is not None:
            raise attempt.error
        if spec.server is not None:
            from run_isolated.distant import DistantStore

            distant = DistantStore(spec.server, spec.namespace, attempt.clock, attempt.monitor)
            store = await stack.enter_async_context(distant)
            if spec.isolated is not None and not attempt.is_asked:
                await self._map(spec.isolated, store)
        if not attempt.is_asked:
            await in_thread(attempt.start)
        if attempt.command is not None:
            await self._see_out(attempt.command)
        if attempt.installed is not None:
            await in_thread(attempt.installed.uninstall)
        if attempt.inputs is not None:
            await in_thread(attempt.inputs.verify)
        if store is not None and spec.server is not None:
            await self._upload(spec.server, spec.outputs, store)

    async def _map(self, root: str, store: DistantStore) -> None:
        """Fetch and map the input tree."""
        from run_isolated.placing import placed

        attempt = self._attempt
        mounts = self._owned().mounts
        placing = placed(root, self._spec, store, attempt.work, mounts, attempt.clock, attempt.monitor, attempt.check)
        attempt.take(*await unless_stopped(self._stop, placing))

    async def _see_out(self, command: Command) -> None:
        """Wait for the end of the command, or see to it."""
        attempt, spec = self._attempt, self._spec
        hard_timeout_s = spec.hard_timeout_s or None
        if hard_timeout_s is not None:
            hard_timeout_s = max(0.0, hard_timeout_s - (attempt.clock.monotonic() - attempt.sent_s))
        ended = await self._owned().ended(
            command.env.get(MARK),
            attempt.group,
            hard_timeout_s=hard_timeout_s,
            grace_period_s=spec.grace_period_s,
            stop=self._stop,
            clock=attempt.clock,
        )
        if ended.start_error:
            attempt.refuse(cannot_start(command, ended.start_error))
            return
        attempt.result = replace(
            attempt.result,
            exit_code=ended.exit_code,
            duration_s=ended.duration_s,
            had_hard_timeout=ended.timed_out,
            stopped=ended.stopped,
        )
        if killed := ended.out_of_memory:
            attempt.teller.report(f"{killed} processes of the command were killed: out of memory, see its limit")
        if ended.survivors:
            raise InternalFailure(f"{ended.survivors} processes of the command survived SIGKILL")

    async def _upload(self, server: str, paths: Sequence[str], store: DistantStore) -> None:
        """Store what the command left as outputs."""
        attempt = self._attempt
        outputs = await stored(
            server, paths, attempt.work, store, attempt.teller.report, attempt.clock, attempt.monitor
        )
        if outputs is not None:
            ref, transfer = outputs
            attempt.result = replace(attempt.result, outputs=ref, stats=replace(attempt.result.stats, upload=transfer))
