"""Large content cut by what it holds: the same bytes give the same chunks wherever they stand.

Knows no digests and no stores. The invariants: the chunks in order are the content; where they are cut depends on the
content alone, not on how it is read; memory is one buffer whatever the size of the file.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

from fastcdc import fastcdc

MIN_BYTES, AVERAGE_BYTES, MAX_BYTES = 512 << 10, 1 << 20, 4 << 20
BUFFER_BYTES = 4 * MAX_BYTES  # a cut needs MAX_BYTES of foresight, so three quarters of what is read are cut at once


class Readable(Protocol):
    """A raw or buffered binary file."""

    def readinto(self, buffer: memoryview, /) -> int | None: ...


def chunks(file: Readable) -> Iterator[memoryview]:
    """Yield the chunks of what is left in `file`, which must block; each is valid until the next is asked for.

    All have MIN_BYTES to MAX_BYTES, the last may be shorter. Raises what reading raises.
    """
    buffer = memoryview(bytearray(BUFFER_BYTES))
    held = 0  # bytes at the start of the buffer that are not cut yet
    ended = False
    while not ended or held:
        while held < BUFFER_BYTES and not ended:
            got = file.readinto(buffer[held:])
            held += got or 0
            ended = not got
        start = 0
        for length in _cuts(buffer[:held]):
            if not ended and start + MAX_BYTES > held:
                break  # more content could move this cut
            yield buffer[start : start + length]
            start += length
        buffer[: held - start] = buffer[start:held]
        held -= start


def _cuts(content: memoryview) -> Iterator[int]:
    for chunk in fastcdc(content, MIN_BYTES, AVERAGE_BYTES, MAX_BYTES):
        yield chunk.length
