"""One run up to its command, as far as nobody has to wait for anything: no fetching, no watching.

Knows no flags, no store and no loop: on a machine that has the tree, a command runs before the libraries for waiting
are even imported, which is a third of all that a short run takes. run.py goes on from there. The invariants: `close`
undoes all there is, with descriptors held back for it, but for the launcher, whose end must be waited for; `begin`
raises nothing, it is in `error`; after `give_up` no command is sent.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

from isolate.clock import Clock
from isolate.errors import InternalFailure, IsolateError
from isolate.monitor import Monitor
from isolate.progress import COMMAND_COUNTER
from run_isolated.cgroups import Limits
from run_isolated.cleaning import swept
from run_isolated.command import BOT_FILE, CannotRun, Command, cannot_start
from run_isolated.command_group import CommandGroup
from run_isolated.exposure import Exposure
from run_isolated.requested import command_of
from run_isolated.reserve import Reserve
from run_isolated.result import NOT_FINISHED, RunResult, Stats, Stopped
from run_isolated.spec import RunSpec
from run_isolated.starting import LauncherProcess, request_of
from run_isolated.telling import Teller
from run_isolated.ways import OVERLAY, SHARING
from run_isolated.workdir import WorkDir

if TYPE_CHECKING:  # what concerns trees is imported when there is one: a plain command does not pay for it
    from run_isolated.inputs import Inputs
    from run_isolated.installed import Installed
    from run_isolated.overlaid import Overlaid

_TOO_EARLY = "Stopped before the command was started"
# Descriptors: for the loop, and what it waits with; and for the deletion of what there is, whatever holds the others.
FOR_WAITING, FOR_UNDOING = 16, 16
_FOR_UNDOING_BYTES = 4 << 20


class Attempt:
    """The first steps of one run, and what is known of its result when one of them fails."""

    def __init__(
        self,
        spec: RunSpec,
        stdout: int | None,
        is_stopped: Callable[[], bool],
        clock: Clock,
        monitor: Monitor,
        launcher: LauncherProcess | None = None,
    ) -> None:
        """`is_stopped` says whether whoever wanted the run wants it no more; `stdout` is as for `run`.

        A `launcher` that was started ahead of time, for the same `stdout`, is used.
        """
        self.spec, self.clock, self.monitor = spec, clock, monitor
        self.teller = Teller(stdout, monitor)
        self.result = RunResult()
        self.error: Exception | None = None
        self.launcher = launcher
        self.group: CommandGroup | None = None
        self.installed: Installed | None = None
        self.inputs: Inputs | Overlaid | None = None
        self.is_asked = False  # for the command: what it was to find is there
        self.command: Command | None = None  # that was sent to the launcher
        self.sent_s = 0.0
        self._stdout, self._is_stopped = stdout, is_stopped
        self._exposure = Exposure(spec.content_cache_dir)
        self._work: WorkDir | None = None
        self._undo = ExitStack()
        self._for_undoing = Reserve()
        self._is_given_up = False

    @property
    def work(self) -> WorkDir:
        """The work directory of a run that has begun."""
        assert self._work is not None, "the first steps of a run make it"
        return self._work

    @property
    def overlay(self) -> Sequence[str]:
        """What is mounted for the command, see overlay.py; without it, the command can reach the cache."""
        return () if self.inputs is None else self.inputs.overlay

    def begin(self) -> None:
        """Go as far as the command, unless something has to be fetched for it, or fails."""
        for_waiting = Reserve()
        try:
            for_waiting, self._for_undoing = Reserve.take(FOR_WAITING), Reserve.take(FOR_UNDOING, _FOR_UNDOING_BYTES)
            self._prepare()
            if self.spec.isolated is None or self._find(self.spec.isolated):
                self.start()
        except Exception as error:  # noqa: BLE001 - told by whoever goes on, which is where all of them are told
            self.error = error
        finally:
            for_waiting.release()

    def give_up(self) -> None:
        """Let nothing more begin, in whatever thread: what there is, is to be ended and undone."""
        self._is_given_up = True

    def close(self) -> None:
        """Undo everything, after the end of the launcher; again is no harm. Raises InternalFailure."""
        self._for_undoing.release()
        self._undo.close()

    def cut_short(self) -> RunResult:
        """Return what is known, by the time that all is undone, of a run that was not waited for to the end."""
        why = self.result.internal_failure or (NOT_FINISHED if self.is_asked else _TOO_EARLY)
        return replace(self.result, internal_failure=why, stopped=True)

    def abandon(self, reason: str) -> None:
        """End the command and undo everything here and now, for want of what is needed to wait for it."""
        what = (
            "The run could not go on" if self.command is None else "The command was ended, it could not be waited for"
        )
        problems = [f"{what}: {reason if self.error is None else self.error}"]
        try:
            if self.launcher is not None:
                self._for_undoing.release()
                self.launcher.end(self.group)
            self.close()
        except (IsolateError, OSError) as error:
            problems.append(str(error))
        self.result = replace(self.result, internal_failure="; ".join(problems))

    def _prepare(self) -> None:
        spec = self.spec
        if spec.containment == "JOB_OBJECT":
            raise InternalFailure("Job objects exist on Windows only: --containment-type JOB_OBJECT cannot be had here")
        self.launcher = self.launcher or LauncherProcess.start(self._stdout)  # gets ready while we map
        swept(spec, self.clock, self.monitor, self.check)
        work = self._work = WorkDir.make(spec.root_dir, keep=spec.leak_temp_dir)
        self._undo.callback(self._exposure.end)  # when the doubts that it leaves are noted
        self._undo.callback(self._let_go)
        self._undo.callback(self._leave)
        self._undo.callback(self._put_back)
        if spec.named_caches:
            from run_isolated.installed import with_room

            self.installed = with_room(spec, self.clock, self.monitor, self.check)
        self.group = CommandGroup.make(work.path, spec.group_parent, Limits(*spec.limits))
        if self.group is not None:
            self._undo.callback(self.group.end)
            self.launcher.prepare(self.group)
        if spec.isolated is not None and spec.server is None:
            raise InternalFailure("Inputs need a server to be fetched from")

    def _find(self, root: str) -> bool:
        """Map the tree if all of it is here; returns whether it was."""
        spec = self.spec
        if spec.verify_inputs or spec.mapping == OVERLAY:
            return False
        from run_isolated.inputs import Inputs
        from run_isolated.mapper import How

        finding = partial(Inputs.found, spec.namespace, root, self.work.run, spec.content_cache_dir, spec.cache_policy)
        inputs = finding(self.clock, self.monitor, How(spec.mapping), keep=not spec.leak_temp_dir, check=self.check)
        if inputs is not None:
            self.take(inputs)
        self.check()
        return inputs is not None

    def check(self) -> None:
        """Raise Stopped if whoever wanted the run wants it no more."""
        if self._is_in_a_hurry():
            raise Stopped(_TOO_EARLY)

    def _is_in_a_hurry(self) -> bool:
        return self._is_given_up or self._is_stopped()

    def take(self, inputs: Inputs | Overlaid, mapped: str = "") -> None:
        """Note what was mapped, and what became of the wish for an overlay."""
        self.inputs = inputs
        items, size_bytes = inputs.before
        stats = Stats(inputs.transfer, initial_number_items=items, initial_size_bytes=size_bytes, mapped=mapped)
        self.result = replace(self.result, stats=stats)

    def start(self) -> None:
        """Let the launcher start the command; one that cannot be run is answered instead."""
        spec = self.spec
        if self.installed is not None:
            self.installed.install(spec.named_caches, self.work.run, self.check)
        if not self.overlay:
            self._exposure.begin(self.check)
        self.is_asked = True
        try:
            command = command_of(spec, self.inputs, self.work)
            request = self._request(command)
        except CannotRun as refusal:
            self.refuse(refusal)
            return
        if spec.bot_file is None and any(BOT_FILE in text for text in (*spec.command, *spec.env.values())):
            self.monitor.problem(f"{BOT_FILE} stays as it is: there is no --bot-file")
        if self._is_given_up:
            raise Stopped(_TOO_EARLY)
        self.monitor.count(COMMAND_COUNTER)
        assert self.launcher is not None, "it was the first to be started"
        self.sent_s = self.clock.monotonic()
        self.command = command
        self.launcher.send(request)

    def _request(self, command: Command) -> bytes:
        spec = self.spec
        try:
            return request_of(
                command,
                lower_priority=spec.lower_priority,
                no_network=spec.no_network,
                group=self.group,
                overlay=self.overlay,
            )
        except ValueError as error:
            raise cannot_start(command, str(error)) from error

    def refuse(self, refusal: CannotRun) -> None:
        """Answer for a command that does not run."""
        self.teller.answer(str(refusal))
        self.result = replace(self.result, exit_code=1, duration_s=0.0)

    def _put_back(self) -> None:
        """Return what the command had, now that no process of it is left."""
        try:
            if self.installed is not None:
                self.installed.finish(self.work.path, keep=self.work.is_kept)
        finally:
            if self.inputs is not None:
                self.inputs.put_away()

    def _leave(self) -> None:
        """Delete the work directory; who is in a hurry leaves a tree that no command had to the next run.

        That is links, whose deletion frees no space and may take longer than a service that is stopped may.
        """
        untouched = not self.is_asked and self.installed is None and not self.work.is_kept
        if untouched and self._is_in_a_hurry() and self.spec.mapping in SHARING:
            from run_isolated.reuse import retire

            retire(self.spec.content_cache_dir, self.work.trees())
        self.work.close()

    def _let_go(self) -> None:
        """Let others have the cache, now that the work directory is gone; who is in a hurry leaves it as full as it is.

        The next run trims it.
        """
        if self.inputs is not None:
            self.inputs.close(trim=not self._is_in_a_hurry())
