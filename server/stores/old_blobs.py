"""Blobs of a namespace of 2020, byte for byte as its API received them: segments in packs of their own.

Knows no HTTP and no ticket. They are indexed beside the blocks of the same namespace, under its name with a suffix that
no namespace can have, so that one digest may rest in both forms. The invariants: a blob is visible only when its last
segment is durable and the whole was verified; an upload that fails gives its segments up; one segment of each upload
and each download is in memory.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Collection, Sequence
from dataclasses import dataclass, replace
from functools import partial

from isolate.cas.digest import Blob, Namespace
from isolate.cas.old_bytes import Segment, Unwrapping, head_bytes, segment_count
from isolate.errors import BlobCorrupt, BlobsMissing, InvalidRecord, IsolateError, Unavailable, UploadCorrupt
from server.stores.blobs import GROUP_BYTES, LocalBlobStores
from server.stores.committer import GroupCommitter
from server.stores.sqlite_index import BlockRow, Kind, Lookup
from server.stores.uploading import Upload

SUFFIX = "~old"  # `~` is in no namespace
INLINE_BYTES = 16 << 10  # hashed at once: a hop into a thread takes longer


@dataclass(frozen=True, slots=True)
class OldBlob:
    """A blob that is present, and where its segments are, in order."""

    blob: Blob
    rows: tuple[BlockRow, ...]

    @property
    def encoded_bytes(self) -> int:
        """Bytes as they were received, of all segments together."""
        return sum(row.length for row in self.rows) - len(self.rows) * head_bytes(len(self.blob.digest))


class OldBlobs:
    """Old bytes of one namespace; there is one object for each, because its appends must be in turn."""

    def __init__(self, stores: LocalBlobStores, namespace: Namespace) -> None:
        self._stores = stores
        self._namespace = replace(namespace, name=namespace.name + SUFFIX)
        self._committer: GroupCommitter[Upload, int] = GroupCommitter(
            self._commit, lambda upload: len(upload.record), GROUP_BYTES
        )

    async def find(self, digests: Collection[bytes]) -> dict[bytes, OldBlob]:
        """Return those of `digests` that are here; refreshes them."""
        return _old_blobs(await self._stores.presence.find(self._namespace, digests))

    async def find_readable(self, digests: Collection[bytes]) -> dict[bytes, OldBlob]:
        """The same for a reader, who may go on when nothing can be noted any more."""
        return _old_blobs(await self._stores.presence.find_readable(self._namespace, digests))

    async def store(self, blob: Blob, pieces: AsyncIterator[bytes], encoded_bytes: int, *, bulk: bool) -> None:
        """Store the encoded bytes of `blob`, which come as segments; returns when they are durable and visible.

        Raises UploadCorrupt, InvalidRecord; NoSpace, Unavailable. What `pieces` raises goes through.
        """
        algorithm, codec = self._namespace.algorithm, self._namespace.codec
        unwrapping, ids, number = Unwrapping(algorithm, codec, blob), list[int](), 0
        count = segment_count(encoded_bytes)
        try:
            async for data in pieces:
                segment = Segment(algorithm, codec, bulk, blob, encoded_bytes, number, data)
                number += 1
                last = number == count
                verify = partial(_verified, unwrapping, segment, last=last)
                is_small = max(len(data), blob.size) <= INLINE_BYTES
                record = verify() if is_small else await self._stores.run(verify)
                if last and ids and not await self._stores.index.touch(ids, self._stores.presence.hour()):
                    # A slow sender may take longer than anything is promised.
                    raise Unavailable("A part of the upload went before the rest came", retry_after_s=1.0)
                kind = Kind.OLD_LAST if last and ids else Kind.OLD
                id_ = await self._committer.add(Upload(record, kind, (blob,) * last, frozenset(ids * last)))
                if last and id_:
                    ids.clear()  # it keeps them
                elif not last:
                    ids.append(id_)
            if number != count:
                raise InvalidRecord(f"Blob {blob.digest.hex()} is cut off")
        except BlobCorrupt as error:
            raise UploadCorrupt(error.blob, error.found) from error
        finally:
            if ids:
                await self._give_up(ids)

    async def purge(self, digest: bytes) -> bool:
        """Give up a blob, whatever was promised; returns whether it was here."""
        found = (await self.find([digest])).get(digest)
        if found is not None:
            await self._stores.index.discard([row.id for row in found.rows])
        return found is not None

    async def segments(self, found: OldBlob) -> AsyncGenerator[Segment, None]:
        """Yield the segments of a blob, each checked; raises BlobsMissing when one turns out to be bad or gone."""
        for number, row in enumerate(found.rows):
            async with self._stores.egress.lease(2 * row.length):
                segment = await self._segment(found.blob, number, row)
            yield segment

    async def settle(self) -> None:
        """Return when no commit is under way."""
        await self._committer.close()

    async def _segment(self, blob: Blob, number: int, row: BlockRow) -> Segment:
        (row,), (data,) = await self._stores.presence.load([row])  # compaction may have moved it
        if data is None:
            raise BlobsMissing([blob.digest])
        try:
            decode = partial(Segment.decode, data, self._namespace.algorithm)
            segment = decode() if len(data) <= INLINE_BYTES else await self._stores.run(decode)
            if (segment.blob, segment.number) != (blob, number):
                raise InvalidRecord(f"Not segment {number} of blob {blob.digest.hex()}")
        except InvalidRecord as error:
            await self._stores.presence.condemn(row, str(error))
            raise BlobsMissing([blob.digest]) from error
        return segment

    async def _commit(self, group: Sequence[Upload]) -> list[int]:
        """Append what is new of a group, and return the ids of its records, 0 for a blob that is here already."""
        seen = set((await self._stores.presence.find(self._namespace, _digests(group))).places)
        fresh: list[Upload] = []
        for upload in group:
            if seen.isdisjoint(_digests([upload])):
                seen.update(_digests([upload]))
                fresh.append(upload)
        blobs = [[(digest, 0, size) for digest, size in upload.blobs] for upload in fresh]
        ids = await self._stores.append(self._namespace.name, fresh, blobs) if fresh else []
        by_upload = dict(zip(map(id, fresh), ids, strict=True))
        return [by_upload.get(id(upload), 0) for upload in group]

    async def _give_up(self, ids: Sequence[int]) -> None:
        try:
            await self._stores.index.discard(ids)
        except IsolateError as error:
            self._stores.monitor.problem(error)  # then they go when they are old


def _verified(unwrapping: Unwrapping, segment: Segment, *, last: bool) -> bytes:
    """Return the record of a segment once its content went through the hash."""
    unwrapping.check(segment.data, last=last)
    return segment.encode()


def _digests(uploads: Sequence[Upload]) -> set[bytes]:
    return {blob.digest for upload in uploads for blob in upload.blobs}


def _old_blobs(lookup: Lookup) -> dict[bytes, OldBlob]:
    found = {}
    for digest, place in lookup.places.items():
        ids = [*sorted(lookup.parts.get(place.block, ())), place.block]  # ids grow, so this is the order of upload
        found[digest] = OldBlob(Blob(digest, place.size), tuple(lookup.blocks[id_] for id_ in ids))
    return found
