"""The records of the block format: encode, decode, verify; the same bytes on the wire and on disk.

Pure: knows no file, no transport and no store. The invariant: a record that was decoded keeps every limit of the format
and its `check` was right; `layout.py` judged its header before anything was allocated on its word. What a payload holds
is believed only by `Block.contents()`, which verifies each digest.

Layout, little-endian; `check` is the first 8 bytes of the BLAKE3 of the record with this field zero::

    IBK1  codec 1, algo 1, reserved 2, count 4, plain 4, payload 4, check 8; count x (digest, size 4); payload
    IBR1  algo 1, digest, size 8, count 4, check 8; count x (digest, size 4)
    IBA1  algo 1, count 4, check 8; count x digest
    IBX1  length 4, check 8; JSON object
    IBZ1  check 8
"""

from __future__ import annotations

import itertools
import json
import struct
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from isolate.cas.codec import zstd_decompress
from isolate.cas.digest import Algorithm, Blob, Codec
from isolate.cas.layout import (
    ABSENT,
    BLOCK,
    BLOCK_HEAD,
    CHECK_BYTES,
    END,
    ERROR,
    MAX_ENTRIES,
    MAX_HEADER_BYTES,
    MAX_PLAIN_BYTES,
    NO_CHECK,
    RECIPE,
    Layout,
    layout_of,
    record_length,
    sealed,
)
from isolate.cas.shrinking import Content, is_worth_trying, shrunk
from isolate.errors import BlobCorrupt, InvalidRecord

__all__ = [
    "MAX_ENTRIES", "MAX_HEADER_BYTES", "MAX_PLAIN_BYTES", "Absent", "Block", "ChunkList", "End", "Record",
    "StreamError", "check_recipe", "check_record", "decode_record", "encode_record", "open_record",
    "record_length",
]  # fmt: skip


@dataclass(frozen=True, slots=True)
class Block:
    """Contents of one or more blobs, encoded together."""

    algorithm: Algorithm
    codec: Codec
    entries: tuple[Blob, ...]
    payload: bytes | memoryview
    # The bytes it travels as: a store appends and serves blocks unchanged, so nobody should hash them again.
    _record: bytes = field(default=b"", init=False, repr=False, compare=False)

    @property
    def plain_size(self) -> int:
        """Bytes of all contents together."""
        return sum(size for _, size in self.entries)

    @classmethod
    def pack(cls, algorithm: Algorithm, contents: Sequence[tuple[Blob, Content]], level: int | None) -> Block:
        """Return the block of `contents` in this order; as they are when `level` is None or they do not shrink.

        Trusts the caller that each content has its digest. Raises InvalidRecord past the limits of the format.
        """
        plain = contents[0][1] if len(contents) == 1 else b"".join([content for _, content in contents])
        if level is not None and not is_worth_trying(plain, level):
            level = None
        return _packed(algorithm, contents, plain, level)

    @classmethod
    def squeezed(cls, algorithm: Algorithm, contents: Sequence[tuple[Blob, Content]], level: int | None) -> Block:
        """Do what `pack` does without a trial, which costs a tenth more: for contents that will probably shrink."""
        plain = contents[0][1] if len(contents) == 1 else b"".join([content for _, content in contents])
        return _packed(algorithm, contents, plain, level)

    def encode(self) -> bytes:
        """Return the record; a block that was packed or decoded has it already."""
        if self._record:
            return self._record
        head = (BLOCK, self.codec.value, self.algorithm.code, 0, len(self.entries), self.plain_size, len(self.payload))
        return sealed(BLOCK_HEAD.pack(*head, NO_CHECK), _encode_entries(self.entries), self.payload)

    def plain(self) -> memoryview:
        """Return all contents, one behind the other; of them only the size is verified. Raises InvalidRecord."""
        plain_bytes = self.plain_size
        if self.codec is Codec.ZSTD:
            plain = memoryview(zstd_decompress(self.payload, plain_bytes))
        else:
            plain = memoryview(self.payload)
        if len(plain) != plain_bytes:
            raise InvalidRecord(f"Block holds {len(plain)} bytes of content, its entries say {plain_bytes}")
        return plain

    def pieces(self) -> Iterator[tuple[Blob, memoryview]]:
        """Yield each blob with its content, not verified: for who verifies a whole that they are parts of.

        Raises InvalidRecord.
        """
        plain, start = self.plain(), 0
        for blob in self.entries:
            yield blob, plain[start : start + blob.size]
            start += blob.size

    def contents(self) -> Iterator[tuple[Blob, memoryview]]:
        """Yield each blob with its content, verified; raises InvalidRecord, or BlobCorrupt at the first wrong one."""
        digest = self.algorithm.digest
        for blob, content in self.pieces():
            found = digest(content)
            if found != blob.digest:
                raise BlobCorrupt(blob, found)
            yield blob, content


