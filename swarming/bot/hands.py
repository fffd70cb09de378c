"""What a bot does on its machine: keep a runner ready, run a task, reboot if it may.

Knows no poll and no session. The invariant: tasks run one at a time, in one directory.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from pathlib import Path

from isolate.clock import Clock
from swarming.bot.courier import TaskApi
from swarming.bot.crew import RunnerProcess, Standby
from swarming.bot.launch import Launch
from swarming.bot.protocol import Manifest
from swarming.bot.task import TaskRun
from swarming.bot.update import Updater
from swarming.bot.workdir import WorkDirectory
from swarming.bot.workplace import Workplace

RUNNER_LOG = "runner.log"
MAX_RUNNER_LOG_BYTES = 10 << 20

log = logging.getLogger(__name__)


class MachineHands:
    """The `Hands` of a bot that runs tasks in processes of this machine."""

    def __init__(
        self, api: TaskApi, place: Workplace, reboot_command: Sequence[str], updater: Updater, clock: Clock
    ) -> None:
        self._api, self._place, self._clock = api, place, clock
        self._reboot_command, self._updater = reboot_command, updater
        self._standby = Standby(self._start_runner, place.usual)

    @property
    def directory(self) -> WorkDirectory:
        """Where all of it happens."""
        return self._place.directory

    async def prepare(self) -> None:
        await self._standby.prepare()

    def work(self, manifest: Manifest) -> TaskRun:
        return TaskRun(manifest, self._api, self._standby, self._place, self._clock)

    async def reboot(self) -> bool:
        """Run the command the operator gave for it; without one a machine is never rebooted, it may be a desktop."""
        if not self._reboot_command:
            return False
        try:
            process = await asyncio.create_subprocess_exec(*self._reboot_command)
        except OSError as error:
            log.error("Cannot run %s: %s", self._reboot_command[0], error.strerror)  # noqa: TRY400 - foreseen
            return False
        return await process.wait() == 0

    async def update(self, version: str) -> None:
        """See `Updater`."""
        await self._updater.update(version)

    async def close(self) -> None:
        """Leave no process behind."""
        await self._standby.close()

    async def _start_runner(self, launch: Launch) -> RunnerProcess:
        path = self._place.directory.logs / RUNNER_LOG
        _keep_short(path)
        return await RunnerProcess.start(launch, self._place.directory.root, path)


def _keep_short(path: Path) -> None:
    if path.exists() and path.stat().st_size > MAX_RUNNER_LOG_BYTES:
        path.replace(path.with_name(f"{path.name}.1"))
