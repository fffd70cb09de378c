"""One task, from the offer to the last word about it.

Knows neither polls nor signals: `Bot` hands it an offer and may tell it to stop. The invariants: no user code runs
before the server answered the first update; heartbeats go on whatever the task does; when `run` returns, the runner and
all it started are gone, and the server has the result unless it does not want it.
"""

from __future__ import annotations

import asyncio
import logging
import shlex
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace

from isolate.clock import Clock
from isolate.errors import IsolateError, LeaseLost, first_cause
from run_isolated.spec import RunSpec
from swarming.bot.courier import Courier, TaskApi
from swarming.bot.crew import Runner, Standby
from swarming.bot.job import Finished, job_message
from swarming.bot.launch import Launch
from swarming.bot.output import CHUNK_BYTES, Spool
from swarming.bot.protocol import Manifest
from swarming.bot.verdict import Act, Complete, Dropped, Failed, Times, Why, conclude, due, final_fields, summary
from swarming.bot.waiting import pause
from swarming.bot.workplace import Workplace

HEARTBEAT_S = 10.0  # six of them fit into the silence a server allows
NEXT_RUNNER_S = 0.25  # into a task, the next runner is started; it needs as long, and trivial tasks end before
STRAY_WRITER_S = 2.0  # how long a process that outlived its task may hold the output up
_SHOT = "signal 9"

log = logging.getLogger(__name__)


