"""The process that runs one task: started ahead of time, it waits for a job, runs it, answers and ends.

Runs as `python -m swarming.bot.runner SOCKET OWNER`. Knows no server and no lease: it obeys its bot, and should the bot
die, this process is killed by the kernel and the launcher below it ends the task. All a task prints goes to the spool
file before anything is told about it.
"""

from __future__ import annotations

import asyncio
import logging
import signal
import socket
import sys
from pathlib import Path

from isolate.clock import Clock, SystemClock
from run_isolated import linux
from run_isolated.run import preload, run
from swarming.bot.channel import Channel
from swarming.bot.job import Finished, Job
from swarming.bot.output import SpoolWriter

NOTICE_EVERY_S = 0.05  # how often the bot hears of new output: 20 short messages a second at most
STRAY_WRITER_S = 2.0  # how long a process that outlived its task may hold the output up
OOM_SCORE = "500"  # when memory runs out, the kernel is to take a task rather than the bot or somebody else's work

log = logging.getLogger(__name__)


class SignsOfLife:
    """A monitor whose every call is a sign of life; `told` is set, from any thread, until somebody clears it."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.told = asyncio.Event()
        self._loop = loop

    def touch(self) -> None:
        if not self.told.is_set():  # what a race costs is one more wake-up
            self._loop.call_soon_threadsafe(self.told.set)

    def count(self, counter: str, amount: int = 1) -> None:  # noqa: ARG002 - the protocol of a monitor
        self.touch()

    def expect(self, counter: str, total: int) -> None:
        pass

    def problem(self, message: object) -> None:
        log.warning("%s", message)


async def serve(channel: Channel, clock: Clock) -> None:
    """Wait for one job, run it, and answer; return at once when the bot goes away first."""
    await channel.send({"ready": True})
    message = await channel.receive()
    if message is None:
        return
    job = Job.from_message(message)
    signs = SignsOfLife(asyncio.get_running_loop())
    writer = SpoolWriter(job.spool, signs.touch)
    stop = asyncio.Event()
    async with asyncio.TaskGroup() as group:
        helpers = [
            group.create_task(_obey(channel, stop)),
            group.create_task(_tell(channel, writer, signs, clock)),
        ]
        finished = await _run(job, writer, stop, signs, clock)
        for helper in helpers:
            helper.cancel()
    await channel.send({"written": writer.written_bytes, "finished": finished.to_message()})


async def _run(job: Job, writer: SpoolWriter, stop: asyncio.Event, signs: SignsOfLife, clock: Clock) -> Finished:
    """Run the job; whatever is wrong with this program becomes a failure that names it."""
    try:
        result = await run(job.spec, stdout=writer.write_end, stop=stop, monitor=signs, clock=clock)
    except Exception as error:
        log.exception("The run failed")
        return Finished(failure=f"Execution failed: {type(error).__name__}: {error}")
    finally:
        await asyncio.to_thread(writer.finish, STRAY_WRITER_S)
    return Finished.of(result, writer.dropped_bytes)


async def _obey(channel: Channel, stop: asyncio.Event) -> None:
    while await channel.receive() is not None:
        stop.set()  # the only order there is
    raise ConnectionError("The bot is gone")  # which cancels the run, and that kills the task at once


async def _tell(channel: Channel, writer: SpoolWriter, signs: SignsOfLife, clock: Clock) -> None:
    while True:
        await signs.told.wait()
        signs.told.clear()
        await channel.send({"written": writer.written_bytes})
        await clock.sleep(NOTICE_EVERY_S)


def _prefer_this_to_the_bot_when_memory_ends() -> None:
    try:
        Path("/proc/self/oom_score_adj").write_text(OOM_SCORE, encoding="ascii")
    except OSError:
        return  # not Linux, or forbidden here


async def _main(descriptor: int) -> None:
    channel = await Channel.over(socket.socket(fileno=descriptor))
    preload()  # a job that comes meanwhile waits in the socket
    try:
        await serve(channel, SystemClock())
    except* ConnectionError:
        log.warning("The bot went away")
    await channel.close()


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the bot, which finishes the task first
    linux.die_with_parent(signal.SIGKILL, int(sys.argv[2]))
    _prefer_this_to_the_bot_when_memory_ends()
    logging.basicConfig(format="%(asctime)s %(process)d %(levelname)s %(message)s")
    asyncio.run(_main(int(sys.argv[1])))
