"""How a task gets from one state to the next, on any store."""

from __future__ import annotations

from swarming import decisions, matching
from swarming.bots import TaskUpdate
from swarming.model import Execution
from swarming.store import Change, Store
from tests.tasks import LINUX, NOW, WINDOWS, offer, one_slice, properties

QUEUE = matching.queue_key(LINUX)
OTHER_QUEUE = matching.queue_key(WINDOWS)
ONCE = one_slice(properties("build", idempotent=True))
SUCCESS = TaskUpdate(exit_code=0, duration_s=2.0)


async def claimed(store: Store, bot_id: str = "bot", now: float = NOW) -> Execution:
    execution = await store.claim([QUEUE], offer(bot_id, now))
    assert execution is not None
    return execution


async def started(store: Store, bot_id: str = "bot") -> Execution:
    offered = await claimed(store, bot_id)
    return (await store.replace([Change(offered, decisions.accepted(offered, NOW + 1))]))[0]


async def ended(store: Store, running: Execution, update: TaskUpdate = SUCCESS) -> Execution:
    return (await store.replace([Change(running, decisions.finished(running, update, NOW + 3, 0.5))]))[0]
