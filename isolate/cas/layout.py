"""Headers of records: how long a record is, where its parts lie, and the limits a header may not break.

Knows nothing of what the parts mean. The invariant: a header that breaks a limit is refused before anybody buffers or
allocates what it announces.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

from isolate.cas.codec import zstd_bound
from isolate.cas.digest import ALGORITHMS, BLAKE3, Algorithm, Codec
from isolate.errors import InvalidRecord

MAX_PLAIN_BYTES = 16 << 20  # what one decoder must be able to hold
MAX_ENTRIES = 65_536  # of a block or a recipe: 4.7 MB of entries at worst
MAX_ABSENT = 100_000  # a whole batch may be absent
MAX_ERROR_BYTES = 64 << 10
MAX_SEGMENT_BYTES = 4 << 20  # of old bytes; what their reader holds at a time
MAX_HEADER_BYTES = 4 + 2 + 64 + 8 + 8 + 4 + 4 + 8  # old bytes of SHA-512: with this much, every length is known

BLOCK, RECIPE, ABSENT, ERROR, END = b"IBK1", b"IBR1", b"IBA1", b"IBX1", b"IBZ1"
OLD = b"IBO1"  # only in packs; `old_bytes.py` makes and reads it
BLOCK_HEAD = struct.Struct("<4sBBHIII8s")
CHECK_BYTES = 8
NO_CHECK = bytes(CHECK_BYTES)


def record_length(head: bytes | bytearray | memoryview) -> int | None:
    """Return how long the record is that begins with `head`, or None while `head` is too short to tell.

    MAX_HEADER_BYTES always tell. Raises InvalidRecord for an unknown kind and for any limit the header breaks.
    """
    layout = layout_of(head)
    return None if layout is None else layout.length


@dataclass(frozen=True, slots=True)
class Layout:
    """Where things are in a record, from its header alone."""

    algorithm: Algorithm | None
    check_at: int
    body_at: int
    entries_bytes: int
    length: int

    def check_of(self, data: bytes) -> bytes:
        """Return the check that `data` should carry."""
        return _check(data[: self.check_at], NO_CHECK, memoryview(data)[self.check_at + CHECK_BYTES :])


def layout_of(head: bytes | bytearray | memoryview) -> Layout | None:
    """Return the layout that `head` announces, None while it is too short; raises InvalidRecord past a limit."""
    magic = bytes(head[:4])
    if magic not in _LAYOUTS:
        if any(known.startswith(magic) for known in _LAYOUTS):
            return None
        raise InvalidRecord(f"{magic!r} does not begin a record")
    return _LAYOUTS[magic](head)


def _block_layout(head: bytes | bytearray | memoryview) -> Layout | None:
    if len(head) < BLOCK_HEAD.size:
        return None
    _, codec, code, reserved, count, plain, payload, _ = BLOCK_HEAD.unpack_from(head)
    algorithm = _algorithm(code)
    if reserved:
        raise InvalidRecord("Block has reserved bits set")
    if not 1 <= count <= MAX_ENTRIES:
        raise InvalidRecord(f"Block has {count} entries, allowed are 1 to {MAX_ENTRIES}")
    if not count <= plain <= MAX_PLAIN_BYTES:
        raise InvalidRecord(f"Block of {count} entries declares {plain} bytes of content, limit {MAX_PLAIN_BYTES}")
    limit = {Codec.IDENTITY.value: plain, Codec.ZSTD.value: zstd_bound(plain)}.get(codec)
    if limit is None:
        raise InvalidRecord(f"Block has the unknown codec {codec}")
    if not 0 < payload <= limit or (codec == Codec.IDENTITY.value and payload != plain):
        raise InvalidRecord(f"Block has a payload of {payload} bytes for {plain} bytes of content")
    entries_bytes = count * (algorithm.digest_bytes + 4)
    size = BLOCK_HEAD.size
    return Layout(algorithm, size - CHECK_BYTES, size, entries_bytes, size + entries_bytes + payload)


def _recipe_layout(head: bytes | bytearray | memoryview) -> Layout | None:
    if len(head) < 5:
        return None
    algorithm = _algorithm(head[4])
    count_at = 5 + algorithm.digest_bytes + 8
    if len(head) < count_at + 4 + CHECK_BYTES:
        return None
    (count,) = struct.unpack_from("<I", head, count_at)
    if not 1 <= count <= MAX_ENTRIES:
        raise InvalidRecord(f"Recipe has {count} chunks, allowed are 1 to {MAX_ENTRIES}")
    entries_bytes = count * (algorithm.digest_bytes + 4)
    body_at = count_at + 4 + CHECK_BYTES
    return Layout(algorithm, count_at + 4, body_at, entries_bytes, body_at + entries_bytes)


def _absent_layout(head: bytes | bytearray | memoryview) -> Layout | None:
    if len(head) < 9 + CHECK_BYTES:
        return None
    code, count = struct.unpack_from("<BI", head, 4)
    algorithm = _algorithm(code)
    if count > MAX_ABSENT:
        raise InvalidRecord(f"Absent list has {count} digests, limit {MAX_ABSENT}")
    body_at = 9 + CHECK_BYTES
    return Layout(algorithm, 9, body_at, 0, body_at + count * algorithm.digest_bytes)


def _error_layout(head: bytes | bytearray | memoryview) -> Layout | None:
    if len(head) < 8 + CHECK_BYTES:
        return None
    (length,) = struct.unpack_from("<I", head, 4)
    if length > MAX_ERROR_BYTES:
        raise InvalidRecord(f"Error record has {length} bytes, limit {MAX_ERROR_BYTES}")
    return Layout(None, 8, 8 + CHECK_BYTES, 0, 8 + CHECK_BYTES + length)


def _end_layout(head: bytes | bytearray | memoryview) -> Layout | None:
    return None if len(head) < 4 + CHECK_BYTES else Layout(None, 4, 12, 0, 12)


def _old_layout(head: bytes | bytearray | memoryview) -> Layout | None:
    if len(head) < 6:
        return None
    algorithm = _algorithm(head[4])
    sizes_at = 6 + algorithm.digest_bytes
    body_at = sizes_at + 24 + CHECK_BYTES
    if len(head) < body_at:
        return None
    _, encoded, number, count = struct.unpack_from("<QQII", head, sizes_at)
    if count != max(1, -(-encoded // MAX_SEGMENT_BYTES)) or number >= count:
        raise InvalidRecord(f"Old bytes call themselves segment {number} of {count} of {encoded} bytes")
    length = min(MAX_SEGMENT_BYTES, encoded - number * MAX_SEGMENT_BYTES)
    return Layout(algorithm, body_at - CHECK_BYTES, body_at, 0, body_at + length)


_LAYOUTS = {
    OLD: _old_layout,
    BLOCK: _block_layout,
    RECIPE: _recipe_layout,
    ABSENT: _absent_layout,
    ERROR: _error_layout,
    END: _end_layout,
}


def _algorithm(code: int) -> Algorithm:
    try:
        return ALGORITHMS[code]
    except KeyError:
        raise InvalidRecord(f"Record has the unknown algorithm {code}") from None


def _check(*parts: bytes | memoryview) -> bytes:
    hasher = BLAKE3.hasher()
    for part in parts:
        hasher.update(part)
    return hasher.digest()[:CHECK_BYTES]


def sealed(head: bytes, *rest: bytes | memoryview) -> bytes:
    """Return the record, with the last bytes of `head` (so far zero) turned into its check."""
    return b"".join([head[:-CHECK_BYTES], _check(head, *rest), *rest])
