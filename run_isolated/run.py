"""One run, from a hash to a result: fetch, map, run, archive outputs, clean up.

Knows no flags and no scheduler; each step lives in its own module and gets only what it needs. The invariant: `run`
never raises for what can be foreseen; its `RunResult` says whether the command or the world failed, and nothing of the
command is left, neither a process nor, unless it was to be kept, a file.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Sequence
from contextlib import AsyncExitStack, suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from isolate.clock import Clock
from isolate.errors import BlobsMissing, InternalFailure, IsolateError, first_cause
from isolate.monitor import Monitor
from isolate.progress import COMMAND_COUNTER
from run_isolated.account import switched
from run_isolated.cgroups import Limits
from run_isolated.cleaning import settled
from run_isolated.command import (
    BOT_FILE,
    CannotRun,
    Command,
    cannot_start,
    environment,
    inner_path,
    prepare,
    substitute,
    working_directory,
)
from run_isolated.exposure import Exposure
from run_isolated.process import MARK, CommandGroup, Launcher
from run_isolated.result import OutputsRef, RunResult, Stats, Transfer
from run_isolated.spec import NamedCache, RunSpec
from run_isolated.waiting import Stopped, in_thread, unless_stopped
from run_isolated.workdir import WorkDir, sweep

if TYPE_CHECKING:  # what concerns trees is imported when there is one: a plain command does not pay 0.2 s for it
    from run_isolated.distant import DistantStore
    from run_isolated.inputs import Inputs
    from run_isolated.installed import Installed
    from run_isolated.overlaid import Overlaid

__all__ = ["NamedCache", "OutputsRef", "RunResult", "RunSpec", "Stats", "Transfer", "preload", "run"]

_STDERR = 2


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
        self._inputs: Inputs | Overlaid | None = None
        self._installed: Installed | None = None

    def fail(self, cause: BaseException) -> None:
        """Note why the run is no success; what is known of the command stays."""
        gone = isinstance(cause, BlobsMissing) and self.result.exit_code is None
        self.result = replace(
            self.result,
            internal_failure=str(cause),
            inputs_missing=str(cause) if gone else None,
            stopped=self.result.stopped or isinstance(cause, Stopped),
        )

    async def run(self, spec: RunSpec, stack: AsyncExitStack) -> None:
        """Go through all steps; what has to be undone is left to `stack`: processes first."""
        if spec.containment == "JOB_OBJECT":
            raise InternalFailure("Job objects exist on Windows only: --containment-type JOB_OBJECT cannot be had here")
        settle = partial(settled, parent=spec.group_parent, clock=self._clock, monitor=self._monitor)
        await in_thread(partial(sweep, spec.root_dir, settle, self._monitor))
        work = await in_thread(partial(WorkDir.make, spec.root_dir, keep=spec.leak_temp_dir))
        exposure = Exposure(spec.content_cache_dir)
        stack.callback(exposure.end)  # when the doubts that it leaves are noted
        stack.push_async_callback(in_thread, self._let_go)
        stack.push_async_callback(in_thread, work.close)
        stack.push_async_callback(in_thread, partial(self._put_back, work))
        await in_thread(partial(self._make_room, spec))
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

    def _make_room(self, spec: RunSpec) -> None:
        """Get the named caches ready to be moved in."""
        if not spec.named_caches:
            return
        from isolate.cas.cache import LocalCache
        from run_isolated.installed import Installed

        self._installed = Installed(spec.named_cache_dir, spec.cache_policy, self._clock, self._monitor)
        wanted = [NamedCache(*cache) for cache in spec.named_caches]
        opener = partial(
            LocalCache.open, spec.content_cache_dir, spec.namespace, spec.cache_policy, self._clock, self._monitor
        )
        self._installed.make_room(wanted, opener)

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
        stats = Stats(
            download=inputs.transfer,
            initial_number_items=inputs.before.items,
            initial_size_bytes=inputs.before.size_bytes,
            mapped=how,
        )
        self.result = replace(self.result, stats=stats)

    async def _execute(self, spec: RunSpec, work: WorkDir, launcher: Launcher, group: CommandGroup | None) -> None:
        """Run the command to its end."""
        try:
            command = await in_thread(partial(_command, spec, self._inputs, work))
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
            self._tell(str(refusal), _STDERR if self._stdout is None else self._stdout)
            self.result = replace(self.result, exit_code=1, duration_s=0.0)
            return
        self.result = replace(
            self.result,
            exit_code=ended.exit_code,
            duration_s=ended.duration_s,
            had_hard_timeout=ended.timed_out,
            stopped=ended.stopped,
        )
        if ended.out_of_memory:
            self._report(f"{ended.out_of_memory} processes of the command were killed: out of memory, see its limit")
        if ended.survivors:
            raise InternalFailure(f"{ended.survivors} processes of the command survived SIGKILL")

    async def _upload(self, server: str, paths: Sequence[str], store: DistantStore, work: WorkDir) -> None:
        """Store what the command left as outputs."""
        if not _is_real(work.out) or (paths and not _is_real(work.run)):
            raise InternalFailure("The command removed or replaced its own directories: its outputs cannot be taken")
        with suppress(OSError):  # whatever else it did to the directory is looked into below
            if not paths and not os.listdir(work.out):
                return
        from run_isolated import outputs

        await in_thread(
            partial(outputs.collect, work.run, work.out, [inner_path(path) for path in paths], self._report)
        )
        uploaded = await outputs.upload(work.out, store, self._report, self._clock, self._monitor)
        if uploaded is not None:
            root, transfer = uploaded
            ref = OutputsRef(root, server, store.namespace.name)
            self.result = replace(self.result, outputs=ref, stats=replace(self.result.stats, upload=transfer))

    def _report(self, text: str) -> None:
        """Tell whoever watches, and the reader of the command's output if that is somebody else."""
        self._monitor.problem(text)
        if self._stdout is not None:
            self._tell(text, self._stdout)

    def _tell(self, text: str, descriptor: int) -> None:
        with suppress(OSError):  # nobody reads it
            os.write(descriptor, f"{text}\n".encode(errors="backslashreplace"))


def _is_real(place: Path) -> bool:
    """Whether one of our directories is still one, and no link stands in its place or above it."""
    return os.path.realpath(place) == str(place) and place.is_dir()


def _command(spec: RunSpec, inputs: Inputs | Overlaid | None, work: WorkDir) -> Command:
    """Return what to execute; raises CannotRun, InternalFailure."""
    words, relative_cwd = list(spec.command), spec.relative_cwd
    if inputs is not None and not spec.raw_command:
        words, relative_cwd = [*inputs.command, *words], inputs.relative_cwd or ""
    out_dir = None if spec.server is None else work.out
    layers = None if inputs is None else inputs.layers
    for path in spec.outputs:
        working_directory(work.run, os.path.dirname(inner_path(path)), layers)
    changes = {key: substitute(value, out_dir, spec.bot_file) for key, value in spec.env.items()}
    env = environment(spec.base_env, changes, spec.env_prefixes, work.run, work.temp)
    if spec.switch_to_account is not None:
        env = switched(env, spec.switch_to_account, work.path / "luci_context.json")
    return prepare(words, relative_cwd, env | {MARK: str(work.path)}, work.run, out_dir, spec.bot_file, layers)
