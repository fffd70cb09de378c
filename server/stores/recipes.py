"""Verifies that chunks, in their order, are a large blob, and makes the recipe that says so.

Knows no index and no queue: it is given the places of the chunks. The invariant: a recipe is returned only after every
byte of the blob went through the hash.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from functools import partial

from isolate.cas.block import MAX_PLAIN_BYTES, Block, ChunkList, encode_record
from isolate.cas.digest import Algorithm, Blob, Hasher
from isolate.errors import ChunksMissing, UploadCorrupt
from server.stores.budget import ByteBudget
from server.stores.reading import RecordSource, Wanted
from server.stores.sqlite_index import Kind, Lookup


async def verified_recipe(
    blob: Blob, chunks: Sequence[Blob], lookup: Lookup, source: RecordSource, algorithm: Algorithm, budget: ByteBudget
) -> bytes:
    """Return the record of the recipe; raises ChunksMissing, UploadCorrupt.

    `lookup` is of the digests of `chunks`; what is read counts against `budget`, one block at a time.
    """
    absent = dict.fromkeys(chunk.digest for chunk in chunks if not _is_chunk(lookup, chunk))
    if absent:
        raise ChunksMissing(list(absent))
    for chunk in chunks:
        if lookup.places[chunk.digest].size != chunk.size:
            raise UploadCorrupt(chunk, b"")
    hasher = algorithm.parallel_hasher()
    gone: dict[bytes, None] = {}  # all that are bad are named at once, so that the sender comes back only once
    for wanted, run in _runs(lookup, chunks):
        async with budget.lease(wanted.row.length + MAX_PLAIN_BYTES):
            opened = await source.open([wanted], partial(_feed, run=run, hasher=hasher))
        gone.update(dict.fromkeys(await source.report(opened)))
    if gone:
        raise ChunksMissing(list(gone))
    if (found := hasher.digest()) != blob.digest:
        raise UploadCorrupt(blob, found)
    return encode_record(ChunkList(blob, tuple(chunks)), algorithm)


def _is_chunk(lookup: Lookup, chunk: Blob) -> bool:
    """Whether `chunk` is stored as itself: a composed blob is no chunk of another one."""
    place = lookup.places.get(chunk.digest)
    return place is not None and lookup.blocks[place.block].kind is Kind.BLOCK


def _runs(lookup: Lookup, chunks: Sequence[Blob]) -> Iterator[tuple[Wanted, list[bytes]]]:
    """Yield neighbouring chunks that lie in one block together, in the order of the blob."""
    for block, run in itertools.groupby(chunks, key=lambda chunk: lookup.places[chunk.digest].block):
        digests = [chunk.digest for chunk in run]
        entries = {lookup.places[digest].entry: digest for digest in digests}
        yield Wanted(lookup.blocks[block], entries), digests


def _feed(block: Block, _wanted: Wanted, run: Sequence[bytes], hasher: Hasher) -> tuple[Block, ...]:
    """Hash the chunks of one run; keeps no block.

    Each chunk was verified when it came, and its record was checked just now; whether they are the blob, the digest of
    the whole says.
    """
    plain, places, start = block.plain(), {}, 0
    for digest, size in block.entries:
        places[digest] = plain[start : start + size]
        start += size
    for digest in run:
        hasher.update(places[digest])
    return ()
