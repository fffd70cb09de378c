"""Records and zstd frames built by hand, so that tests can break one rule at a time and still have the check right."""

from __future__ import annotations

import struct
from collections.abc import AsyncIterator, Sequence

from isolate.cas.block import Block
from isolate.cas.digest import BLAKE3, Algorithm, Blob

FRAME_MAGIC = struct.pack("<I", 0xFD2FB528)


def check(data: bytes) -> bytes:
    return BLAKE3.digest(data)[:8]


def seal(data: bytes, check_at: int) -> bytes:
    """Return `data` with the right check at `check_at`."""
    blank = data[:check_at] + bytes(8) + data[check_at + 8 :]
    return data[:check_at] + check(blank) + data[check_at + 8 :]


def entries_of(blobs: Sequence[Blob]) -> bytes:
    return b"".join(digest + struct.pack("<I", size) for digest, size in blobs)


def raw_block(
    blobs: Sequence[Blob],
    payload: bytes,
    *,
    codec: int = 0,
    algo: int = 4,
    reserved: int = 0,
    count: int | None = None,
    plain: int | None = None,
    payload_bytes: int | None = None,
) -> bytes:
    """Return an `IBK1` record as it should be, except for what is said."""
    head = struct.pack(
        "<4sBBHIII",
        b"IBK1",
        codec,
        algo,
        reserved,
        len(blobs) if count is None else count,
        sum(blob.size for blob in blobs) if plain is None else plain,
        len(payload) if payload_bytes is None else payload_bytes,
    )
    return seal(head + bytes(8) + entries_of(blobs) + payload, len(head))


def raw_recipe(blob: Blob, chunks: Sequence[Blob], *, algo: int = 4, count: int | None = None) -> bytes:
    """Return an `IBR1` record as it should be, except for what is said."""
    size_and_count = struct.pack("<QI", blob.size, len(chunks) if count is None else count)
    head = b"IBR1" + bytes([algo]) + blob.digest + size_and_count
    return seal(head + bytes(8) + entries_of(chunks), len(head))


def raw_frame(
    content: bytes,
    *,
    declared: int | None = -1,
    window: int = 0x50,
    dictionary: int | None = None,
    filler: bytes = b"",
) -> bytes:
    """Return a zstd frame of stored blocks (≤ 128 KiB each), not single-segment, so that `window` is its window byte.

    `declared` is the content size in the header, None for none; `filler` follows the last block.
    """
    descriptor = (0 if declared is None else 2 << 6) | (0 if dictionary is None else 3)
    head = FRAME_MAGIC + bytes([descriptor, window])
    if dictionary is not None:
        head += struct.pack("<I", dictionary)
    if declared is not None:
        head += struct.pack("<I", len(content) if declared == -1 else declared)
    pieces = [content[start : start + (128 << 10)] for start in range(0, len(content), 128 << 10)] or [b""]
    body = b"".join(struct.pack("<I", (piece is pieces[-1]) | len(piece) << 3)[:3] + piece for piece in pieces)
    return head + body + filler


def blob_of(content: bytes, algorithm: Algorithm = BLAKE3) -> Blob:
    return Blob(algorithm.digest(content), len(content))


def block_of(*contents: bytes, algorithm: Algorithm = BLAKE3, level: int | None = 1) -> Block:
    return Block.pack(algorithm, [(blob_of(content, algorithm), content) for content in contents], level)


async def stream(*blocks: Block) -> AsyncIterator[Block]:
    """Yield blocks as an upload does."""
    for block in blocks:
        yield block
