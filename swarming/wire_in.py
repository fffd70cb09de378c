"""What clients send: the messages of `tasks/new`, field by field as the REST API of 2020 names them.

Knows no rule beyond types; `wire_rules` judges the values and builds the model.
"""

from __future__ import annotations

from typing import Annotated, Any

import msgspec

Int64 = Annotated[int, msgspec.Meta(ge=-(2**63), le=2**63 - 1)]


class Message(msgspec.Struct, omit_defaults=True):
    """A JSON object; null is unset."""


class Pair(Message):
    """`StringPair`."""

    key: str | None = None
    value: str | None = None


class PairList(Message):
    """`StringListPair`."""

    key: str | None = None
    value: list[str] | None = None


class FilesRef(Message):
    """A tree in a blob store."""

    isolated: str | None = None
    isolatedserver: str | None = None
    namespace: str | None = None


class CacheEntry(Message):
    """A named cache and where the task wants it."""

    name: str | None = None
    path: str | None = None


class Containment(Message):
    """How a bot fences the process of a task."""

    lower_priority: bool | None = None
    containment_type: int | str | None = None
    limit_processes: Int64 | None = None
    limit_total_committed_memory: Int64 | None = None


class Properties(Message):
    """`TaskProperties`: what is run."""

    caches: list[CacheEntry] | None = None
    cas_input_root: dict[str, Any] | None = None
    cipd_input: dict[str, Any] | None = None
    command: list[str] | None = None
    containment: Containment | None = None
    dimensions: list[Pair] | None = None
    env: list[Pair] | None = None
    env_prefixes: list[PairList] | None = None
    execution_timeout_secs: Int64 | None = None
    extra_args: list[str] | None = None
    grace_period_secs: Int64 | None = None
    idempotent: bool | None = None
    inputs_ref: FilesRef | None = None
    io_timeout_secs: Int64 | None = None
    outputs: list[str] | None = None
    relative_cwd: str | None = None
    secret_bytes: str | None = None


class Slice(Message):
    """`TaskSlice`: one way to run the task, tried until its expiration."""

    expiration_secs: Int64 | None = None
    properties: Properties | None = None
    wait_for_capacity: bool | None = None


class ResultDb(Message):
    """Whether results go to ResultDB."""

    enable: bool | None = None


class NewTaskRequest(Message):
    """The body of `tasks/new`."""

    bot_ping_tolerance_secs: Int64 | None = None
    evaluate_only: bool | None = None
    expiration_secs: Int64 | None = None
    name: str | None = None
    parent_task_id: str | None = None
    pool_task_template: int | str | None = None
    priority: Int64 | None = None
    properties: Properties | None = None
    pubsub_auth_token: str | None = None
    pubsub_topic: str | None = None
    pubsub_userdata: str | None = None
    realm: str | None = None
    request_uuid: str | None = None
    resultdb: ResultDb | None = None
    service_account: str | None = None
    tags: list[str] | None = None
    task_slices: list[Slice] | None = None
    user: str | None = None


class TasksCancelRequest(Message):
    """The body of `tasks/cancel`."""

    cursor: str | None = None
    kill_running: bool | None = None
    limit: Int64 | None = None
    tags: list[str] | None = None


class CancelRequest(Message):
    """The body of `task/{id}/cancel`."""

    kill_running: bool | None = None
