"""The records of the block format: encode, decode, verify."""

from __future__ import annotations

from dataclasses import dataclass

from isolate.cas.digest import Algorithm, Blob, Codec


@dataclass(frozen=True, slots=True)
class Block:
    """Contents of one or more blobs, encoded together; `encode()` is the same bytes on the wire and on disk."""

    algorithm: Algorithm
    codec: Codec
    entries: tuple[Blob, ...]
    payload: bytes


@dataclass(frozen=True, slots=True)
class ChunkList:
    """A large blob as the ordered list of its chunks (a recipe)."""

    blob: Blob
    chunks: tuple[Blob, ...]


@dataclass(frozen=True, slots=True)
class Absent:
    """Digests a `read` asked for and the store does not hold."""

    digests: tuple[bytes, ...]
