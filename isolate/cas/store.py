"""The `BlobStore` protocol: what every place that keeps blobs can do.

Batches are the primitive: a request, an await and a transaction per file are what makes such systems slow, and a single
blob is a batch of one. Knows no trees, no transport and no disk. Every implementation passes
`tests/contract/test_blob_store.py`.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from isolate.cas.block import Absent, Block, ChunkList
from isolate.cas.digest import Blob, Namespace

MAX_BATCH = 100_000  # digests per call: 3.2 MB of BLAKE3 digests, one index transaction


@dataclass(frozen=True, slots=True)
class Written:
    """What a `write` did: blobs newly stored, blobs that were there already, plain bytes newly stored."""

    stored: int
    present: int
    size_bytes: int


class BlobStore(Protocol):
    """A place that keeps blobs of one namespace.

    Never gives wrong bytes: what comes in is verified before it counts, what goes out is checked by its record. The
    empty blob is never stored: it is present everywhere, and callers do not ask for it. Every method may raise
    Unavailable (retry) or Refused (do not).
    """

    @property
    def namespace(self) -> Namespace:
        """The namespace all digests here belong to."""
        ...

    async def missing(self, blobs: Sequence[Blob]) -> list[Blob]:
        """Return those of `blobs` this store lacks, in order; what is present is kept for another `promised_s`.

        At most MAX_BATCH of them, else TooLarge.
        """
        ...

    async def write(self, blocks: AsyncIterator[Block]) -> Written:
        """Store every blob of `blocks`; returns when all are verified, durable and visible.

        Raises UploadCorrupt at the first block that is not what it says (whole blocks before it stay stored), NoSpace.
        """
        ...

    async def compose(self, blob: Blob, chunks: Sequence[Blob]) -> None:
        """Make `blob` from `chunks` in this order; returns when it is verified, durable and visible.

        Raises ChunksMissing, UploadCorrupt when the content differs, InvalidInput when the sizes do not add up.
        """
        ...

    def read(self, blobs: Sequence[Blob]) -> AsyncIterator[Block | ChunkList | Absent]:
        """Yield recipes of the composed blobs asked for, blocks that together hold the others, and what is absent.

        In the store's own order; blocks may hold more than was asked for. Chunks are not followed: read them next.
        """
        ...
