"""The calls of Linux that Python has no name for, and what `/proc` tells about processes.

Knows no command and no policy. `become_subreaper` and `die_with_parent` change the calling process for good and are
meant for a fresh single-threaded one. Imports little, because the launcher pays for it with every run. On other systems
the changes are refused by returning False and `/proc` looks empty, so that callers fall back to process groups.
"""

from __future__ import annotations

import errno
import os
import signal
import sys
from collections.abc import Iterable
from contextlib import suppress

CLONE_NEWNS, CLONE_NEWUSER, _CLONE_NEWNET = 0x20000, 0x10000000, 0x40000000
MS_RDONLY, MS_NOSUID, MS_NODEV, MS_NOEXEC, MS_REC, MS_PRIVATE = 1, 2, 4, 8, 0x4000, 0x40000
_SIOCSIFFLAGS, _IFF_UP_RUNNING = 0x8914, 0x41
_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36
_FICLONE = 0x40049409
_NO_MORE = "this machine allows no more namespaces, see /proc/sys/user"  # no matter of disks
_ZOMBIE, _STOPPED = b"Z", {b"T", b"t"}
_PROC = "/proc"
O_PATH = getattr(os, "O_PATH", os.O_RDONLY)  # a handle that needs no rights to what it names


class Process:
    """One process as `/proc/<pid>/stat` has it."""

    __slots__ = ("group", "parent", "pid", "state")

    def __init__(self, pid: int, parent: int, group: int, state: bytes) -> None:
        self.pid, self.parent, self.group, self.state = pid, parent, group, state

    @property
    def alive(self) -> bool:
        """Whether it can still do anything: a zombie only waits for its parent."""
        return self.state != _ZOMBIE


def become_subreaper() -> bool:
    """Adopt orphans among our descendants, also those that left their session; False where there is no such thing."""
    return _prctl(_PR_SET_CHILD_SUBREAPER, 1)


def die_with_parent(signal_number: int, parent: int) -> bool:
    """Ask for `signal_number` when the process `parent` ends; it is sent at once when that has happened already.

    The kernel watches the *thread* that started us, so a receiver that is not killed checks `os.getppid()`.
    """
    done = _prctl(_PR_SET_PDEATHSIG, signal_number)
    if os.getppid() != parent:
        os.kill(os.getpid(), signal_number)
    return done


def leave_network() -> str:
    """Move to a network namespace of our own, with nothing but a loopback; returns why that is not possible, or "".

    Whoever is not root needs a user namespace for it, in which it is called what it was called before.
    """
    if not sys.platform.startswith("linux"):
        return "A run without network needs Linux"
    try:
        leave(_CLONE_NEWNET)
    except OSError as error:
        return f"A run without network is not allowed here: {error.strerror}"
    try:
        _raise_loopback()
    except OSError as error:
        return f"A run without network is not possible here: {error.strerror}"
    return ""


def leave(namespaces: int) -> None:
    """Move to namespaces of our own; raises OSError.

    Whoever may not needs a user namespace for it as well, in which it is called what it was called before: until it
    executes something, it may there what root may.
    """
    user, group = os.geteuid(), os.getegid()
    try:
        unshare(namespaces)
    except OSError:
        unshare(CLONE_NEWUSER | namespaces)
        map_ids("self", f"{user} {user} 1", f"{group} {group} 1", set_groups=False)


def unshare(namespaces: int) -> None:
    """Move to new namespaces of these kinds; raises OSError."""
    import ctypes

    library = ctypes.CDLL(None, use_errno=True)
    if library.unshare(namespaces):
        number = ctypes.get_errno()
        raise OSError(number, _NO_MORE) if number == errno.ENOSPC else _error(number)


def map_ids(process: int | str, users: str, groups: str, *, set_groups: bool) -> None:
    """Say what the users and groups of a process that is new in its user namespace are called there."""
    texts = [("uid_map", users), ("gid_map", groups)]
    for name, text in texts if set_groups else [("setgroups", "deny"), *texts]:
        with open(f"{_PROC}/{process}/{name}", "w", encoding="ascii") as file:
            file.write(text)


def mount(source: str, target: str, kind: str, flags: int, options: str = "") -> None:
    """Mount `source`, or change the mount at `target`, as `flags` say; raises OSError."""
    import ctypes

    library = ctypes.CDLL(None, use_errno=True)
    texts = [os.fsencode(text) for text in (source, target, kind)]
    if library.mount(*texts, ctypes.c_ulong(flags), os.fsencode(options)):
        raise _error(ctypes.get_errno())


def _error(number: int) -> OSError:
    return OSError(number, os.strerror(number))


