"""One job, from the channel it comes through to the answer: what a runner does.

Knows no server, no lease and no process (that is `runner`): it obeys its bot. The invariant: whatever becomes of the
job, the bot gets one answer, or this ends with the bot.
"""

from __future__ import annotations

import asyncio
import logging
import socket

from isolate.clock import Clock, SystemClock
from run_isolated.run import preload, run
from run_isolated.spec import RunSpec
from swarming.bot.channel import Channel
from swarming.bot.job import Finished, job_of

SIGN_EVERY_S = 1.0  # how often the bot hears that something goes on, beside the output it sees itself

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

    def expect(self, counter: str, more: int) -> None:
        pass

    def problem(self, message: object) -> None:
        log.warning("%s", message)


async def serve(channel: Channel, output: int, clock: Clock) -> None:
    """Wait for one job, run it with its output going to the descriptor `output`, and answer.

    Returns when the bot goes away before there is a job; raises ConnectionError in a group when it does so later.
    """
    await channel.send({"ready": True})
    message = await channel.receive()
    if message is None:
        return
    signs = SignsOfLife(asyncio.get_running_loop())
    stop = asyncio.Event()
    async with asyncio.TaskGroup() as group:
        helpers = [group.create_task(_obey(channel, stop)), group.create_task(_tell(channel, signs, clock))]
        finished = await _run(job_of(message), output, stop, signs, clock)
        for helper in helpers:
            helper.cancel()
    await channel.send({"finished": finished.to_message()})


async def _run(spec: RunSpec, output: int, stop: asyncio.Event, signs: SignsOfLife, clock: Clock) -> Finished:
    """Run the job; whatever is wrong with this program becomes a failure that names it."""
    try:
        return Finished.of(await run(spec, stdout=output, stop=stop, monitor=signs, clock=clock))
    except Exception as error:
        log.exception("The run failed")
        return Finished(failure=f"Execution failed: {type(error).__name__}: {error}")


async def _obey(channel: Channel, stop: asyncio.Event) -> None:
    while await channel.receive() is not None:
        stop.set()  # the only order there is
    raise ConnectionError("The bot is gone")  # which cancels the run, and that kills the task at once


async def _tell(channel: Channel, signs: SignsOfLife, clock: Clock) -> None:
    while True:
        await signs.told.wait()
        signs.told.clear()
        await channel.send({"alive": True})
        await clock.sleep(SIGN_EVERY_S)


async def serve_process(descriptor: int, output: int) -> None:
    """Serve the bot at the other end of the socket `descriptor`, and return when that is over."""
    channel = await Channel.over(socket.socket(fileno=descriptor))
    preload()  # a job that comes meanwhile waits in the socket
    try:
        await serve(channel, output, SystemClock())
    except* ConnectionError:
        log.warning("The bot went away")
    await channel.close()
