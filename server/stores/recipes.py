"""Verifies that chunks, in their order, are a large blob, and makes the recipe that says so.

Knows no index and no queue: it is given the places of the chunks. The invariant: a recipe is returned only after every
byte of the blob went through the hash: when its chunks came, or now.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import partial

from isolate.cas.block import MAX_PLAIN_BYTES, Block, ChunkList, encode_record
from isolate.cas.digest import Algorithm, Blob, Hasher
from isolate.errors import ChunksMissing, UploadCorrupt
from server.stores.budget import ByteBudget
from server.stores.reading import RecordSource, Wanted
from server.stores.sqlite_index import Kind, Lookup

BATCH_BYTES = 8 << 20  # of content that is read and hashed at once: two hops between threads for each

_Run = tuple[Wanted, list[bytes]]


async def verified_recipe(
    blob: Blob,
    chunks: Sequence[Blob],
    lookup: Lookup,
    source: RecordSource,
    algorithm: Algorithm,
    budget: ByteBudget,
    known: bytes | None = None,
) -> bytes:
    """Return the record of the recipe; raises ChunksMissing, UploadCorrupt.

    `lookup` is of the digests of `chunks`; what is read counts against `budget`, a batch at a time. `known` is the
    digest of their contents together if these were hashed in this order before: then nothing is read.
    """
    absent = dict.fromkeys(chunk.digest for chunk in chunks if not _is_chunk(lookup, chunk))
    if absent:
        raise ChunksMissing(list(absent))
    for chunk in chunks:
        if lookup.places[chunk.digest].size != chunk.size:
            raise UploadCorrupt(chunk, b"")
    found = known or await _hashed(chunks, lookup, source, algorithm, budget)
    if found != blob.digest:
        raise UploadCorrupt(blob, found)
    return encode_record(ChunkList(blob, tuple(chunks)), algorithm)


async def _hashed(
    chunks: Sequence[Blob], lookup: Lookup, source: RecordSource, algorithm: Algorithm, budget: ByteBudget
) -> bytes:
    """Read all `chunks` and return their digest together; raises ChunksMissing."""
    hasher = algorithm.hasher()  # not one that shares its work out: chunks are too small to gain by that
    gone: dict[bytes, None] = {}  # all that are bad are named at once, so that the sender comes back only once
    for runs in _batches(_runs(lookup, chunks), lookup):
        feed = partial(_feed, runs={wanted.row.id: run for wanted, run in runs}, hasher=hasher)
        async with budget.lease(sum(wanted.row.length for wanted, _ in runs) + MAX_PLAIN_BYTES):
            opened = await source.open([wanted for wanted, _ in runs], feed)
        gone.update(dict.fromkeys(await source.report(opened)))
    if gone:
        raise ChunksMissing(list(gone))
    return hasher.digest()


def _is_chunk(lookup: Lookup, chunk: Blob) -> bool:
    """Whether `chunk` is stored as itself: a composed blob is no chunk of another one."""
    place = lookup.places.get(chunk.digest)
    return place is not None and lookup.blocks[place.block].kind is Kind.BLOCK


def _runs(lookup: Lookup, chunks: Sequence[Blob]) -> Iterator[_Run]:
    """Yield neighbouring chunks that lie in one block together, in the order of the blob."""
    for block, run in itertools.groupby(chunks, key=lambda chunk: lookup.places[chunk.digest].block):
        digests = [chunk.digest for chunk in run]
        entries = {lookup.places[digest].entry: digest for digest in digests}
        yield Wanted(lookup.blocks[block], entries), digests


def _batches(runs: Iterable[_Run], lookup: Lookup) -> Iterator[list[_Run]]:
    """Yield `runs` in batches of BATCH_BYTES or one run, none of which has a block twice."""
    batch: list[_Run] = []
    size_bytes = 0
    for wanted, run in runs:
        more_bytes = sum([lookup.places[digest].size for digest in run])
        is_there = any(wanted.row.id == other.row.id for other, _ in batch)
        if batch and (is_there or size_bytes + more_bytes > BATCH_BYTES):
            yield batch
            batch, size_bytes = [], 0
        batch.append((wanted, run))
        size_bytes += more_bytes
    if batch:
        yield batch


def _feed(block: Block, wanted: Wanted, runs: Mapping[int, Sequence[bytes]], hasher: Hasher) -> tuple[Block, ...]:
    """Hash the chunks of one run; keeps no block.

    Each chunk was verified when it came, and its record was checked just now; whether they are the blob, the digest of
    the whole says.
    """
    plain, places, start = block.plain(), {}, 0
    for digest, size in block.entries:
        places[digest] = plain[start : start + size]
        start += size
    for digest in runs[wanted.row.id]:
        hasher.update(places[digest])
    return ()