def _raise_loopback() -> None:
    """Switch 127.0.0.1 on: it is off in a new namespace, and much local work needs it."""
    import fcntl
    import socket

    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        request = b"lo".ljust(16, b"\0") + _IFF_UP_RUNNING.to_bytes(2, sys.byteorder)
        fcntl.ioctl(any_socket, _SIOCSIFFLAGS, request.ljust(40, b"\0"))


def _prctl(option: int, value: int) -> bool:
    if not sys.platform.startswith("linux"):
        return False
    import ctypes  # the launcher needs it, its owner does not

    return bool(ctypes.CDLL(None, use_errno=True).prctl(option, value, 0, 0, 0) == 0)


def share_bytes(reading: int, writing: int) -> str:
    """Let the empty file `writing` have the bytes of `reading` without copying them; returns why not, or ""."""
    if not sys.platform.startswith("linux"):
        return "Sharing the bytes of files needs Linux"
    import fcntl

    try:
        fcntl.ioctl(writing, _FICLONE, reading)
    except OSError as error:
        return f"this file system does not let files share bytes: {error.strerror}"
    return ""


def mount_of(descriptor: int) -> tuple[int, int]:
    """Return what differs between two mounts, also of one file system, where that can be known.

    Raises OSError when it cannot be looked at now, which must not be taken for another mount.
    """
    mount = 0
    with suppress(FileNotFoundError, PermissionError), open(f"{_PROC}/self/fdinfo/{descriptor}", "rb") as lines:
        for line in lines:
            if line.startswith(b"mnt_id:"):
                mount = int(line.removeprefix(b"mnt_id:"))
    return os.fstat(descriptor).st_dev, mount


def processes() -> list[Process]:
    """Return every process we can see."""
    return [found for pid in _pids() if (found := _process(pid)) is not None]


def is_stopped(pid: int) -> bool:
    """Whether a process does nothing until somebody lets it go on."""
    found = _process(pid)
    return found is not None and found.state in _STOPPED


def end_of(pid: int) -> int | None:
    """Return a descriptor that can be read from once our child `pid` has ended; None where there is no such thing."""
    if sys.platform.startswith("linux"):
        with suppress(OSError):  # a kernel before 5.3
            return os.pidfd_open(pid)
    return None


def _pids() -> list[int]:
    try:
        return [int(name) for name in os.listdir(_PROC) if name.isdigit()]
    except OSError:
        return []


def _process(pid: int) -> Process | None:
    stat = _read(f"{_PROC}/{pid}/stat")
    # The name, in parentheses, may hold anything; state, parent and group follow the last one.
    fields = stat[stat.rfind(b")") + 2 :].split(None, 3)
    return Process(pid, int(fields[1]), int(fields[2]), fields[0]) if len(fields) > 2 else None


def _read(path: str) -> bytes:
    try:
        with open(path, "rb") as file:
            return file.read()
    except OSError:  # it ended meanwhile, or belongs to somebody else
        return b""


def descendants(everyone: Iterable[Process], ancestor: int) -> list[Process]:
    """Return those of `everyone` that stem from `ancestor`, nearest first."""
    children: dict[int, list[Process]] = {}
    for process in everyone:
        children.setdefault(process.parent, []).append(process)
    found: list[Process] = []
    generation = children.pop(ancestor, [])
    while generation:
        found += generation
        generation = [child for process in generation for child in children.pop(process.pid, [])]
    return found


def of_directory(directory: str, variable: str, *, by_place: bool = True) -> list[Process]:
    """Return processes that belong to `directory`: by `variable` in their initial environment, or by working in it."""
    mark = os.fsencode(f"{variable}={directory}")
    return [
        process
        for process in processes()
        if process.pid != os.getpid()
        and process.alive
        and (
            (by_place and _works_in(process.pid, directory))
            or mark in _read(f"{_PROC}/{process.pid}/environ").split(b"\0")
        )
    ]


def _works_in(pid: int, directory: str) -> bool:
    try:
        return (os.readlink(f"{_PROC}/{pid}/cwd") + "/").startswith(directory + "/")
    except OSError:
        return False


def kill(victims: Iterable[Process]) -> None:
    """Send SIGKILL to each of `victims`; one that is gone or not ours is passed over."""
    for process in victims:
        with suppress(OSError):
            os.kill(process.pid, signal.SIGKILL)


def kill_groups(victims: Iterable[Process], spare: int) -> None:
    """Send SIGKILL to the process groups of `victims`, except to the group `spare`.

    A whole group is hit at one moment, which a process that forks faster than we can look does not survive. Only for
    descendants: their groups are in sessions of their own, so no stranger is in them.
    """
    for group in {process.group for process in victims} - {0, 1, spare}:
        with suppress(OSError):
            os.killpg(group, signal.SIGKILL)
