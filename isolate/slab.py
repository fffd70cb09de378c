"""Consecutive entries of a tree, on their way through the stages of an archive together.

Knows no stage. Large enough that a stage costs little for each entry, small enough that several are held at a time.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import cast

from isolate.cas.digest import Blob
from isolate.entries import Entry
from isolate.hands import Batch
from isolate.scan import Found, Stamp
from isolate.sender import JOB_BYTES, JOB_FILES

SLAB_ENTRIES = 4_096  # when nothing has to be hashed
SLABS_IN_FLIGHT = 16
# Slabs whose files are being read or wait for their upload: what the crew keeps of them should still be there.
UNSENT_SLABS = 6

# What `Entry(...)` and `Blob(...)` do, without a call in Python for each of a hundred thousand.
fast_entry = cast("Callable[[tuple[object, ...]], Entry]", partial(tuple.__new__, Entry))
fast_blob = cast("Callable[[tuple[object, ...]], Blob]", partial(tuple.__new__, Blob))


@dataclass(slots=True)
class Slab:
    """Consecutive entries on their way through the stages."""

    entries: list[Found] = field(default_factory=list)
    blobs: list[Blob | None] = field(default_factory=list)
    learnt: list[tuple[int, Blob, Stamp]] = field(default_factory=list)  # index and what is to be remembered
    unknown: list[int] = field(default_factory=list)  # indexes of files that have to be hashed
    unknown_bytes: int = 0
    files: int = 0
    hashing: asyncio.Task[Batch] | None = None
    hand: int | None = None  # who of the crew hashed it
    read_at_ns: int = 0

    @property
    def is_full(self) -> bool:
        return len(self.unknown) >= JOB_FILES or self.unknown_bytes >= JOB_BYTES or len(self.entries) >= SLAB_ENTRIES
