"""Runner processes as the bot sees them: one stands by, is given a task, and is never used again.

Knows no task and no server. The invariant: the cost of starting a runner is paid while the bot is idle, and a runner
that died while it waited is replaced before it is needed.
"""

from __future__ import annotations

import asyncio
import os
import signal
import socket
from asyncio.subprocess import DEVNULL, STDOUT, Process
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Protocol

from swarming.bot.channel import Channel
from swarming.bot.launch import Launch


class Runner(Protocol):
    """A process that runs one job."""

    async def send(self, message: Mapping[str, object]) -> None:
        """Send the job, later perhaps the order to stop; raises ConnectionError when the runner is gone."""
        ...

    async def receive(self) -> dict[str, Any] | None:
        """Return what it says next, None when it has ended."""
        ...

    def take_output(self) -> int:
        """Return the descriptor from which all its job prints can be read; the caller closes it."""
        ...

    @property
    def is_alive(self) -> bool: ...

    def kill(self) -> None:
        """End it at once, and with it everything it runs."""
        ...

    async def close(self) -> str:
        """Return when the process is gone: how it ended."""
        ...


class RunnerProcess:
    """A runner in a process of its own."""

    def __init__(self, process: Process, channel: Channel, output: int) -> None:
        self._process, self._channel = process, channel
        self._output: int | None = output

    @classmethod
    async def start(cls, launch: Launch, cwd: Path, log: Path) -> RunnerProcess:
        """Start a runner; it imports what it needs and then waits."""
        ours, its = socket.socketpair()
        output, printed = os.pipe()
        arguments = [str(its.fileno()), str(printed), str(os.getpid())]
        try:
            with its, os.fdopen(printed, "wb"), log.open("ab") as stream:
                process = await asyncio.create_subprocess_exec(
                    *launch.command,
                    *arguments,
                    pass_fds=[its.fileno(), printed],
                    stdin=DEVNULL,
                    stdout=stream,
                    stderr=STDOUT,
                    cwd=cwd,
                    env=dict(launch.env),
                    start_new_session=True,  # Ctrl-C in the terminal of the bot is not for the task
                )
        except OSError:
            ours.close()
            os.close(output)
            raise
        return cls(process, await Channel.over(ours), output)

    async def send(self, message: Mapping[str, object]) -> None:
        await self._channel.send(message)

    async def receive(self) -> dict[str, Any] | None:
        return await self._channel.receive()

    def take_output(self) -> int:
        output, self._output = self._output, None
        assert output is not None, "the output of a runner is taken once"
        return output

    @property
    def is_alive(self) -> bool:
        return self._process.returncode is None

    def kill(self) -> None:
        # Not `Process.kill`: it may reap the process itself, and asyncio then never learns how it ended.
        if self.is_alive:
            with suppress(ProcessLookupError):
                os.kill(self._process.pid, signal.SIGKILL)

    async def close(self) -> str:
        await self._channel.close()
        if self._output is not None:
            os.close(self.take_output())
        code = await self._process.wait()
        return f"signal {-code}" if code < 0 else f"status {code}"


class Standby:
    """Keeps one runner ready, of the usual kind."""

    def __init__(self, start: Callable[[Launch], Awaitable[Runner]], usual: Launch) -> None:
        self._start, self._usual = start, usual
        self._ready: Runner | None = None

    async def prepare(self) -> None:
        """Have a runner standing by."""
        if self._ready is not None and not self._ready.is_alive:
            await self.close()
        if self._ready is None:
            self._ready = await self._start(self._usual)

    async def take(self, launch: Launch) -> Runner:
        """Hand out the runner that stands by, or dismiss it for one that was started as asked; its owner closes it."""
        if launch != self._usual:
            await self.close()
            return await self._start(launch)
        await self.prepare()
        runner, self._ready = self._ready, None
        assert runner is not None
        return runner

    async def close(self) -> None:
        """Dismiss the runner that stands by."""
        if self._ready is not None:
            runner, self._ready = self._ready, None
            runner.kill()
            await runner.close()
