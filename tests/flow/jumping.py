"""A server or a bot whose wall clock is set by somebody else.

Runs as `python -m tests.flow.jumping CLOCK server|bot ARGUMENTS`. CLOCK is a file with the seconds that this program is
ahead of the machine, as text; whoever writes to it makes the clock jump. Everything else is the program itself.
"""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path

from isolate.clock import SystemClock


class JumpingClock(SystemClock):
    """The clock of the machine, and what the file says on top."""

    def __init__(self, file: Path) -> None:
        self._file = os.open(file, os.O_RDONLY | os.O_CLOEXEC)

    def now(self) -> float:
        return super().now() + float(os.pread(self._file, 32, 0))


def set_clock(file: Path, ahead_s: float) -> None:
    """Let the clock of `file` jump."""
    fresh = f"{ahead_s:<31}\n"  # one write of always the same length, so that nobody reads half of it
    with file.open("r+b" if file.exists() else "wb", buffering=0) as opened:
        opened.write(fresh.encode())


def run_server(clock: JumpingClock, data: str, port: str) -> None:
    """Serve as `swarming-server serve --data DATA --port PORT` does."""
    from server.app import serve
    from server.config import ServerConfig

    config = ServerConfig.from_flags(Path(data), "127.0.0.1", int(port))
    asyncio.run(serve(config, _announce, clock))


def _announce(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def run_bot(clock: JumpingClock, server: str, directory: str, bot_id: str) -> None:
    """Live as `swarming-bot --server SERVER --dir DIRECTORY --id BOT_ID` does."""
    from swarming.bot.config import load
    from swarming.bot.life import serve
    from swarming.bot.logs import start_log
    from swarming.bot.main import Ending
    from swarming.bot.probation import Guardian
    from swarming.bot.workdir import WorkDirectory

    config = load(server=server, directory=Path(directory), bot_id=bot_id)
    with WorkDirectory.taken(config.directory) as place:
        start_log(place.logs, verbose=False)
        ended = asyncio.run(serve(config, place, (), Guardian(None), clock))
    assert ended.ending in {Ending.STOPPED, Ending.TERMINATED}, ended


if __name__ == "__main__":
    place, what, *words = sys.argv[1:]
    (run_server if what == "server" else run_bot)(JumpingClock(Path(place)), *words)
