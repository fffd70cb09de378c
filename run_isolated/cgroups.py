"""Control groups of Linux (version 2): a set of processes that none of them can leave, ended in one go, and limited.

Knows no command and no policy. A group is a directory below the one its maker is in, so it needs the right to write
there: root has it, so has whoever a service manager delegates the directory to; everybody else goes without and is told
so by an OSError. What can be done with a group is in group.py. The invariant: nothing above the directory of a group
is killed, changed or removed.

    parent = own_group()                            # "" where there is no such thing
    group = make(parent, "name", Limits(processes=100))
    group.enter()                                   # in the child, before exec
    group.end(10.0)                                 # all dead and the directory gone, or False

Limits need controllers that are switched on for the children of `parent`: see `delegate`.
"""

from __future__ import annotations

import errno
import os
from contextlib import suppress
from typing import NamedTuple

from run_isolated.group import Group, read, write

_PERIOD_US, _LEAST_US = 100_000, 1_000  # over which CPU time is measured, and what it must be: the kernel's own figures
KEEPER = "keeper"  # where those go who were in a group before it was given children with limits
_LIMITED = ("cpu", "memory", "pids")  # the controllers behind Limits


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


def own_group() -> str:
    """Return the directory of the group this process is in; "" where version 2 is not to be had."""
    return group_of(read("/proc/self/mountinfo"), read("/proc/self/cgroup"))


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
            write(group.path, file, value)
        if limits.memory_bytes:
            for file, value in {"memory.swap.max": "0", "memory.oom.group": "1"}.items():
                with suppress(OSError):  # without swap, or on an older kernel
                    write(group.path, file, value)
    except OSError as error:
        group.remove()
        if error.errno == errno.ENOENT:
            reason = f"{(error.filename or '').rpartition('/')[2]} is not switched on for the groups in {parent}"
            raise OSError(errno.EOPNOTSUPP, reason) from error
        raise
    return group


def controllers(parent: str) -> frozenset[str]:
    """Return which of the controllers behind `Limits` are on for groups made in `parent`."""
    return frozenset(read(f"{parent}/cgroup.subtree_control").split()) & frozenset(_LIMITED)


def delegate(parent: str) -> frozenset[str]:
    """Switch on what `Limits` needs for groups made in `parent`, which is ours; return the controllers that are on.

    A group with controllers for its children may have no processes of its own, so whoever is in it, the caller
    included, moves to a child of it. For a service whose manager delegates the group to it, once, at its start.
    """
    wanted = [name for name in read(f"{parent}/cgroup.controllers").split() if name in _LIMITED]
    if set(wanted) <= controllers(parent):
        return controllers(parent)
    with suppress(OSError):
        keeper = f"{parent}/{KEEPER}"
        with suppress(FileExistsError):
            os.mkdir(keeper, 0o755)
        for pid in read(f"{parent}/cgroup.procs").split():
            with suppress(OSError):  # it ended meanwhile, or is a thread of the kernel
                write(keeper, "cgroup.procs", pid)
    for name in wanted:
        with suppress(OSError):
            write(parent, "cgroup.subtree_control", f"+{name}")
    return controllers(parent)


def _plain(field: str) -> str:
    r"""Return a field of mountinfo with its octal escapes (`\040` for a space) undone."""
    first, *rest = field.split("\\")
    return first + "".join(chr(int(part[:3], 8)) + part[3:] for part in rest)
