"""Real `swarming-bot` processes for tests, and tasks that can be watched from outside.

`with running_bot(server, tmp_path, "bot-1") as bot:` starts one and is sure of its end. What the bot says on stderr is
read line by line, so that a test waits for events, never for time. A `Gate` does the same for a task: its processes
hold one FIFO open while they live and wait at the other.
"""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.flow.servers import ServerProcess

COMMAND = str(Path(sys.executable).parent / "swarming-bot")
EVENT_S = 60.0  # only a broken program or a very loaded machine needs as long
API = "/_ah/api/swarming/v1"


class BotProcess:
    """One bot. `expect` reads what it says."""

    def __init__(
        self,
        url: str,
        directory: Path,
        bot_id: str,
        *arguments: str,
        env: Mapping[str, str] | None = None,
        command: Sequence[str] = (),
        stderr: int = subprocess.PIPE,
    ) -> None:
        self.directory, self.bot_id = directory, bot_id
        self.said = ""
        temporary = directory.parent / f"{directory.name}-tmp"  # a full /tmp of this machine would quarantine the bot
        temporary.mkdir(exist_ok=True)
        self.process = subprocess.Popen(
            command or [COMMAND, "--server", url, "--dir", str(directory), "--id", bot_id, *arguments],
            stdin=subprocess.DEVNULL,
            stderr=stderr,
            env={**os.environ, "TMPDIR": str(temporary), **(env or {})},
        )

    @property
    def pid(self) -> int:
        return self.process.pid

    def expect(self, text: str) -> str:
        """Read on until a line with `text` comes, and return it."""
        assert self.process.stderr is not None
        seen = []
        while line := _read_line(self.process.stderr.fileno()):
            self.said += line
            seen.append(line)
            if text in line:
                return line
        raise AssertionError(f"The bot never said {text!r}, but: {''.join(seen)!r}")

    def signal(self, number: int = signal.SIGTERM) -> None:
        self.process.send_signal(number)

    def wait(self) -> int:
        """Return its exit status when it has ended."""
        return self.process.wait(EVENT_S)

    def end(self) -> None:
        """End it for good."""
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        if self.process.stderr is not None:
            self.process.stderr.close()


@contextmanager
def running_bot(
    server: ServerProcess, directory: Path, bot_id: str, *arguments: str, env: Mapping[str, str] | None = None
) -> Iterator[BotProcess]:
    """Start a bot and wait until it is connected; it is gone when the block ends."""
    bot = BotProcess(server.url, directory, bot_id, *arguments, env=env)
    try:
        bot.expect("Connected as")
        yield bot
    finally:
        bot.end()


class Gate:
    """Two FIFOs between a test and a task."""

    def __init__(self, directory: Path) -> None:
        directory.mkdir()
        self.alive, self.go = directory / "alive", directory / "go"
        os.mkfifo(self.alive)
        os.mkfifo(self.go)
        # Opening must wait for nobody; the end of the last process shows as the end of `alive`.
        self._reader = os.open(self.alive, os.O_RDONLY | os.O_NONBLOCK)
        self._writer = os.open(self.go, os.O_RDWR)

    def task(self, *, before: str = "", after: str = "") -> list[str]:
        """Return a command that opens the gate, runs `before`, waits for `let_pass`, and runs `after`."""
        code = f"import os, sys, signal, time\nalive = open({str(self.alive)!r}, 'w')\n{before}\n"
        code += f"print('x', file=alive, flush=True)\nopen({str(self.go)!r}).readline()\n{after}\n"
        return [sys.executable, "-c", code]

    def wait_for_task(self) -> None:
        """Return when the task has come to the gate."""
        assert self._read() == b"x\n"

    def let_pass(self) -> None:
        """Let the task go on."""
        os.write(self._writer, b"\n")

    def wait_for_end(self) -> None:
        """Return when every process of the task is gone; another try of it may come to the gate then."""
        while self._read():
            pass
        reopened = os.open(self.alive, os.O_RDONLY | os.O_NONBLOCK)
        os.close(self._reader)
        self._reader = reopened

    def close(self) -> None:
        os.close(self._reader)
        os.close(self._writer)

    def _read(self) -> bytes:
        ready, _, _ = select.select([self._reader], [], [], EVENT_S)
        assert ready, "the task did not come, or did not end"
        return os.read(self._reader, 2)


def submit(server: ServerProcess, command: list[str], **properties: Any) -> str:
    """Ask for a task and return its id. Keys of `properties` are those of the API; `pool` is `default`."""
    dimensions = {"pool": "default", **properties.pop("dimensions", {})}
    body = {
        "name": "task",
        "priority": 100,
        "task_slices": [
            {
                "expiration_secs": 600,
                "wait_for_capacity": True,
                "properties": {
                    "command": command,
                    "dimensions": [{"key": key, "value": value} for key, value in dimensions.items()],
                    "execution_timeout_secs": 300,
                    "grace_period_secs": 30,
                    **properties,
                },
            }
        ],
    }
    status, reply = server.call("POST", f"{API}/tasks/new", body)
    assert status == 200, reply
    task_id: str = reply["task_id"]
    return task_id


def result(server: ServerProcess, task_id: str) -> dict[str, Any]:
    """Return the result of a task, as it is now."""
    status, reply = server.call("GET", f"{API}/task/{task_id}/result?include_performance_stats=true")
    assert status == 200, reply
    found: dict[str, Any] = reply
    return found


def stdout(server: ServerProcess, task_id: str) -> str:
    """Return what a task printed, as far as the server has it."""
    status, reply = server.call("GET", f"{API}/task/{task_id}/stdout")
    assert status == 200, reply
    return str(reply.get("output", ""))


def _read_line(descriptor: int) -> str:
    line = bytearray()
    deadline_s = time.monotonic() + EVENT_S
    while not line.endswith(b"\n"):
        ready, _, _ = select.select([descriptor], [], [], max(0.0, deadline_s - time.monotonic()))
        data = os.read(descriptor, 1) if ready else b""
        if not data:
            break
        line += data
    return line.decode(errors="replace")


def give(server: ServerProcess, source: str, **also: str) -> dict[str, Any]:
    """Give hooks to all bots."""
    status, reply = server.call("POST", f"{API}/server/put_bot_config", {"content": source, **also})
    assert status == 200, reply
    found: dict[str, Any] = reply
    return found


def bot_info(server: ServerProcess) -> dict[str, Any]:
    """Return what the server knows of `bot-1`."""
    status, reply = server.call("GET", f"{API}/bot/bot-1/get")
    assert status == 200, reply
    found: dict[str, Any] = reply
    return found


def state_of(server: ServerProcess) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(bot_info(server)["state"])
    return found


def dimensions_of(server: ServerProcess) -> dict[str, list[str]]:
    return {one["key"]: one["value"] for one in bot_info(server)["dimensions"]}
