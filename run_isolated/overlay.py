"""A tree under a layer of its own: overlayfs, mounted where only one command sees it.

Runs in a fresh single-threaded process that then executes the command; knows no tree and no cache, only directories.
The mount lives in a mount namespace of that process: it ends with its last process, however that ends, and nobody else
ever sees it. The invariant: after `enter` the command can reach what is below the `hidden` directories, the lower one
among them, by no path, and cannot undo that: the namespace it executes in is owned by a user namespace in which it is
called what it was called, whose mounts are locked. Whoever was root there is root over files, not over this machine.

Imports little, because the launcher pays for it.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from run_isolated import linux

_FOLDER = linux.O_PATH | getattr(os, "O_DIRECTORY", 0) | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_CLOEXEC", 0)
_INITIAL_USERS = 0xEFFFFFFD  # inode of the user namespace that a machine starts with, the same in every kernel
# The upper layer is thrown away, so nothing of it need reach the disk: without `volatile` each end of a command writes
# out its whole file system. Older kernels know fewer options; the first that are taken are used.
_OPTIONS = ("redirect_dir=on,volatile", "volatile", "")
_OPTIONS_OF_USERS = ("userxattr,volatile", "userxattr")


def enter(lower: bytes, upper: bytes, work: bytes, target: bytes, *hidden: bytes) -> str:
    """Mount `lower` under `upper` at `target` and hide `hidden`, for this process alone; returns why not, or "".

    After a refusal this process is good for nothing else.
    """
    if not sys.platform.startswith("linux"):
        return "overlays need Linux"
    doing = "a mount namespace"
    try:
        linux.leave(linux.CLONE_NEWNS)
        linux.mount("none", "/", "", linux.MS_REC | linux.MS_PRIVATE)
        doing = "an overlay"
        _mount(lower, upper, work, os.fsdecode(target))
        doing = "hiding the cache"
        for path in hidden:
            flags = linux.MS_RDONLY | linux.MS_NOSUID | linux.MS_NODEV | linux.MS_NOEXEC
            linux.mount("hidden", os.fsdecode(path), "tmpfs", flags, "size=4k,mode=555")
        doing = "a user namespace"
        _lock()
    except OSError as error:
        return f"{doing}: {error.strerror}"
    return ""


def trial(overlay: Sequence[bytes]) -> str:
    """Return what `enter` would return; done in a process that ends at once, and the mount with it."""
    told, tell = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.write(tell, enter(*overlay).encode(errors="backslashreplace"))
        finally:
            os._exit(0)
    os.close(tell)
    with os.fdopen(told, "rb") as pipe:
        problem = pipe.read().decode()
    _, status = os.waitpid(child, 0)
    return problem if status == 0 else "it was killed while it tried"


def _mount(lower: bytes, upper: bytes, work: bytes, target: str) -> None:
    """Mount by descriptors: no path is too long or has a comma, and none is shown to the command."""
    choices = _OPTIONS if _is_initial() else _OPTIONS_OF_USERS
    with _opened(lower, upper, work) as (below, above, aside):
        places = f"lowerdir=/proc/self/fd/{below},upperdir=/proc/self/fd/{above},workdir=/proc/self/fd/{aside}"
        for options in choices:
            try:
                linux.mount("overlay", target, "overlay", 0, f"{places},{options}".rstrip(","))
                break
            except OSError:
                if options == choices[-1]:
                    raise


@contextmanager
def _opened(*paths: bytes) -> Iterator[list[int]]:
    descriptors: list[int] = []
    try:
        descriptors.extend(os.open(path, _FOLDER) for path in paths)
        yield descriptors
    finally:
        for descriptor in descriptors:
            os.close(descriptor)


def _lock() -> None:
    """Move to a user namespace with the same names, and to a copy of the mounts in which it cannot unmount any.

    The names are given by a process that stays outside: we may not any more when we are in.
    """
    users, groups = _same("uid_map"), _same("gid_map")
    may_set_groups = _read("setgroups").strip() != "deny"
    ready, go = os.pipe()
    namer = os.fork()
    if namer == 0:
        code = 1
        try:
            os.close(go)
            if os.read(ready, 1):
                linux.map_ids(os.getppid(), users, groups, set_groups=may_set_groups)
                code = 0
        finally:
            os._exit(code)
    os.close(ready)
    try:
        linux.unshare(linux.CLONE_NEWUSER | linux.CLONE_NEWNS)
        os.write(go, b"!")
    finally:
        os.close(go)
        _, status = os.waitpid(namer, 0)
    if status:
        raise PermissionError(0, "the names of users cannot be kept")


def _same(name: str) -> str:
    """Return the map that leaves all users or groups their names."""
    rows = [line.split() for line in _read(name).splitlines()]
    return "\n".join(f"{first} {first} {count}" for first, _, count in rows)


def _read(name: str) -> str:
    with open(f"/proc/self/{name}", encoding="ascii") as file:
        return file.read()


def _is_initial() -> bool:
    return os.stat("/proc/self/ns/user").st_ino == _INITIAL_USERS
