"""Files of checked frames, for what is remembered between runs and may be lost: `length 4 · check 8 · payload`.

Knows nothing of what is in a payload. The invariants: a payload is given back as it was written or not at all; the
check is the first 8 bytes of its BLAKE3. What is no regular file is never read, so that nobody is waited for.
"""

from __future__ import annotations

import os
import stat
import struct
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from isolate.cas.digest import BLAKE3

MAX_FRAME_BYTES = 64 << 20  # no writer comes near; a damaged length must not ask for more
KEPT_S = 30 * 86_400.0  # what nobody used for so long goes
ABANDONED_S = 86_400.0  # what was not finished for so long never will be: its writer was killed
UNFINISHED = "tmp"  # how the names of files begin that are being written

_HEAD = struct.Struct("<I8s")


@contextmanager
def open_frames(path: Path) -> Iterator[BinaryIO]:
    """Give the file for `read_frame`; raises OSError, and ValueError for what is no file, such as a link or a pipe."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOFOLLOW)
    with open(descriptor, "rb") as file:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise ValueError("it is no file")
        yield file


def clean_frames(folder: Path, now_s: float) -> None:
    """Delete the files that nobody used for long, and what killed writers left; what cannot be deleted stays."""
    with suppress(OSError), os.scandir(folder) as entries:
        for entry in entries:
            kept_s = ABANDONED_S if entry.name.startswith(UNFINISHED) else KEPT_S
            with suppress(OSError):  # a directory, or somebody else was faster
                if entry.stat(follow_symlinks=False).st_mtime < now_s - kept_s:
                    os.unlink(entry.path)


def write_frame(file: BinaryIO, payload: bytes) -> None:
    """Append one frame."""
    file.write(_HEAD.pack(len(payload), BLAKE3.digest(payload)[:8]))
    file.write(payload)


def read_frame(file: BinaryIO) -> bytes | None:
    """Return the next payload, None at the end; raises ValueError, struct.error when it is damaged."""
    head = file.read(_HEAD.size)
    if not head:
        return None
    length, check = _HEAD.unpack(head)
    if length > MAX_FRAME_BYTES:
        raise ValueError(f"a frame of {length} bytes")
    payload = file.read(length)
    if len(payload) != length or BLAKE3.digest(payload)[:8] != check:
        raise ValueError("a frame is cut off or has changed")
    return payload
