"""Small files that are believed to the last bit, or not at all.

Knows no tree. The invariant: what `unsealed` returns was written by `sealed`.
"""

from __future__ import annotations

from pathlib import Path
from typing import TypeVar

import msgspec

from isolate.cas.digest import BLAKE3

T = TypeVar("T", bound=msgspec.Struct)


def sealed(value: msgspec.Struct) -> bytes:
    """Return the bytes of a file with `value`."""
    body = msgspec.msgpack.encode(value)
    return BLAKE3.digest(body) + body


def unsealed(path: Path, kind: type[T]) -> T | None:
    """Return what was sealed; None when there is nothing of the kind."""
    try:
        content = path.read_bytes()
        check, body = content[: BLAKE3.digest_bytes], content[BLAKE3.digest_bytes :]
        return msgspec.msgpack.decode(body, type=kind) if BLAKE3.digest(body) == check else None
    except (OSError, msgspec.DecodeError):
        return None
