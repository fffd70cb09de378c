"""A launcher, from its start until somebody waits for what became of its command.

Knows no loop and no time-out, so that a run can be on its way to its command while the libraries for waiting are not
even imported. What the launcher does is in launcher.py, what may happen to a command in process.py. The invariant: a
launcher ends, with everything it started, when its `control` is closed.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Self

from run_isolated import linux
from run_isolated.command import Command
from run_isolated.command_group import PASSES, CommandGroup
from run_isolated.launcher import COMMAND_LINE
from run_isolated.request import AHEAD, LIMITED, LOWER_PRIORITY, NO_NETWORK, TRIAL, Request

_PACKAGES = str(Path(__file__).resolve().parent.parent)
_LINE_BYTES = 4096  # read at a time of an answer, which is one line
LOOK_S = 0.5  # between looks at a launcher that is to end
LOOKS = 120  # a healthy one may need 40 s: it waits for processes that do not die of SIGKILL
_KILLED = "the process that watches over the command was killed"


class LauncherProcess:
    """A launcher that waits for its one command."""

    def __init__(self, process: subprocess.Popen[bytes], control: socket.socket) -> None:
        """Use `start`."""
        self.process, self.control = process, control

    @classmethod
    def start(cls, stdout: int | None) -> Self:
        """Start a launcher whose command writes stdout and stderr to `stdout`, or inherits all three of ours.

        Start early: it needs some 20 ms. Raises OSError.
        """
        ours, its = socket.socketpair()
        stdin, stderr = (None, None) if stdout is None else (subprocess.DEVNULL, subprocess.STDOUT)
        with its:
            try:
                process = subprocess.Popen(
                    (sys.executable, *COMMAND_LINE, _PACKAGES, str(its.fileno()), str(os.getpid())),
                    stdin=stdin,
                    stdout=stdout,
                    stderr=stderr,
                    pass_fds=[its.fileno()],
                    start_new_session=True,
                )
            except BaseException:
                ours.close()
                raise
        return cls(process, ours)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """See it end, if nobody did: without a request, which would need more than patience (see process.py)."""
        self.control.close()
        self.process.wait()

    def end(self, group: CommandGroup | None) -> None:
        """End it and everything it started, with patience but without a loop, a thread or more than a descriptor.

        For one that cannot be waited for as process.py does, which says why it may need help.
        """
        self.control.close()
        for _ in range(LOOKS):
            with suppress(subprocess.TimeoutExpired):
                self.process.wait(LOOK_S)
                return
            if linux.is_stopped(self.process.pid):
                self.end_descendants(group)
                self.process.send_signal(signal.SIGCONT)
        self.end_descendants(group)
        self.process.kill()
        self.process.wait()

    def end_descendants(self, group: CommandGroup | None) -> None:
        """Kill what it would."""
        if group is not None:
            group.group.kill()
        for _ in range(PASSES):
            family = linux.descendants(linux.processes(), self.process.pid)
            if not any(process.alive for process in family):
                return
            linux.kill_groups(family, self.process.pid)  # which leads its own
            linux.kill(family)

    def send(self, request: bytes) -> None:
        """Let it start a command; that it cannot, because somebody killed it, is seen when it does not answer."""
        with suppress(OSError):
            self.control.sendall(request)

    def prepare(self, group: CommandGroup) -> None:
        """Let it be ready for a command in `group`: to enter one takes a process 10 ms and more, which are waits."""
        self.send(Request.of([], "", {}, AHEAD, group.group.path).encode())

    def mounts(self, overlay: Sequence[str]) -> str:
        """Return why this system would not let a command have `overlay`, or ""; tried out, and undone."""
        self.send(Request.of([], "", {}, TRIAL, overlay=overlay).encode())
        answer = bytearray()
        with suppress(OSError):
            while not answer.endswith(b"\n") and (read := self.control.recv(_LINE_BYTES)):
                answer += read
        word, _, problem = answer.decode().rstrip("\n").partition(" ")
        return problem if word in {"tried", "refused"} else _KILLED


def request_of(
    command: Command,
    *,
    lower_priority: bool = False,
    no_network: bool = False,
    group: CommandGroup | None = None,
    overlay: Sequence[str] = (),
) -> bytes:
    """Return what makes a launcher run `command`; raises ValueError for what no system call can pass on.

    `overlay` is mounted for the command alone, see overlay.py.
    """
    wishes = LOWER_PRIORITY * lower_priority + NO_NETWORK * no_network
    if group is not None:
        wishes += LIMITED * group.is_limited
    path = "" if group is None else group.group.path
    return Request.of(command.argv, str(command.cwd), command.env, wishes, path, overlay).encode()
