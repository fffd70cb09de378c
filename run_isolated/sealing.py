"""Files that are believed to the last bit, or not at all: small ones, and streams of records.

Knows no tree. The invariants: what `unsealed` returns is what somebody sealed; when `read_sealed` comes to its end
without an error, what it yielded is what somebody wrote with `write_sealed`. Who that was, a check does not tell: such
files lie where no command has business, and are parsed as if one had written them. Nobody waits for what is no file.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import BinaryIO, TypeVar

import msgspec

from isolate.cas.digest import BLAKE3
from isolate.cas.foreign import open_plain
from isolate.errors import InvalidRecord, TooLarge

T = TypeVar("T", bound=msgspec.Struct)

_LENGTH_BYTES = 4
MAX_RECORD_BYTES = 1 << 28  # far beyond what is written; more means that these are not our bytes
MAX_SEALED_BYTES = 16 << 20


def sealed(value: msgspec.Struct) -> bytes:
    """Return the bytes of a file with `value`; raises TooLarge."""
    body = msgspec.msgpack.encode(value)
    if len(body) > MAX_SEALED_BYTES - BLAKE3.digest_bytes:
        raise TooLarge(f"{len(body)} bytes are too many to be kept of a tree")
    return BLAKE3.digest(body) + body


def write_whole(path: Path, value: msgspec.Struct) -> None:
    """Give a file with `value`, new or in the place of whatever is there, its name; raises OSError, TooLarge."""
    coming = path.with_name(f"{path.name}-{os.urandom(6).hex()}")
    coming.write_bytes(sealed(value))
    os.rename(coming, path)


def unsealed(path: Path, kind: type[T]) -> T | None:
    """Return what was sealed; None when there is nothing of the kind."""
    try:
        with open_plain(path) as file:
            content = file.read(MAX_SEALED_BYTES)
        check, body = content[: BLAKE3.digest_bytes], content[BLAKE3.digest_bytes :]
        return msgspec.msgpack.decode(body, type=kind) if BLAKE3.digest(body) == check else None
    except (OSError, msgspec.DecodeError):
        return None


def write_sealed(file: BinaryIO, records: Iterable[bytes]) -> None:
    """Write `records`, none of them empty, an end and a check; raises TooLarge."""
    hasher = BLAKE3.hasher()
    for record in records:
        if len(record) > MAX_RECORD_BYTES:
            raise TooLarge(f"A record of {len(record)} bytes is too long to be kept of a tree")
        hasher.update(record)
        file.write(len(record).to_bytes(_LENGTH_BYTES, "little") + record)
    file.write(bytes(_LENGTH_BYTES) + hasher.digest())


def read_sealed(file: BinaryIO) -> Iterator[bytes]:
    """Yield what was written; raises InvalidRecord for anything else, at the latest at the end."""
    hasher = BLAKE3.hasher()
    while length := int.from_bytes(_exactly(file, _LENGTH_BYTES), "little"):
        if length > MAX_RECORD_BYTES:
            raise InvalidRecord(f"A record of {length} bytes in a kept tree")
        record = _exactly(file, length)
        hasher.update(record)
        yield record
    if file.read(BLAKE3.digest_bytes + 1) != hasher.digest():
        raise InvalidRecord("The list of a kept tree is damaged: its check differs")


def _exactly(file: BinaryIO, length: int) -> bytes:
    data = file.read(length)
    if len(data) != length:
        raise InvalidRecord("The list of a kept tree is cut off")
    return data
