"""Control groups of Linux (version 2): a set of processes that none of them can leave, ended in one go, and limited.

Knows no command and no policy. A group is a directory below the one its maker is in, so it needs the right to write
there: root has it, so has whoever a service manager delegates the directory to; everybody else goes without and is told
so by an OSError. Imports little, because the launcher pays for it with every run. The invariant: nothing above the
directory of a group is killed, changed or removed.

    parent = own_group()                            # "" where there is no such thing
    group = make(parent, "name", Limits(processes=100))
    group.enter()                                   # in the child, before exec
    group.end(10.0)                                 # all dead and the directory gone, or False

Limits need controllers that are switched on for the children of `parent`: see `delegate`.
"""

from __future__ import annotations

import errno
import os
import select
import signal
import time
from contextlib import suppress
from typing import NamedTuple

_PERIOD_US, _LEAST_US = 100_000, 1_000  # over which CPU time is measured, and what it must be: the kernel's own figures
KEEPER = "keeper"  # where those go who were in a group before it was given children with limits
_LIMITED = ("cpu", "memory", "pids")  # the controllers behind Limits
_LOOK_AGAIN_MS = 50  # the kernel tells when a group gets empty; not when somebody else's rmdir succeeded


class Limits(NamedTuple):
    """What the processes of one group may use together; 0 means as much as there is."""

    memory_bytes: int = 0
    processes: int = 0  # threads count too
    cpu_cores: float = 0.0

    def settings(self) -> dict[str, str]:
        """Return what to write into which file of a group."""
        found: dict[str, str] = {}
        if self.memory_bytes:
            found["memory.max"] = str(self.memory_bytes)
        if self.processes:
            found["pids.max"] = str(self.processes)
        if self.cpu_cores:
            found["cpu.max"] = f"{max(_LEAST_US, round(self.cpu_cores * _PERIOD_US))} {_PERIOD_US}"
        return found


NO_LIMITS = Limits()


class Group(NamedTuple):
    """A group that was made, by us or by somebody who is gone."""

    path: str

    def enter(self) -> None:
        """Move the calling process into the group; its children are born there. Raises OSError."""
        _write(self.path, "cgroup.procs", "0")

    def processes(self) -> list[int]:
        """Return who is in it, and in the groups that were made in it."""
        return [int(line) for folder in self._folders() for line in _read(f"{folder}/cgroup.procs").split()]

    def kill(self) -> None:
        """Send SIGKILL to everyone in it, at one moment: who forks fast does not escape."""
        try:
            _write(self.path, "cgroup.kill", "1")
        except FileNotFoundError:
            # A kernel before 5.14, or the group is gone. What is frozen cannot fork, and can be killed.
            with suppress(OSError):
                _write(self.path, "cgroup.freeze", "1")
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
        for line in _read(f"{self.path}/memory.events").splitlines():
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


def own_group() -> str:
    """Return the directory of the group this process is in; "" where version 2 is not to be had."""
    return group_of(_read("/proc/self/mountinfo"), _read("/proc/self/cgroup"))


def group_of(mountinfo: str, memberships: str) -> str:
    """Return the directory of the group that is named in `memberships`, as the two files of /proc tell it; or ""."""
    inside = next((line[len("0::") :] for line in memberships.splitlines() if line.startswith("0::")), "")
    if not inside or ".." in inside.split("/"):
        return ""
    for line in mountinfo.splitlines():
        before, _, after = line.partition(" - ")
        fields = before.split()
        if not after.startswith("cgroup2 ") or len(fields) < 5:
            continue
        # A container may see only a part of the tree: what is mounted is `root` of it.
        root, mounted = (_plain(field).rstrip("/") for field in fields[3:5])
        if f"{inside}/".startswith(f"{root}/"):
            return (mounted + inside[len(root) :]).rstrip("/")
    return ""


def make(parent: str, name: str, limits: Limits = NO_LIMITS) -> Group:
    """Make the group `name` in the directory `parent`; raises OSError where groups or these limits are not allowed."""
    if not parent:
        raise OSError(errno.EOPNOTSUPP, "There are no control groups of version 2 here")
    group = Group(f"{parent}/{name}")
    os.mkdir(group.path, 0o755)
    try:
        for file, value in limits.settings().items():
            _write(group.path, file, value)
        if limits.memory_bytes:
            for file, value in {"memory.swap.max": "0", "memory.oom.group": "1"}.items():
                with suppress(OSError):  # without swap, or on an older kernel
                    _write(group.path, file, value)
    except OSError as error:
        group.remove()
        if error.errno == errno.ENOENT:
            reason = f"{(error.filename or '').rpartition('/')[2]} is not switched on for the groups in {parent}"
            raise OSError(errno.EOPNOTSUPP, reason) from error
        raise
    return group


def controllers(parent: str) -> frozenset[str]:
    """Return which of the controllers behind `Limits` are on for groups made in `parent`."""
    return frozenset(_read(f"{parent}/cgroup.subtree_control").split()) & frozenset(_LIMITED)


def delegate(parent: str) -> frozenset[str]:
    """Switch on what `Limits` needs for groups made in `parent`, which is ours; return the controllers that are on.

    A group with controllers for its children may have no processes of its own, so whoever is in it, the caller
    included, moves to a child of it. For a service whose manager delegates the group to it, once, at its start.
    """
    wanted = [name for name in _read(f"{parent}/cgroup.controllers").split() if name in _LIMITED]
    if set(wanted) <= controllers(parent):
        return controllers(parent)
    with suppress(OSError):
        keeper = f"{parent}/{KEEPER}"
        with suppress(FileExistsError):
            os.mkdir(keeper, 0o755)
        for pid in _read(f"{parent}/cgroup.procs").split():
            with suppress(OSError):  # it ended meanwhile, or is a thread of the kernel
                _write(keeper, "cgroup.procs", pid)
    for name in wanted:
        with suppress(OSError):
            _write(parent, "cgroup.subtree_control", f"+{name}")
    return controllers(parent)


def _plain(field: str) -> str:
    r"""Return a field of mountinfo with its octal escapes (`\040` for a space) undone."""
    first, *rest = field.split("\\")
    return first + "".join(chr(int(part[:3], 8)) + part[3:] for part in rest)


def _read(path: str) -> str:
    try:
        with open(path, encoding="utf-8", errors="surrogateescape") as file:
            return file.read()
    except OSError:  # another system, or the group is gone
        return ""


def _write(folder: str, file: str, value: str) -> None:
    descriptor = os.open(f"{folder}/{file}", os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(descriptor, value.encode())
    finally:
        os.close(descriptor)
