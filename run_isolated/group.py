"""One control group of Linux (version 2) that was made: entered, ended in one go, and removed.

Knows no limits and no parent, see cgroups.py. Imports little, because the launcher pays for it with every run. The
invariant: nothing above the directory of a group is killed, changed or removed.
"""

from __future__ import annotations

import os
import select
import signal
import time
from contextlib import suppress

_LOOK_AGAIN_MS = 50  # the kernel tells when a group gets empty; not when somebody else's rmdir succeeded


class Group:
    """A group that was made, by us or by somebody who is gone."""

    __slots__ = ("path",)

    def __init__(self, path: str) -> None:
        self.path = path

    def enter(self) -> None:
        """Move the calling process into the group; its children are born there. Raises OSError."""
        write(self.path, "cgroup.procs", "0")

    def processes(self) -> list[int]:
        """Return who is in it, and in the groups that were made in it."""
        return [int(line) for folder in self._folders() for line in read(f"{folder}/cgroup.procs").split()]

    def kill(self) -> None:
        """Send SIGKILL to everyone in it, at one moment: who forks fast does not escape."""
        try:
            write(self.path, "cgroup.kill", "1")
        except FileNotFoundError:
            # A kernel before 5.14, or the group is gone. What is frozen cannot fork, and can be killed.
            with suppress(OSError):
                write(self.path, "cgroup.freeze", "1")
            for pid in self.processes():
                with suppress(OSError):
                    os.kill(pid, signal.SIGKILL)
        except OSError:
            return  # it is being removed

    def remove(self) -> bool:
        """Remove the empty group, and those in it; False when somebody is still there."""
        try:
            for folder in reversed(self._folders()):
                with suppress(FileNotFoundError):
                    os.rmdir(folder)
        except OSError:
            return False
        return not os.path.isdir(self.path)

    def end(self, timeout_s: float) -> bool:
        """Kill everyone in it and remove it; False when that was not possible in time."""
        give_up_s = time.monotonic() + timeout_s
        while True:
            self.kill()
            if self.remove():
                return True
            if time.monotonic() > give_up_s:
                return False
            self._wait_for_a_change()

    def out_of_memory(self) -> int:
        """Return how many of its processes were killed because of its memory limit."""
        for line in read(f"{self.path}/memory.events").splitlines():
            if line.startswith("oom_kill "):
                return int(line.split()[1])
        return 0

    def _folders(self) -> list[str]:
        """Return its directory and all below it, from the top."""
        return [folder for folder, _, _ in os.walk(self.path)]

    def _wait_for_a_change(self) -> None:
        try:
            events = os.open(f"{self.path}/cgroup.events", os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            return
        try:
            poll = select.poll()
            poll.register(events, select.POLLPRI)
            poll.poll(_LOOK_AGAIN_MS)
        finally:
            os.close(events)


def read(path: str) -> str:
    """Return what is in a file of the kernel; "" when it cannot be read."""
    try:
        with open(path, encoding="utf-8", errors="surrogateescape") as file:
            return file.read()
    except OSError:  # another system, or the group is gone
        return ""


def write(folder: str, file: str, value: str) -> None:
    """Write to a file of a group; raises OSError."""
    descriptor = os.open(f"{folder}/{file}", os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(descriptor, value.encode())
    finally:
        os.close(descriptor)
