"""An index of millions of blobs, made by bulk insertion into what a real server created.

The packs are files of the right length without content (holes): what starting and `missing` look at is there, and takes
no space. Blobs of one block have digests far from each other, as contents do; `batch` gives blobs that lie together, as
those of one tree do.
"""

from __future__ import annotations

import hashlib
import sqlite3
import uuid
from collections.abc import Iterator
from pathlib import Path

PER_BLOCK = 25  # blobs of a block of 1 MiB in a real tree
BLOCK_BYTES = 320_000  # of that, compressed
PACK_BLOCKS = 800  # about 256 MiB
STRIDE = 7_368_787  # a prime: spreads the blobs of a block over the digests
ROWS_AT_ONCE = 100_000
NAMESPACE = "blake3-zstd"
LONG_AGO_H = 400_000  # touched before the promise: `missing` has to note that they were asked for


def digest(number: int, blobs: int) -> bytes:
    """Return the digest of blob `number`: they ascend with the numbers, so that insertion is fast."""
    head = (number << 64) // blobs
    return head.to_bytes(8, "big") + hashlib.blake2b(number.to_bytes(8, "big"), digest_size=24).digest()


def batch(first: int, count: int, blobs: int) -> bytes:
    """Return the digests of `count` blobs that lie in blocks behind each other."""
    back = pow(STRIDE, -1, blobs)
    return b"".join(digest(place * back % blobs, blobs) for place in range(first, first + count))


def make(data: Path, blobs: int) -> None:
    """Fill the index of the empty data directory `data`; `blobs` is no multiple of STRIDE."""
    packs = data / "packs" / NAMESPACE
    packs.mkdir(mode=0o700, parents=True, exist_ok=True)
    blocks = -(-blobs // PER_BLOCK)
    database = sqlite3.connect(data / "blobs.sqlite", isolation_level=None)
    database.execute("PRAGMA synchronous = OFF")
    database.execute("INSERT INTO namespace (id, name) VALUES (1, ?) ON CONFLICT DO NOTHING", (NAMESPACE,))
    database.execute("BEGIN")
    for number in range(-(-blocks // PACK_BLOCKS)):
        inside = min(PACK_BLOCKS, blocks - number * PACK_BLOCKS)
        name = str(uuid.UUID(int=number + 1, version=4))
        with (packs / f"{name}.pack").open("wb") as file:
            file.truncate(inside * BLOCK_BYTES)
        row = (number + 1, name, inside * BLOCK_BYTES, inside * BLOCK_BYTES)
        database.execute("INSERT INTO pack VALUES (?, ?, 1, 1, ?, ?, 0)", row)
    statement = "INSERT INTO block (id, pack, offset, length, kind, touched_h, namespace) VALUES (?, ?, ?, ?, 0, ?, 1)"
    database.executemany(statement, (
        (block + 1, block // PACK_BLOCKS + 1, block % PACK_BLOCKS * BLOCK_BYTES, BLOCK_BYTES, LONG_AGO_H)
        for block in range(blocks)
    ))  # fmt: skip
    database.execute("COMMIT")
    for first in range(0, blobs, ROWS_AT_ONCE):
        database.execute("BEGIN")
        rows = _rows(range(first, min(blobs, first + ROWS_AT_ONCE)), blobs)
        database.executemany("INSERT INTO blob VALUES (1, ?, ?, ?, ?)", rows)
        database.execute("COMMIT")
    database.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    database.close()


def _rows(numbers: range, blobs: int) -> Iterator[tuple[bytes, int, int, int]]:
    for number in numbers:
        place = number * STRIDE % blobs
        yield digest(number, blobs), place // PER_BLOCK + 1, place % PER_BLOCK, 40_000
