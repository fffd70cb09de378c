"""Files of checked frames, for what is remembered between runs and may be lost: `length 4 · check 8 · payload`.

Knows nothing of what is in a payload. The invariant: a payload is given back as it was written or not at all; the check
is the first 8 bytes of its BLAKE3.
"""

from __future__ import annotations

import struct
from typing import BinaryIO

from isolate.cas.digest import BLAKE3

MAX_FRAME_BYTES = 64 << 20  # no writer comes near; a damaged length must not ask for more

_HEAD = struct.Struct("<I8s")


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
