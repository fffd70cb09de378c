"""Uploads on their way to the committer: blocks are leased, verified side by side, and handed over in their order.

Knows no pack and no index. The invariants: a block is verified in a thread before it is believed; the bytes in flight
are bounded; what is behind a bad block is not stored, what is in front of it is.

When to commit: a commit costs a sync and a transaction whatever it holds, and digests are random, so that each one
writes most pages of the index. So blocks gather while nobody could be answered: until all blocks of an upload that has
ended are verified, until there are many, or until somebody waits for memory. Nobody waits for blocks that are still to
be sent, by whomever.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from functools import partial

from isolate.cas.block import Block
from isolate.cas.digest import Namespace
from isolate.cas.store import Written
from isolate.errors import IsolateError
from server.stores.budget import ByteBudget
from server.stores.committer import GroupCommitter
from server.stores.sqlite_index import Kind
from server.stores.streamed import PassingBlob
from server.stores.uploading import Tally, Turn, Upload, passed, verified

ENTRY_BYTES = 250  # what one entry of a block costs in memory while it is in flight

RunInThread = Callable[[Callable[[], bytes]], Awaitable[bytes]]


class Receiver:
    """Takes the uploads of one namespace; their records go to `committer`."""

    def __init__(
        self,
        namespace: Namespace,
        budget: ByteBudget,
        run: RunInThread,
        committer: GroupCommitter[Upload, Written],
    ) -> None:
        self._namespace, self._budget, self._run, self._committer = namespace, budget, run, committer

    async def receive(self, blocks: AsyncIterator[Block], whole: PassingBlob) -> Written:
        """Return what became of `blocks` once all are durable and visible; `whole` hears of each that is verified."""
        tally, before, number = Tally(), passed(), 0
        async with asyncio.TaskGroup() as group:
            try:
                async for block in blocks:
                    if tally.error is not None:
                        break
                    held_bytes = len(block.payload) + block.plain_size + ENTRY_BYTES * len(block.entries)
                    lease = await self._budget.acquire(held_bytes)
                    turn = Turn(number, before, after=asyncio.Event())
                    tally.verifying += 1
                    task = group.create_task(self._take(block, lease, turn, tally, whole))
                    task.add_done_callback(partial(self._give_back, lease))  # also of a task that never began
                    before, number = turn.after, number + 1
            except Exception as error:  # noqa: BLE001 - raised below, after the blocks before it are stored
                tally.fail(number, error)
            tally.has_ended = True
            if tally.waits_for_commit:
                self._committer.press()
        failure = tally.take_error()
        if failure is not None:
            try:
                raise failure
            finally:
                del failure  # which knows this call, and so what it holds of the last block
        return tally.written

    async def _take(self, block: Block, held_bytes: int, turn: Turn, tally: Tally, whole: PassingBlob) -> None:
        """Verify one block and see it committed, unless one before it was bad."""
        record = await self._verified(block, turn, tally, whole)
        tally.verifying -= 1
        if record is None:
            if tally.waits_for_commit:
                self._committer.press()
            return
        can_wait = not tally.waits_for_commit and not self._budget.is_short
        try:
            upload = Upload(record, Kind.BLOCK, block.entries, held_bytes=held_bytes)
            tally.add(await self._committer.add(upload, can_wait=can_wait))
        except IsolateError as error:
            tally.fail(turn.number, error)

    async def _verified(self, block: Block, turn: Turn, tally: Tally, whole: PassingBlob) -> bytes | None:
        """Return the record of a block when it is its turn, None when it or one before it was bad."""
        record = None
        try:
            record = await self._run(lambda: verified(block, self._namespace, partial(whole.add, turn.number)))
        except IsolateError as error:
            tally.fail(turn.number, error)
        await turn.before.wait()
        turn.after.set()
        return None if tally.failed_before(turn.number) else record

    def _give_back(self, lease: int, _task: asyncio.Task[None]) -> None:
        self._budget.release(lease)
