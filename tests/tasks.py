"""Requests, tasks, executions and bots for tests: small values with every field that matters as an argument."""

from __future__ import annotations

from typing import Any

from msgspec.structs import replace

from swarming import ids, matching
from swarming.bots import BotHello
from swarming.model import Attempt, Execution, Task, TaskProperties, TaskRequest, TaskSlice, task_hash
from swarming.store import Offer, Submission

NOW = 1_700_000_000.0
LINUX = (("os", "linux"), ("pool", "default"))
WINDOWS = (("os", "windows"), ("pool", "default"))


def properties(*command: str, dimensions: tuple[tuple[str, str], ...] = LINUX, **fields: Any) -> TaskProperties:
    """Return something to run for a minute at most."""
    values: dict[str, Any] = {"command": command or ("true",), "execution_timeout_s": 60, **fields}
    return TaskProperties(dimensions=dimensions, **values)


def one_slice(what: TaskProperties | None = None, expiration_s: int = 100, *, wait: bool = True) -> TaskSlice:
    """Return a slice that waits for capacity unless told otherwise."""
    return TaskSlice(properties=what or properties(), expiration_s=expiration_s, wait_for_capacity=wait)


def request(name: str = "a task", *slices: TaskSlice, priority: int = 100, **fields: Any) -> TaskRequest:
    """Return a request, of one plain slice if none is given."""
    return TaskRequest(name=name, priority=priority, slices=slices or (one_slice(),), **fields)


def number(serial: int, now: float = NOW) -> int:
    """Return the number of the task with this serial made at `now`."""
    return ids.number(now, serial)


def submission(serial: int, wanted: TaskRequest | None = None, now: float = NOW, **fields: Any) -> Submission:
    """Return what the scheduler would submit for a request; `fields` change the execution."""
    wanted = wanted or request(f"task {serial}")
    part, task_id = wanted.slices[0], ids.pack(number(serial, now))
    digest = task_hash(part.properties) if part.properties.idempotent else None
    task = Task(
        task_id=task_id,
        request=wanted,
        created_at=now,
        modified_at=now,
        execution_id=task_id,
        attached=True,
        deadline_at=now + part.expiration_s,
    )
    execution = Execution(
        execution_id=task_id,
        task_name=wanted.name,
        properties=part.properties,
        task_hash=digest,
        queue=matching.queue_key(part.properties.dimensions),
        priority=wanted.priority,
        rank=serial,
        deadline_at=task.deadline_at,
        tolerance_s=60.0,
        created_at=now,
        modified_at=now,
    )
    reuse = ((0, digest),) if digest is not None else ()
    return Submission(
        task=task, execution=replace(execution, **fields), reuse=reuse, reuse_since=now - 1000, repeat_since=now - 1000
    )


def offer(bot_id: str = "bot", now: float = NOW, **fields: Any) -> Offer:
    """Return a bot's wish for work."""
    attempt = Attempt(run_id="", try_number=0, bot_id=bot_id, session=f"session of {bot_id}", offered_at=now)
    return Offer(attempt=attempt, **fields)


def hello(bot_id: str = "bot", session: str | None = None, **fields: Any) -> BotHello:
    """Return what a Linux bot of ours says; a bot of 2020 has session ""."""
    values: dict[str, Any] = {
        "dimensions": (("id", (bot_id,)), ("os", ("linux", "ubuntu")), ("pool", ("default",))),
        "session": f"session of {bot_id}" if session is None else session,
        **fields,
    }
    return BotHello(bot_id=bot_id, **values)


class MemoryOutputs:
    """An output store in memory; implements `swarming.store.OutputStore`."""

    def __init__(self) -> None:
        self.bytes_of: dict[str, bytearray] = {}

    async def append(self, run_id: str, start: int, data: bytes) -> None:
        known = self.bytes_of.setdefault(run_id, bytearray())
        known.extend(bytes(max(0, start - len(known))))
        known[start : start + len(data)] = data

    async def read(self, run_id: str, start: int, length: int) -> bytes:
        return bytes(self.bytes_of.get(run_id, b"")[start : start + length])

    async def size(self, run_id: str) -> int:
        return len(self.bytes_of.get(run_id, b""))

    async def forget(self, before: float) -> int:
        old = [run_id for run_id in self.bytes_of if ids.EPOCH_S + (ids.unpack(run_id)[0] >> 20) / 1000 < before]
        for run_id in old:
            del self.bytes_of[run_id]
        return len(old)
