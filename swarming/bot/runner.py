"""The process that runs one task: started ahead of time, it waits for a job, runs it, answers and ends.

Runs as `python -m swarming.bot.runner SOCKET PIPE OWNER`. Knows nothing of jobs (that is `running`): it obeys its
bot, and should the bot die, this process is killed by the kernel and the launcher below it ends the task. The
invariant: until the kernel has been told so, nothing is imported but what the bot has imported too, so that Python
writes no file beside it: whoever sees a bot die may delete its program at once.
"""

from __future__ import annotations

import os
import signal
import sys

from run_isolated import linux

OOM_SCORE = "500"  # when memory runs out, the kernel is to take a task rather than the bot or somebody else's work
NICE = 5  # a third of the weight of the bot, whose heartbeats a task with many busy processes must not hold up


def _come_after_the_bot() -> None:
    """Let the machine prefer the bot to its task where both want the same."""
    from pathlib import Path

    os.nice(NICE)
    try:
        Path("/proc/self/oom_score_adj").write_text(OOM_SCORE, encoding="ascii")
    except OSError:
        return  # not Linux, or forbidden here


def main(control: int, printed: int, owner: int) -> None:
    """Serve the bot with the process id `owner` once, over the sockets and pipes that it named."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the bot, which finishes the task first
    os.set_inheritable(control, False)
    os.set_inheritable(printed, False)
    linux.die_with_parent(signal.SIGKILL, owner)
    _come_after_the_bot()

    import asyncio
    import logging

    from swarming.bot.running import serve_process

    logging.basicConfig(format="%(asctime)s %(process)d %(levelname)s %(message)s")
    asyncio.run(serve_process(control, printed))


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
