"""Uploads on their way to the committer: which blocks share a commit, and that nobody waits for other senders."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence

import pytest

from isolate.cas.block import Block
from isolate.cas.digest import BLAKE3, Namespace
from isolate.cas.store import Written
from isolate.errors import NoSpace, UploadCorrupt
from server.stores.budget import ByteBudget
from server.stores.committer import GroupCommitter
from server.stores.receiving import ENTRY_BYTES, Receiver
from server.stores.streamed import PassingBlob
from server.stores.uploading import Upload
from tests.records import blob_of, block_of, stream

HELD_BYTES = 2 + ENTRY_BYTES  # of the budget, for a block of one byte


async def settle() -> None:
    """Let every task that can go on go on."""
    for _ in range(20):
        await asyncio.sleep(0)


class Site:
    """A receiver whose commits are counted; verifying takes no time."""

    def __init__(self, budget_bytes: int = 1 << 20, enough_bytes: int = 1 << 20) -> None:
        self.groups: list[int] = []  # how many records each commit had
        self.error: Exception | None = None
        self.committer = GroupCommitter(self._commit, lambda upload: upload.held_bytes, 1 << 20, enough_bytes)
        self.budget = ByteBudget(budget_bytes, "tests", when_short=self.committer.press)
        namespace = Namespace.parse("blake3-zstd")
        self.receiver = Receiver(namespace, self.budget, self._run, self.committer)

    async def _run(self, call: Callable[[], bytes]) -> bytes:
        return call()

    async def _commit(self, group: Sequence[Upload]) -> list[Written]:
        self.groups.append(len(group))
        await asyncio.sleep(0)
        if self.error is not None:
            raise self.error
        return [Written(len(upload.blobs), 0, 0) for upload in group]

    def receive(self, blocks: AsyncIterator[Block]) -> asyncio.Task[Written]:
        return asyncio.ensure_future(self.receiver.receive(blocks, PassingBlob(BLAKE3)))


class Slow:
    """An upload that sends when it is told to."""

    def __init__(self) -> None:
        self._queue: asyncio.Queue[Block | None] = asyncio.Queue()

    def send(self, *contents: bytes) -> None:
        for content in contents:
            self._queue.put_nowait(block_of(content))

    def end(self) -> None:
        self._queue.put_nowait(None)

    async def blocks(self) -> AsyncIterator[Block]:
        while (block := await self._queue.get()) is not None:
            yield block


async def test_the_blocks_of_an_upload_share_a_commit() -> None:
    site, slow = Site(), Slow()
    upload = site.receive(slow.blocks())
    for number in range(5):
        slow.send(b"%d" % number)
        await settle()
    assert site.groups == []
    slow.end()
    assert await upload == Written(5, 0, 0)
    assert site.groups == [5]


async def test_a_single_block_waits_for_nothing() -> None:
    site = Site()
    assert await site.receive(stream(block_of(b"a"))) == Written(1, 0, 0)
    assert site.groups == [1]


async def test_nobody_waits_for_what_others_are_still_to_send() -> None:
    site, slow = Site(), Slow()
    silent = site.receive(slow.blocks())
    slow.send(b"a", b"b")
    await settle()
    assert await site.receive(stream(block_of(b"c"))) == Written(1, 0, 0)
    assert site.groups == [3]  # what was there went along
    slow.end()
    assert await silent == Written(2, 0, 0)
    assert site.groups == [3]


async def test_many_are_committed_while_more_come() -> None:
    site, slow = Site(enough_bytes=3 * HELD_BYTES), Slow()
    upload = site.receive(slow.blocks())
    slow.send(b"1", b"2", b"3", b"4")
    await settle()
    assert sum(site.groups) >= 3
    slow.end()
    assert await upload == Written(4, 0, 0)


async def test_who_waits_for_memory_does_not_wait_for_a_silent_sender() -> None:
    site, slow = Site(budget_bytes=2 * HELD_BYTES), Slow()
    silent = site.receive(slow.blocks())
    slow.send(b"a", b"b")
    await settle()
    assert site.groups == []
    lease = await site.budget.acquire(2 * HELD_BYTES)  # for an upload of another namespace, say
    assert site.groups == [2]
    slow.send(b"c")
    await settle()
    waiting = asyncio.ensure_future(site.budget.acquire(2 * HELD_BYTES))
    await settle()
    site.budget.release(lease)
    site.budget.release(await waiting)  # the third got its turn before, and was not kept to gather
    assert site.groups == [2, 1]
    slow.end()
    assert await silent == Written(3, 0, 0)


async def test_blocks_before_a_bad_one_are_stored() -> None:
    site, bad = Site(), Block.pack(BLAKE3, [(blob_of(b"c"), b"C")], None)
    with pytest.raises(UploadCorrupt):
        await site.receive(stream(block_of(b"a"), block_of(b"b"), bad, block_of(b"d")))
    assert site.groups == [2]
    assert site.budget.used_bytes == 0


async def test_blocks_before_a_cut_are_stored() -> None:
    site = Site()

    async def cut() -> AsyncIterator[Block]:
        yield block_of(b"a")
        await settle()
        raise ConnectionResetError

    with pytest.raises(ConnectionResetError):
        await site.receive(cut())
    assert site.groups == [1]


async def test_what_a_cancelled_upload_left_does_not_stay_in_memory() -> None:
    site, slow = Site(), Slow()
    upload = site.receive(slow.blocks())
    slow.send(b"a", b"b")
    await settle()
    upload.cancel()
    with pytest.raises(asyncio.CancelledError):
        await upload
    await settle()
    assert (site.groups, site.budget.used_bytes) == ([2], 0)


async def test_a_commit_that_fails_fails_the_upload() -> None:
    site = Site(enough_bytes=1)
    site.error = NoSpace("full")
    with pytest.raises(NoSpace, match="full"):
        await site.receive(stream(block_of(b"a"), block_of(b"b")))
    assert site.budget.used_bytes == 0
