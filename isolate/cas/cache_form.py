"""What a file of a cache, or a directory of a tree, shows beside what is in it: mode, owner, attributes, flags.

Knows no digests. The invariant: two that we make at one time, in one way, have the same form, so one that differs was
changed by somebody else; labels that the system gives each by itself are no part of it.
"""

from __future__ import annotations

import os
import stat
from contextlib import suppress
from typing import NamedTuple

from isolate.cas.inode_flags import Marks, marks_of

_NEW_FILE = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW
_READ_FILE = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
_LABELS = {"security.selinux", "security.ima", "security.evm"}
_ACCESS_LISTS = "system.posix_acl_"  # a directory may give them to all that is made in it: then what they say counts


class Form(NamedTuple):
    """Of one file or directory."""

    mode: int
    user: int
    group: int
    attributes: frozenset[tuple[str, bytes]]
    marks: Marks


def form_of(descriptor: int) -> Form:
    """Return the form of an open file or directory; raises OSError."""
    status = os.fstat(descriptor)
    mode, attributes = stat.S_IMODE(status.st_mode), _attributes(descriptor)
    return Form(mode, status.st_uid, status.st_gid, attributes, marks_of(descriptor))


def fresh_form(temporary: str, mode: int) -> Form:
    """Return the form of a new file, made under a temporary name and removed again; raises OSError."""
    descriptor = os.open(temporary, _NEW_FILE, mode)
    try:
        return form_of(descriptor)
    finally:
        os.close(descriptor)
        os.unlink(temporary)


def open_to_read(path: str, mode: int | None) -> int:
    """Open a file of ours, also one that a command took our rights from, if we may give it those of `mode`."""
    try:
        return os.open(path, _READ_FILE)
    except PermissionError:  # which says nothing of the bytes
        if mode is None:
            raise
        _make_readable(path, mode & 0o500)
        return os.open(path, _READ_FILE)


def _make_readable(path: str, mode: int) -> None:
    with suppress(AttributeError):  # a system without O_PATH
        descriptor = os.open(path, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC)  # not what a link leads to
        try:
            if stat.S_ISREG(os.fstat(descriptor).st_mode):
                os.chmod(f"/proc/self/fd/{descriptor}", mode)
        finally:
            os.close(descriptor)


def _attributes(descriptor: int) -> frozenset[tuple[str, bytes]]:
    found: set[tuple[str, bytes]] = set()
    with suppress(OSError, AttributeError):  # a file system, or a system, without them
        for name in os.listxattr(descriptor):
            if name not in _LABELS:
                found.add((name, os.getxattr(descriptor, name) if name.startswith(_ACCESS_LISTS) else b""))
    return frozenset(found)
