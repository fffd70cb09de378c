"""Updates of a task on their way to a server that may be away."""

from __future__ import annotations

import asyncio
import base64
from pathlib import Path

import pytest

from isolate.errors import LeaseLost, NoSpace, Refused, Unavailable
from swarming.bot.courier import GIVE_UP_S, MAX_PAUSE_S, Courier, pause_s
from swarming.bot.output import CHUNK_BYTES, Spool
from tests.clock import ManualClock
from tests.unit.bot_doubles import GOING_ON, ScriptedApi, until

AWAY = Unavailable("Cannot reach the server")


@pytest.fixture
def spool(tmp_path: Path) -> Spool:
    return Spool(tmp_path / "stdout")


def fill(spool: Spool, tmp_path: Path, data: bytes) -> None:
    (tmp_path / "stdout").write_bytes(data)
    spool.written_bytes = len(data)


async def let_pass(clock: ManualClock, task: asyncio.Task[object], by_s: float) -> None:
    """Move the clock until `task` has ended."""
    async with asyncio.timeout(20):
        while not task.done():
            await asyncio.sleep(0)
            clock.advance(by_s)


async def test_what_failed_is_sent_again_with_the_same_output(spool: Spool, tmp_path: Path) -> None:
    api, clock = ScriptedApi(), ManualClock()
    api.update_answers = [AWAY, NoSpace("The disk of the server is full"), GOING_ON]
    fill(spool, tmp_path, b"hello")
    task = asyncio.create_task(Courier(api, "x1", spool, clock).update({"cost_usd": 0.0}))
    await let_pass(clock, task, 1)
    assert await task == GOING_ON
    assert len(api.updates) == 3
    assert api.updates[0] == api.updates[2]
    assert base64.b64decode(api.updates[0]["output"]) == b"hello"
    assert spool.pending_bytes == 0


async def test_after_an_hour_it_gives_up(spool: Spool) -> None:
    api, clock = ScriptedApi(), ManualClock()
    api.update_answers = [AWAY] * 10_000
    task = asyncio.create_task(Courier(api, "x1", spool, clock).update({}))
    await let_pass(clock, task, MAX_PAUSE_S)
    assert task.exception() is AWAY
    assert clock.monotonic() >= GIVE_UP_S


@pytest.mark.parametrize("error", [LeaseLost("gone"), Refused("no")])
async def test_a_refusal_is_final(spool: Spool, error: Exception) -> None:
    api = ScriptedApi()
    api.update_answers = [error]
    with pytest.raises(type(error)):
        await Courier(api, "x1", spool, ManualClock()).update({})
    assert len(api.updates) == 1


async def test_an_abandoned_courier_tries_once_more(spool: Spool) -> None:
    api, clock = ScriptedApi(), ManualClock()
    api.update_answers = [AWAY] * 3
    courier = Courier(api, "x1", spool, clock)
    task = asyncio.create_task(courier.update({}))
    await until(lambda: len(api.updates) == 1)
    courier.abandon()
    with pytest.raises(Unavailable):
        await task
    assert len(api.updates) == 2


async def test_a_server_that_names_its_time_is_obeyed(spool: Spool) -> None:
    api, clock = ScriptedApi(), ManualClock()
    api.update_answers = [Unavailable("draining", retry_after_s=40)]
    task = asyncio.create_task(Courier(api, "x1", spool, clock).update({}))
    await let_pass(clock, task, 5)
    assert clock.monotonic() >= 40


@pytest.mark.parametrize(("leave_bytes", "calls"), [(0, 3), (CHUNK_BYTES, 2)])
async def test_flush_sends_whole_chunks_in_order(spool: Spool, tmp_path: Path, leave_bytes: int, calls: int) -> None:
    api = ScriptedApi()
    fill(spool, tmp_path, bytes(2 * CHUNK_BYTES + 1))
    await Courier(api, "x1", spool, ManualClock()).flush({"cost_usd": 1.0}, leave_bytes)
    assert [update["output_chunk_start"] for update in api.updates] == [n * CHUNK_BYTES for n in range(calls)]
    assert spool.pending_bytes <= leave_bytes


def test_pauses_grow_up_to_a_limit() -> None:
    pauses = [pause_s(failures) for failures in range(1, 100)]
    assert pauses == sorted(pauses)
    assert pauses[0] < 1
    assert pauses[-1] == MAX_PAUSE_S
