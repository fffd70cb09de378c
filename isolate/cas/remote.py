"""A blob store behind HTTP: the transfer API as a `BlobStore`.

Knows no server's insides and keeps nothing. What `read` yields had its record's `check` verified and nothing more:
contents are verified by whoever opens a block (`Block.contents()`), near where they are needed and in parallel.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from isolate.cas import wire
from isolate.cas.block import (
    Absent,
    Block,
    ChunkList,
    End,
    Record,
    StreamError,
    check_recipe,
    encode_record,
)
from isolate.cas.digest import Blob, Namespace
from isolate.cas.store import MAX_BATCH, Written
from isolate.cas.stream import RecordReader
from isolate.errors import (
    ChunksMissing,
    InvalidDigest,
    InvalidInput,
    InvalidRecord,
    IsolateError,
    Refused,
    TooLarge,
    Unavailable,
    UploadCorrupt,
)
from isolate.http import HttpClient, Response
from isolate.problem import error_of

COMMIT_S = 180.0  # what a server may take to verify and sync what it was sent, on a slow disk under load
COMPOSE_PAUSE_S = 1.0  # between two looks at a running verification when the server names no time


class HttpStore:
    """Implements `isolate.cas.store.BlobStore` over one client, which it does not own."""

    def __init__(self, client: HttpClient, namespace: Namespace) -> None:
        self._client = client
        self._namespace = namespace

    @property
    def namespace(self) -> Namespace:
        return self._namespace

    async def info(self) -> wire.StoreInfo:
        """Return the server's limits and promises for this namespace."""
        async with self._client.request("GET", self._path("info")) as response:
            body = await self._body(response)
            with self._believed():
                return wire.StoreInfo.parse(body)

    async def missing(self, blobs: Sequence[Blob]) -> list[Blob]:
        if len(blobs) > MAX_BATCH:
            raise TooLarge(f"{len(blobs)} digests in one call, limit {MAX_BATCH}")
        body = wire.pack_digests((blob.digest for blob in blobs), self._namespace.algorithm)
        if not body:
            return []
        sent = {"Content-Type": wire.DIGESTS_TYPE}
        async with self._client.request("POST", self._path("missing"), data=body, headers=sent) as response:
            self._check(response, wire.DIGESTS_TYPE)
            with self._believed():
                absent = wire.parse_digests(await response.read(wire.MAX_DIGESTS_BYTES), self._namespace.algorithm)
        lacking = set(absent)
        missing = [blob for blob in blobs if blob.digest in lacking]
        # What is not named counts as stored: an answer that is not about this question must not be taken for one.
        if len(missing) != len(absent) or lacking - {blob.digest for blob in missing}:
            raise self._stranger("names digests that it was not asked for, or names one twice")
        return missing

    async def write(self, blocks: AsyncIterator[Block]) -> Written:
        """See `BlobStore.write`. One streamed request: blocks leave as they come.

        Retried only as long as no block was taken; later, Unavailable means: ask `missing` and start over.
        """
        source = _Source(blocks, self._namespace)
        async with self._client.request(
            "POST",
            self._path("blocks"),
            data=source.records,
            headers={"Content-Type": wire.RECORDS_TYPE},
            timeout_s=COMMIT_S,
            also=(400,),
            may_retry=lambda: not source.started,
        ) as response:
            if response.status == 400:
                raise await self._refusal(response)
            body = await self._body(response)
            with self._believed():
                written = wire.parse_written(body)
        if written.stored + written.present != source.entries:
            raise Unavailable(
                f"{self._client.base_url} acknowledges {written.stored + written.present} of {source.entries} blobs"
            )
        return written

    async def compose(self, blob: Blob, chunks: Sequence[Blob]) -> None:
        """See `BlobStore.compose`. While the server verifies a large blob, asks again at its pace."""
        check_recipe(blob, chunks)
        body = json.dumps(wire.compose_body(blob, chunks)).encode()
        while True:
            async with self._client.request(
                "POST",
                self._path("compose"),
                data=body,
                headers={"Content-Type": wire.JSON_TYPE},
                timeout_s=COMMIT_S,
                also=(400, 409),
            ) as response:
                if response.status in {400, 409}:
                    raise await self._refusal(response, blob.size)
                await self._body(response)
                if response.status != 202:
                    return
                pause_s = COMPOSE_PAUSE_S if response.retry_after_s is None else response.retry_after_s
            await self._client.clock.sleep(pause_s)

    async def read(self, blobs: Sequence[Blob]) -> AsyncIterator[Block | ChunkList | Absent]:
        """See `BlobStore.read`. Takes any number; a broken stream is resumed as long as each part brings something.

        Nothing but the `check` of each record is verified here.
        """
        empty = self._namespace.empty.digest
        digests = [digest for digest in dict.fromkeys(blob.digest for blob in blobs) if digest != empty]
        for start in range(0, len(digests), MAX_BATCH):
            left = dict.fromkeys(digests[start : start + MAX_BATCH])
            while left:
                before = len(left)
                try:
                    async for record in self._read(list(left)):
                        for digest in _digests_of(record):
                            left.pop(digest, None)
                        yield record
                    break
                except Unavailable:
                    if len(left) == before:
                        raise
                    self._client.monitor.count("resumed_reads")

    async def _read(self, digests: list[bytes]) -> AsyncIterator[Block | ChunkList | Absent]:
        """Yield the records of one request."""
        reader = RecordReader(self._namespace.algorithm)
        async with self._client.request(
            "POST",
            self._path("read"),
            data=wire.pack_digests(digests, self._namespace.algorithm),
            headers={"Content-Type": wire.DIGESTS_TYPE},
        ) as response:
            self._check(response, wire.RECORDS_TYPE)
            async for piece in response.chunks():
                for record in self._decoded(reader, piece):
                    if isinstance(record, StreamError):
                        raise error_of(503, json.dumps(record.payload).encode(), self._client.base_url)
                    if not isinstance(record, End):
                        yield record
        if not reader.ended:
            raise Unavailable(f"Reply of {self._client.base_url} was cut off")

    def _decoded(self, reader: RecordReader, piece: bytes) -> Iterator[Record]:
        try:
            yield from reader.feed(piece)
        except InvalidRecord as error:
            raise Unavailable(f"Reply of {self._client.base_url} is damaged: {error}") from error

    async def _body(self, response: Response) -> Any:
        """Return the JSON of a reply; raises Refused for any other."""
        self._check(response, wire.JSON_TYPE)
        return await response.json()

    def _check(self, response: Response, media_type: str) -> None:
        """Raise Refused unless a reply is of the type and the extent that a store gives it."""
        found = response.headers.get("Content-Type", "").partition(";")[0].strip().lower()
        if found != media_type:
            raise self._stranger(f"answered {found[:80] or 'without a type'} instead of {media_type}")
        if not response.is_delimited:
            raise self._stranger("does not tell where its answer ends")

    @contextmanager
    def _believed(self) -> Iterator[None]:
        """Raise Refused where a reply breaks a rule: the mistake is not that of who asked."""
        try:
            yield
        except InvalidInput as error:
            raise self._stranger(f"gave a wrong answer: {error}") from error

    def _stranger(self, reason: str) -> Refused:
        return Refused(f"{self._client.base_url} is not an isolate server: it {reason}", 0)

    def _path(self, call: str) -> str:
        return wire.call_path(self._namespace.name, call)

    async def _refusal(self, response: Response, size: int = 0) -> IsolateError:
        """Return what a 400 or 409 says about blobs, as the store it stands for would have raised it."""
        error, problem = await response.problem()
        parse = self._namespace.algorithm.parse_hex
        try:
            match problem:
                case {"code": "digest_mismatch", "digest": str(digest), "found": str(found)}:
                    corrupt = UploadCorrupt(Blob(parse(digest), size), bytes.fromhex(found))
                    corrupt.args = error.args  # the server's words: it knows the size
                    return corrupt
                case {"code": "chunks_missing", "missing": [*digests]} if digests:
                    return ChunksMissing([parse(str(digest)) for digest in digests])
        except (InvalidDigest, ValueError):
            pass  # a garbled detail; the error itself stands
        return error


class _Source:
    """The body of an upload: the records of `blocks`, then the end mark."""

    def __init__(self, blocks: AsyncIterator[Block], namespace: Namespace) -> None:
        self.started = False
        self.entries = 0  # that were sent so far
        self._blocks = blocks
        self._namespace = namespace

    async def records(self) -> AsyncIterator[bytes]:
        algorithm = self._namespace.algorithm
        self.started = True
        async for block in self._blocks:
            if block.algorithm is not algorithm:
                raise InvalidRecord(f"Block of {block.algorithm.name} digests in namespace {self._namespace.name}")
            self.entries += len(block.entries)
            yield block.encode()
        yield encode_record(End(), algorithm)


def _digests_of(record: Block | ChunkList | Absent) -> Iterator[bytes]:
    match record:
        case Block():
            return (digest for digest, _ in record.entries)
        case ChunkList():
            return iter((record.blob.digest,))
        case Absent():
            return iter(record.digests)
