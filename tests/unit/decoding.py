"""What a record says, or why it is refused."""

from __future__ import annotations

import pytest

from isolate.cas.block import Block, Record, decode_record
from isolate.cas.digest import BLAKE3, Algorithm
from isolate.errors import InvalidRecord


def decoded(data: bytes, algorithm: Algorithm = BLAKE3) -> Record:
    return decode_record(data, algorithm)


def opened(data: bytes) -> list[bytes]:
    """Return the contents in a block of BLAKE3."""
    record = decoded(data)
    assert isinstance(record, Block)
    return [bytes(content) for _, content in record.contents()]


def refuses(data: bytes, because: str, algorithm: Algorithm = BLAKE3) -> None:
    """See that a record is refused, and why."""
    with pytest.raises(InvalidRecord, match=because):
        decode_record(data, algorithm)
