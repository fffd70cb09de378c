"""Old things go, in steps with pauses, and young ones stay."""

from __future__ import annotations

import dataclasses

from msgspec.structs import replace

from server.retention import DAY_S, RetentionPolicy, Sweeper
from swarming import ids
from swarming.bots import BotEvent
from swarming.memory import MemoryTaskStore
from swarming.paging import TaskQuery
from swarming.states import State
from tests.loopback import SkippingClock
from tests.tasks import MemoryOutputs, submission

POLICY = RetentionPolicy(tasks_s=10 * DAY_S, events_s=5 * DAY_S, reuse_s=DAY_S, step=2, steps=100)


async def filled(clock: SkippingClock) -> tuple[MemoryTaskStore, MemoryOutputs]:
    store, outputs = MemoryTaskStore(), MemoryOutputs()
    for day in range(20):
        at = clock.now() - day * DAY_S + 3_600
        wanted = submission(day, None, at)
        final = replace(wanted.task, state=State.NO_RESOURCE, attached=False, execution_id=None, completed_at=at)
        await store.submit(replace(wanted, task=final, execution=None))
        await store.save_bots([], [BotEvent(bot_id="b", event_type="bot_log", at=at)])
        await outputs.append(ids.run_id(final.task_id, 1), 0, b"text")
    return store, outputs


async def test_each_kind_has_its_own_time() -> None:
    clock = SkippingClock()
    store, outputs = await filled(clock)
    assert await Sweeper(store, outputs, clock, POLICY).run() == 9 + 14 + 8
    assert await store.count(TaskQuery()) == 11
    assert len((await store.events("b", None, None, None, 100)).items) == 6
    assert len(outputs.bytes_of) == 12
    assert await Sweeper(store, outputs, clock, POLICY).run() == 0


async def test_a_round_has_pauses_and_an_end() -> None:
    clock = SkippingClock()
    store, outputs = await filled(clock)
    await Sweeper(store, outputs, clock, dataclasses.replace(POLICY, steps=3)).run()
    assert clock.slept == [POLICY.pause_s] * 6
    assert await store.count(TaskQuery()) == 14
