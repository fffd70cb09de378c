"""Large content cut by what it holds: the same bytes give the same chunks wherever they stand.

Knows no digests and no stores. The invariants: the chunks in order are the content; where they are cut depends on the
content alone, not on how it is read; memory is two buffers whatever the size of the file.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import cycle
from typing import Protocol

from fastcdc import fastcdc

MIN_BYTES, AVERAGE_BYTES, MAX_BYTES = 512 << 10, 1 << 20, 4 << 20
BUFFER_BYTES = 2 * MAX_BYTES  # so that every reading completes a chunk


class Readable(Protocol):
    """A raw or buffered binary file."""

    def readinto(self, buffer: memoryview, /) -> int | None: ...


def chunks(file: Readable) -> Iterator[memoryview]:
    """Yield the chunks of what is left in `file`, which must block; each is valid until the next is asked for.

    All have MIN_BYTES to MAX_BYTES, the last may be shorter. Raises what reading raises.
    """
    for window in windows(file):
        yield from window


def windows(file: Readable) -> Iterator[list[memoryview]]:
    """Yield the same chunks, those of one reading together; they are valid until the next but one is asked for."""
    tail = memoryview(b"")  # read and not cut yet
    ended = False
    for buffer in cycle([memoryview(bytearray(BUFFER_BYTES)), memoryview(bytearray(BUFFER_BYTES))]):
        held = len(tail)
        buffer[:held] = tail
        while held < BUFFER_BYTES and not ended:
            got = file.readinto(buffer[held:])
            held += got or 0
            ended = not got
        if not held:
            return
        window, start = [], 0
        for length in _cuts(buffer[:held]):
            if start + length == held and length < MAX_BYTES and not ended:
                break  # it ends where the reading did, not where the content says
            window.append(buffer[start : start + length])
            start += length
        yield window
        tail = buffer[start:held]


def _cuts(content: memoryview) -> Iterator[int]:
    for chunk in fastcdc(content, MIN_BYTES, AVERAGE_BYTES, MAX_BYTES):
        yield chunk.length