@dataclass(frozen=True, slots=True)
class ChunkList:
    """A large blob as the ordered list of its chunks (a recipe)."""

    blob: Blob
    chunks: tuple[Blob, ...]


@dataclass(frozen=True, slots=True)
class Absent:
    """Digests a `read` asked for and the store does not hold."""

    digests: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class StreamError:
    """The sender cannot go on; `payload` is the body of the error reply it would have sent."""

    payload: dict[str, Any]


@dataclass(frozen=True, slots=True)
class End:
    """The stream is complete; without it, it was cut off."""


Record = Block | ChunkList | Absent | StreamError | End


def encode_record(record: Record, algorithm: Algorithm) -> bytes:
    """Return the bytes of `record`, whose digests are of `algorithm`."""
    match record:
        case Block():
            return record.encode()
        case ChunkList(blob, chunks):
            check_recipe(blob, chunks)
            head = RECIPE + struct.pack(
                f"<B{algorithm.digest_bytes}sQI8s", algorithm.code, *blob, len(chunks), NO_CHECK
            )
            return sealed(head, _encode_entries(chunks))
        case Absent(digests):
            head = ABSENT + struct.pack("<BI8s", algorithm.code, len(digests), NO_CHECK)
            return sealed(head, b"".join(digests))
        case StreamError(payload):
            body = json.dumps(payload).encode()
            return sealed(ERROR + struct.pack("<I8s", len(body), NO_CHECK), body)
        case End():
            return sealed(END + NO_CHECK)


def decode_record(data: bytes | memoryview, algorithm: Algorithm) -> Record:
    """Return the record that is exactly `data`; raises InvalidRecord, also for digests of another algorithm."""
    data = bytes(data)
    check_record(data)
    return open_record(data, algorithm)


def check_record(data: bytes) -> None:
    """Raise InvalidRecord unless `data` is as long as it says and its check is right."""
    layout = _whole_layout(data)
    if layout.check_of(data) != data[layout.check_at : layout.check_at + CHECK_BYTES]:
        raise InvalidRecord("Record is damaged: its check differs")


def open_record(data: bytes, algorithm: Algorithm) -> Record:
    """Do what `decode_record` does but for the check, for who calls `check_record` later, in a thread."""
    layout = _whole_layout(data)
    if layout.algorithm is not None and layout.algorithm is not algorithm:
        raise InvalidRecord(f"Record holds {layout.algorithm.name} digests where {algorithm.name} is expected")
    decoder = _DECODERS.get(data[:4])
    if decoder is None:
        raise InvalidRecord("Old bytes are only kept, never sent")
    return decoder(data, layout)


def _whole_layout(data: bytes) -> Layout:
    layout = layout_of(data)
    if layout is None or layout.length != len(data):
        raise InvalidRecord("Record is cut off or has bytes behind its end")
    return layout


def check_recipe(blob: Blob, chunks: Sequence[Blob]) -> None:
    """Raise InvalidRecord unless `chunks` can be a recipe of `blob`; says nothing about contents."""
    if not 1 <= len(chunks) <= MAX_ENTRIES:
        raise InvalidRecord(f"Recipe has {len(chunks)} chunks, allowed are 1 to {MAX_ENTRIES}")
    if any(not 0 < size <= MAX_PLAIN_BYTES for _, size in chunks):
        raise InvalidRecord(f"Recipe has a chunk of 0 or more than {MAX_PLAIN_BYTES} bytes")
    if (total := sum(size for _, size in chunks)) != blob.size:
        raise InvalidRecord(f"Recipe has chunks of {total} bytes for a blob of {blob.size}")


