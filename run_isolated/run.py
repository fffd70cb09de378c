"""One run, from a hash to a result: fetch, map, run, archive outputs, clean up.

Knows no flags and no scheduler; each step lives in its own module and gets only what it needs. The invariant: `run`
never raises for what can be foreseen; its `RunResult` says whether the command or the world failed, and nothing of the
command is left, neither a process nor, unless it was to be kept, a file.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

from isolate.clock import Clock
from isolate.errors import BlobsMissing, InternalFailure, IsolateError, first_cause
from isolate.monitor import Monitor
from isolate.progress import COMMAND_COUNTER
from run_isolated.cgroups import Limits
from run_isolated.cleaning import swept
from run_isolated.command import BOT_FILE, CannotRun, cannot_start
from run_isolated.exposure import Exposure
from run_isolated.leavings import stored
from run_isolated.process import CommandGroup, Launcher
from run_isolated.requested import command_of
from run_isolated.result import OutputsRef, RunResult, Stats, Transfer
from run_isolated.spec import NamedCache, RunSpec
from run_isolated.telling import Teller
from run_isolated.waiting import Stopped, in_thread, unless_stopped
from run_isolated.workdir import WorkDir

if TYPE_CHECKING:  # what concerns trees is imported when there is one: a plain command does not pay 0.2 s for it
    from run_isolated.distant import DistantStore
    from run_isolated.inputs import Inputs
    from run_isolated.installed import Installed
    from run_isolated.overlaid import Overlaid

__all__ = ["NamedCache", "OutputsRef", "RunResult", "RunSpec", "Stats", "Transfer", "preload", "run"]


async def run(spec: RunSpec, *, stdout: int | None, stop: asyncio.Event, monitor: Monitor, clock: Clock) -> RunResult:
    """Run the command of `spec` and return what it came to.

    `stdout` is a file descriptor for both stdout and stderr of the command (stdin is then empty); None inherits all
    three. Setting `stop` ends the command: SIGTERM, grace, SIGKILL; cancelling the call kills it at once. In every case
    no process of the command is left when this returns, so all it ever wrote is in `stdout` by then.
    """
    attempt = _Attempt(stdout, stop, monitor, clock)
    try:
        async with AsyncExitStack() as stack:
            await attempt.run(spec, stack)
    except Exception as error:
        cause = first_cause(error)
        if not isinstance(cause, (IsolateError, OSError)):
            raise
        attempt.fail(cause)
    return attempt.result


def preload() -> None:
    """Import now what a run with a tree needs: for a process that is started ahead of time and waits."""
    from isolate.cas import remote
    from run_isolated import distant, inputs, installed, outputs

    _ = distant, remote, inputs, installed, outputs


class _Attempt:
    """The steps of one run, and what is known of its result when one of them fails."""

    def __init__(self, stdout: int | None, stop: asyncio.Event, monitor: Monitor, clock: Clock) -> None:
        self.result = RunResult()
        self._stdout, self._stop, self._monitor, self._clock = stdout, stop, monitor, clock
        self._teller = Teller(stdout, monitor)
        self._inputs: Inputs | Overlaid | None = None
        self._installed: Installed | None = None

    def fail(self, cause: BaseException) -> None:
        """Note why the run is no success; what is known of the command stays."""
        gone = isinstance(cause, BlobsMissing) and self.result.exit_code is None
        text, stopped = str(cause), self.result.stopped or isinstance(cause, Stopped)
        missing = text if gone else None
        self.result = replace(self.result, internal_failure=text, inputs_missing=missing, stopped=stopped)

    async def run(self, spec: RunSpec, stack: AsyncExitStack) -> None:
        """Go through all steps; what has to be undone is left to `stack`: processes first."""
        if spec.containment == "JOB_OBJECT":
            raise InternalFailure("Job objects exist on Windows only: --containment-type JOB_OBJECT cannot be had here")
        await in_thread(partial(swept, spec, self._clock, self._monitor))
        work = await in_thread(partial(WorkDir.make, spec.root_dir, keep=spec.leak_temp_dir))
        exposure = Exposure(spec.content_cache_dir)
        stack.callback(exposure.end)  # when the doubts that it leaves are noted
        stack.push_async_callback(in_thread, self._let_go)
        stack.push_async_callback(in_thread, work.close)
        stack.push_async_callback(in_thread, partial(self._put_back, work))
        if spec.named_caches:
            from run_isolated.installed import with_room

            self._installed = await in_thread(partial(with_room, spec, self._clock, self._monitor))
        group = CommandGroup.make(work.path, spec.group_parent, Limits(*spec.limits))
        if group is not None:
            stack.push_async_callback(in_thread, group.end)
        launcher = await stack.enter_async_context(Launcher.started(self._stdout))  # gets ready while we fetch
        store = None
        if spec.server is not None:
            from run_isolated.distant import DistantStore

            distant = DistantStore(spec.server, spec.namespace, self._clock, self._monitor)
            store = await stack.enter_async_context(distant)
            if spec.isolated is not None:
                await self._map(spec.isolated, spec, store, work, launcher)
        elif spec.isolated is not None:
            raise InternalFailure("Inputs need a server to be fetched from")
        if self._installed is not None:
            await in_thread(partial(self._installed.install, spec.named_caches, work.run))
        if not self._overlay:
            await in_thread(exposure.begin)
        await self._execute(spec, work, launcher, group)
        if self._installed is not None:
            await in_thread(self._installed.uninstall)
        if self._inputs is not None:
            await in_thread(self._inputs.verify)
        if store is not None and spec.server is not None:
            await self._upload(spec.server, spec.outputs, store, work)

    def _put_back(self, work: WorkDir) -> None:
        """Return what the command had, now that no process of it is left."""
        try:
            if self._installed is not None:
                self._installed.finish(work.path, keep=work.is_kept)
        finally:
            if self._inputs is not None:
                self._inputs.put_away()

    def _let_go(self) -> None:
        """Let others have the cache, now that the work directory is gone."""
        if self._inputs is not None:
            self._inputs.close()

    @property
    def _overlay(self) -> Sequence[str]:
        """What is mounted for the command, see overlay.py; without it, the command can reach the cache."""
        return () if self._inputs is None else self._inputs.overlay

    async def _map(self, root: str, spec: RunSpec, store: DistantStore, work: WorkDir, launcher: Launcher) -> None:
        """Fetch and map the input tree."""
        from run_isolated.placing import placed

        placing = placed(root, spec, store, work, launcher.mounts, self._clock, self._monitor)
        inputs, how = await unless_stopped(self._stop, placing)
        self._inputs = inputs
        items, size_bytes = inputs.before
        stats = Stats(inputs.transfer, initial_number_items=items, initial_size_bytes=size_bytes, mapped=how)
        self.result = replace(self.result, stats=stats)

    async def _execute(self, spec: RunSpec, work: WorkDir, launcher: Launcher, group: CommandGroup | None) -> None:
        """Run the command to its end."""
        try:
            command = await in_thread(partial(command_of, spec, self._inputs, work))
            if spec.bot_file is None and any(BOT_FILE in text for text in (*spec.command, *spec.env.values())):
                self._monitor.problem(f"{BOT_FILE} stays as it is: there is no --bot-file")
            self._monitor.count(COMMAND_COUNTER)
            ended = await launcher.run(
                *command,
                hard_timeout_s=spec.hard_timeout_s,
                grace_period_s=spec.grace_period_s,
                stop=self._stop,
                clock=self._clock,
                lower_priority=spec.lower_priority,
                no_network=spec.no_network,
                group=group,
                overlay=self._overlay,
            )
            if ended.start_error:
                raise cannot_start(command, ended.start_error)
        except CannotRun as refusal:
            self._teller.answer(str(refusal))
            self.result = replace(self.result, exit_code=1, duration_s=0.0)
            return
        self.result = replace(
            self.result,
            exit_code=ended.exit_code,
            duration_s=ended.duration_s,
            had_hard_timeout=ended.timed_out,
            stopped=ended.stopped,
        )
        if killed := ended.out_of_memory:
            self._teller.report(f"{killed} processes of the command were killed: out of memory, see its limit")
        if ended.survivors:
            raise InternalFailure(f"{ended.survivors} processes of the command survived SIGKILL")

    async def _upload(self, server: str, paths: Sequence[str], store: DistantStore, work: WorkDir) -> None:
        """Store what the command left as outputs."""
        outputs = await stored(server, paths, work, store, self._teller.report, self._clock, self._monitor)
        if outputs is not None:
            ref, transfer = outputs
            self.result = replace(self.result, outputs=ref, stats=replace(self.result.stats, upload=transfer))
