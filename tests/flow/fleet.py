"""A server with two bots, and commands that users type beside it."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.flow.bots import running_bot
from tests.flow.servers import ServerProcess, running_server

BIN = Path(sys.executable).parent


class Fleet:
    """Runs commands in `home`, a directory of their own, with the server in their environment."""

    def __init__(self, server: ServerProcess, home: Path) -> None:
        self.server, self.home = server, home

    @property
    def env(self) -> dict[str, str]:
        return {
            "PATH": f"{BIN}:/usr/bin:/bin",
            "HOME": str(self.home),
            "SWARMING_SERVER": self.server.url,
            "ISOLATE_SERVER": self.server.url,
            "USER": "tester",
        }

    def run(self, *argv: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
        """Run a command to its end."""
        return subprocess.run(
            argv, env=self.env, cwd=self.home, capture_output=True, text=True, timeout=120, input=stdin
        )

    def ok(self, *argv: str) -> str:
        """Run a command that succeeds; returns its stdout."""
        done = self.run(*argv)
        assert done.returncode == 0, done.stderr + done.stdout
        return done.stdout


def write_task(home: Path, script: str) -> None:
    """Make `tree/t.isolate` in `home`: it runs a script with the directory of outputs as its argument."""
    tree = home / "tree"
    tree.mkdir()
    (tree / "script.py").write_text(script)
    (tree / "t.isolate").write_text(
        "{'variables': {'command': ['python3', 'script.py', '${ISOLATED_OUTDIR}'], 'files': ['script.py']}}"
    )


@contextmanager
def running_fleet(place: Path) -> Iterator[Fleet]:
    """Start a server and two bots, `bot-1` with flavor sweet and `bot-2` with sour."""
    (place / "home").mkdir()
    with (
        running_server(place / "data") as server,
        running_bot(server, place / "bot1", "bot-1", "--dimension", "flavor", "sweet"),
        running_bot(server, place / "bot2", "bot-2", "--dimension", "flavor", "sour"),
    ):
        yield Fleet(server, place / "home")


def task_id_in(printed: str) -> str:
    """Return the one task id that `trigger` printed."""
    (line,) = [line for line in printed.splitlines() if "/user/task/" in line]
    return line.rpartition("/")[2]