def _decode_block(data: bytes, layout: Layout) -> Block:
    assert layout.algorithm is not None
    _, codec, _, _, _, plain, _, _ = BLOCK_HEAD.unpack_from(data)
    payload_at = layout.body_at + layout.entries_bytes
    entries = _decode_entries(data, layout)
    _check_block(entries, plain)
    return _on_record(Block(layout.algorithm, Codec(codec), entries, memoryview(data)[payload_at:]), data)


def _decode_recipe(data: bytes, layout: Layout) -> ChunkList:
    assert layout.algorithm is not None
    digest, size = struct.unpack_from(f"<{layout.algorithm.digest_bytes}sQ", data, 5)
    recipe = ChunkList(Blob(digest, size), _decode_entries(data, layout))
    check_recipe(recipe.blob, recipe.chunks)
    return recipe


def _decode_absent(data: bytes, layout: Layout) -> Absent:
    assert layout.algorithm is not None
    digests = struct.iter_unpack(f"{layout.algorithm.digest_bytes}s", data[layout.body_at :])
    return Absent(tuple(itertools.chain.from_iterable(digests)))


def _decode_error(data: bytes, layout: Layout) -> StreamError:
    try:
        payload = json.loads(data[layout.body_at :])
    except (ValueError, RecursionError) as error:
        raise InvalidRecord("Error record holds no JSON") from error
    if not isinstance(payload, dict):
        raise InvalidRecord("Error record holds no JSON object")
    return StreamError(payload)


def _decode_end(_data: bytes, _layout: Layout) -> End:
    return End()


_DECODERS: dict[bytes, Callable[[bytes, Layout], Record]] = {
    BLOCK: _decode_block,
    RECIPE: _decode_recipe,
    ABSENT: _decode_absent,
    ERROR: _decode_error,
    END: _decode_end,
}


def _packed(algorithm: Algorithm, contents: Sequence[tuple[Blob, Content]], plain: Content, level: int | None) -> Block:
    """Return the block of `contents`, `plain` together, on its record: who packs it pays for the check."""
    entries = tuple([blob for blob, _ in contents])
    _check_block(entries, len(plain))
    codec, payload = (Codec.IDENTITY, plain) if level is None else shrunk(plain, level)
    record = Block(algorithm, codec, entries, payload).encode()
    return _on_record(Block(algorithm, codec, entries, memoryview(record)[-len(payload) :]), record)


def _on_record(block: Block, record: bytes) -> Block:
    object.__setattr__(block, "_record", record)
    return block


def _check_block(entries: Sequence[Blob], plain_bytes: int) -> None:
    if not 1 <= len(entries) <= MAX_ENTRIES:
        raise InvalidRecord(f"Block has {len(entries)} entries, allowed are 1 to {MAX_ENTRIES}")
    if plain_bytes > MAX_PLAIN_BYTES:
        raise InvalidRecord(f"Block has {plain_bytes} bytes of content, limit {MAX_PLAIN_BYTES}")
    sizes = [size for _, size in entries]
    if sum(sizes) != plain_bytes:
        raise InvalidRecord(f"Block has {plain_bytes} bytes of content, its entries say {sum(sizes)}")
    if not all(sizes):
        raise InvalidRecord("Block has an entry without content: the empty blob is never sent")


def _encode_entries(entries: Sequence[Blob]) -> bytes:
    return b"".join([digest + size.to_bytes(4, "little") for digest, size in entries])


def _decode_entries(data: bytes, layout: Layout) -> tuple[Blob, ...]:
    assert layout.algorithm is not None
    with memoryview(data) as view, view[layout.body_at : layout.body_at + layout.entries_bytes] as table:
        return tuple(map(Blob._make, struct.iter_unpack(f"<{layout.algorithm.digest_bytes}sI", table)))
