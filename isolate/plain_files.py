"""Reading of files that a person puts there: whole, with an end, and never waiting for anybody.

Knows no content. The invariant: what is no regular file, after links, is refused before a byte of it is read, and no
more is read than was allowed; a pipe or a device stops nobody.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path

_KINDS = (
    (stat.S_ISDIR, "a directory"),
    (stat.S_ISFIFO, "a pipe"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
)


class NotPlain(OSError):
    """There is something of that name, but no file of a size that is read."""

    def __init__(self, reason: str) -> None:
        super().__init__(None, reason)

    def __str__(self) -> str:
        return self.strerror or ""


def read_plain(path: Path, most_bytes: int) -> bytes:
    """Return the content; raises OSError, which says what is wrong in `strerror`, FileNotFoundError without a file."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except FileNotFoundError as error:
        if path.is_symlink():
            raise NotPlain("it is a link to what is not there") from error
        raise
    try:
        mode = os.fstat(descriptor).st_mode
        if not stat.S_ISREG(mode):
            kind = next((name for holds, name in _KINDS if holds(mode)), "something else")
            raise NotPlain(f"it is {kind}, not a file")
        with open(descriptor, "rb", closefd=False) as file:
            content = file.read(most_bytes + 1)
    finally:
        os.close(descriptor)
    if len(content) > most_bytes:
        raise NotPlain(f"it is longer than {most_bytes} bytes")
    return content