class TaskRun:
    """One offer, and what becomes of it."""

    def __init__(self, manifest: Manifest, api: TaskApi, standby: Standby, place: Workplace, clock: Clock) -> None:
        self._manifest, self._standby, self._place, self._clock = manifest, standby, place, clock
        self._spool = Spool(place.directory.spool)
        self._courier = Courier(api, manifest.task_id, self._spool, clock)
        self._started_s = self._sign_s = clock.monotonic()
        self._stopped_s: float | None = None
        self._why: Why | None = None
        self._loop = asyncio.get_running_loop()
        self._news = asyncio.Event()  # for the one who reports
        self._change = asyncio.Event()  # for the one who watches the time
        self._over = self._is_met = False  # met: the runner has said something
        self._finished: Finished | None = None
        self._every_s = HEARTBEAT_S

    def stop(self, why: Why) -> None:
        """End the task; the first reason counts. After SHUTDOWN an absent server is not waited for."""
        if why is Why.SHUTDOWN:
            self._courier.abandon()
        if self._why is None:
            self._why, self._stopped_s = why, self._clock.monotonic()
        self._change.set()

    async def run(self) -> str:
        """Run the task if it is ours; return in a few words what became of it. Raises nothing that can be foreseen."""
        try:
            accepted = await self._courier.update({"cost_usd": 0.0})
            self._every_s = accepted.update_every_s or HEARTBEAT_S
            if accepted.must_stop:
                await self._courier.update({"canceled": True, "exit_code": -1})
                return "canceled before it started"
            verdict = await self._verdict()
            try:
                return await self._tell(verdict)
            finally:
                await asyncio.to_thread(self._place.directory.clean)
                await self._place.script.after_task(**summary(verdict), dimensions=self._manifest.dimensions)
        except LeaseLost as error:
            return f"dropped: {error}"
        except IsolateError as error:
            return f"given up: {error}"

    async def _verdict(self) -> Dropped | Failed | Complete:
        """Run the task; what goes wrong on our side fails it, so that the server never waits for it."""
        try:
            runner_end = await self._execute()
            return conclude(self._finished, runner_end, self._why, self._spool.complaint)
        except Exception as error:
            cause = first_cause(error)
            if isinstance(cause, IsolateError):
                return Failed(str(cause))
            log.exception("Task %s could not be run", self._manifest.task_id)
            return Failed(f"Execution failed: internal error ({type(cause).__name__}: {cause})")

    async def _execute(self) -> str:
        """Let the hooks see the task and a runner run it, heartbeats all along; return how the runner ended."""
        spec = await asyncio.to_thread(self._place.prepare, self._manifest, self._clock.now())
        async with asyncio.TaskGroup() as group:
            group.create_task(self._report())
            try:
                launch = await self._place.script.before_task(self._place.directory.bot_file, self._place.usual)
                if self._why is not None:
                    return "no start"
                if launch != self._place.usual:
                    spec = replace(spec, base_env={**launch.env, **self._place.task_env(self._manifest)})
                runner_end = await self._employ(launch, spec)
                is_shot = runner_end == _SHOT and self._why is None  # by the kernel, perhaps: not its fault
                if launch != self._place.usual and not self._is_met and self._why in {None, Why.HUNG} and not is_shot:
                    await self._blame(launch, f"starts no runner, it ended with {runner_end}")
                return runner_end
            finally:
                self._end()

    async def _blame(self, launch: Launch, what: str) -> None:
        """Have no more tasks fail of what the administrator wants to be started."""
        await self._place.script.refuse_launch(f"a command that {what}: {shlex.join(launch.command)[:500]}")

    async def _employ(self, launch: Launch, spec: RunSpec) -> str:
        """Give the task to the runner that stands by, and return how that one ended."""
        try:
            runner = await self._standby.take(launch)
        except OSError as error:
            if launch != self._place.usual:
                await self._blame(launch, f"cannot be started ({error.strerror})")
            raise
        try:
            self._spool.fill_from(runner.take_output(), self._printed)
            await _send(runner, job_message(spec))
            async with asyncio.TaskGroup() as group:
                group.create_task(self._watch(runner))
                group.create_task(self._prepare_next())
                await self._listen(runner)
        finally:
            self._over = True
            runner.kill()  # it is done, or it is to be; what an interpreter does at its end takes time for nothing
            runner_end = await asyncio.shield(runner.close())
        if self._finished is None:
            # The kernel does it; this is for other systems.
            await asyncio.to_thread(self._place.directory.end_tasks, self._place.confinement.parent)
        await asyncio.to_thread(self._spool.finish, STRAY_WRITER_S)
        return runner_end

    async def _listen(self, runner: Runner) -> None:
        """Take in what the runner says until it ends."""
        while (message := await runner.receive()) is not None:
            self._sign_s, self._is_met = self._clock.monotonic(), True
            if "finished" in message:
                self._finished = Finished.from_message(message["finished"])
                break
        self._end()

    def _end(self) -> None:
        """Let everything that accompanies the task end."""
        self._over = True
        self._news.set()
        self._change.set()

    def _printed(self) -> None:
        """Take note of output; called from the thread that reads it."""
        with suppress(RuntimeError):  # a stray process printed after the end of this bot
            self._loop.call_soon_threadsafe(self._note_output)

    def _note_output(self) -> None:
        self._sign_s = self._clock.monotonic()
        self._news.set()

    async def _prepare_next(self) -> None:
        """Let the runner of the next task start beside this one, unless this one is too short to notice."""
        await pause(self._clock, NEXT_RUNNER_S, self._change)
        if not self._over:
            with suppress(OSError):  # no more processes, or no more memory: not the fault of this task, try again later
                await self._standby.prepare()

    async def _report(self) -> None:
        """Send a heartbeat now and then, and output as it comes."""
        sent_s = self._clock.monotonic()
        while not self._over:
            left_s = sent_s + self._every_s - self._clock.monotonic()
            if left_s > 0 and self._spool.pending_bytes < CHUNK_BYTES:
                self._news.clear()
                await pause(self._clock, left_s, self._news)
                continue
            sent_s = self._clock.monotonic()
            try:
                updated = await self._courier.update({"cost_usd": self._cost_usd})
            except LeaseLost as error:
                log.warning("Task %s is no longer ours: %s", self._manifest.task_id, error)
                return self.stop(Why.LEASE_LOST)
            except IsolateError as error:
                log.error("Task %s cannot be reported: %s", self._manifest.task_id, error)  # noqa: TRY400 - foreseen
                return self.stop(Why.UNREACHABLE)
            self._every_s = updated.update_every_s or HEARTBEAT_S
            if updated.must_stop:
                self.stop(Why.KILLED)
        return None

    async def _watch(self, runner: Runner) -> None:
        """Stop the task when it is told to or its time is over; kill the runner when it does not obey."""
        told = False
        while not self._over:
            if self._why is not None and not told:
                told = True
                await _send(runner, {"stop": True})
            times = Times(self._started_s, self._sign_s, self._stopped_s, self._why)
            act, wait_s = due(self._manifest, times, self._clock.monotonic())
            match act:
                case Act.STOP_SILENT:
                    self.stop(Why.IO_TIMEOUT)
                case Act.STOP_HUNG:
                    self.stop(Why.HUNG)
                case Act.KILL:
                    return runner.kill()
                case Act.WAIT:
                    self._change.clear()
                    await pause(self._clock, wait_s, self._change)
        return None

    async def _tell(self, verdict: Dropped | Failed | Complete) -> str:
        """Tell the server how it ended, all output first; return the same in a few words."""
        if self._spool.dropped_bytes:
            task_id, spool = self._manifest.task_id, self._spool
            log.warning("The last %d bytes of the output of %s were not kept", spool.dropped_bytes, task_id)
        if complaint := self._spool.complaint:
            complaint = f"Output of {self._manifest.task_id}: {complaint}"
            log.error("%s", complaint)
            self._place.script.wishes.events.append(("bot_error", complaint))
        cost = {"cost_usd": self._cost_usd}
        match verdict:
            case Dropped():
                return "dropped: it is no longer ours"
            case Failed(message):
                await self._courier.flush(cost, leave_bytes=0)
                await self._courier.fail(message)
                return f"failed: {message}"
            case Complete(finished):
                await self._courier.flush(cost, leave_bytes=CHUNK_BYTES)
                total_s = self._clock.monotonic() - self._started_s
                await self._courier.update(final_fields(verdict, total_s, self._cost_usd))
                return f"exit code {finished.exit_code} after {finished.duration_s or 0:.1f} s"

    @property
    def _cost_usd(self) -> float:
        return self._place.hourly_usd() * (self._clock.monotonic() - self._started_s) / 3600


async def _send(runner: Runner, message: Mapping[str, object]) -> None:
    try:
        await runner.send(message)
    except ConnectionError:
        return  # it has ended, as whoever listens to it learns
