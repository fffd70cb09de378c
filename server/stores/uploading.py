"""The parts of an upload: verified records, their turn in the stream they came in, and what became of them.

Knows no store. The invariant: what is called verified has a right check, and was decompressed and hashed, entry by
entry.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from isolate.cas.block import Block, check_record
from isolate.cas.digest import Blob, Namespace
from isolate.cas.store import Written
from isolate.errors import BlobCorrupt, InvalidRecord, UploadCorrupt
from server.stores.sqlite_index import Kind


@dataclass(frozen=True, slots=True)
class Upload:
    """A verified record on its way to a pack."""

    record: bytes
    kind: Kind
    blobs: tuple[Blob, ...]
    parts: frozenset[int] = frozenset()
    held_bytes: int = 0  # of memory, until it is committed


@dataclass(frozen=True, slots=True)
class Turn:
    """The place of a block in its stream: blocks are verified side by side and committed in order."""

    number: int
    before: asyncio.Event
    after: asyncio.Event


def passed() -> asyncio.Event:
    event = asyncio.Event()
    event.set()
    return event


class Tally:
    """What became of the blocks of one `write`; the earliest failure wins."""

    def __init__(self) -> None:
        self.written = Written(0, 0, 0)
        self.error: Exception | None = None
        self._number = 0
        self.verifying = 0  # blocks that are here and not yet on their way to a commit
        self.has_ended = False  # no more blocks will come

    @property
    def waits_for_commit(self) -> bool:
        """Whether a commit of what there is would answer the upload."""
        return self.has_ended and not self.verifying

    def add(self, more: Written) -> None:
        so_far = self.written
        self.written = Written(
            so_far.stored + more.stored, so_far.present + more.present, so_far.size_bytes + more.size_bytes
        )

    def take_error(self) -> Exception | None:
        """Return the earliest failure, and forget it: it knows the calls it went through, and they know this."""
        error, self.error = self.error, None
        return error

    def failed_before(self, number: int) -> bool:
        """Whether a block in front of this one was bad: what comes behind it is not wanted."""
        return self.error is not None and self._number < number

    def fail(self, number: int, error: Exception) -> None:
        if self.error is None or number < self._number:
            self.error, self._number = error, number


def verified(block: Block, namespace: Namespace, told: Callable[[tuple[Blob, ...], memoryview], object]) -> bytes:
    """Return the record of `block` once its check is right and every content in it has its digest.

    `told` hears of its entries then, and the last content: all of a block of one entry.
    """
    if block.algorithm is not namespace.algorithm:
        raise InvalidRecord(f"Block of {block.algorithm.name} digests in namespace {namespace.name}")
    record = block.encode()
    check_record(record)
    try:
        _, content = deque(block.contents(), maxlen=1).pop()
    except BlobCorrupt as error:
        raise UploadCorrupt(error.blob, error.found) from error
    told(block.entries, content)
    return record
