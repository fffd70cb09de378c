"""What the commands of `swarming` do, between their flags and the library.

Knows no click, no terminal and no environment: it writes lines through a `Screen`. The invariant: a file a command
leaves is written whole, and what could not be done is said on stderr and in the exit status.
"""

from __future__ import annotations

import asyncio
import base64
import json
import re
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

from isolate.cas.block import Block
from isolate.cas.digest import DEFAULT_NAMESPACE, NAMESPACE_BY_HEX_LENGTH, Namespace
from isolate.cas.files import atomic_file
from isolate.cas.store import BlobStore
from isolate.clock import Clock
from isolate.errors import InvalidInput, IsolateError, NotFound
from swarming import report
from swarming.client import SwarmingClient
from swarming.collect import Shard, Wanted, collect, exit_status
from swarming.trigger import ShardRequest

NAMES_LOOKED_AT = 10_000  # newest tasks among which a name is looked for: some days of a busy fleet
MOST_BOTS = 1_000_000
STATUS_EVERY_S = 300.0  # what the client of 2020 does
COLLECT_SLACK_S = 10.0  # the same
MANIFEST_LEVEL = 3  # one small text: the level does not matter
NAMESPACE_BY_ALGORITHM = {
    "sha-1": NAMESPACE_BY_HEX_LENGTH[40],
    "sha-256": "sha256-deflate",
    "sha-512": NAMESPACE_BY_HEX_LENGTH[128],
    "blake3-256": DEFAULT_NAMESPACE,
}
_TASK_ID = re.compile(r"[0-9a-f]+1[012]")


@dataclass(frozen=True, slots=True)
class Screen:
    """Where results go, and where everything else goes; each call is one or more whole lines."""

    out: Callable[[str], None]
    err: Callable[[str], None]


@dataclass(frozen=True, slots=True)
class TriggeredTask:
    """A shard that the server accepted."""

    request: ShardRequest
    task_id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Show:
    """How collected shards are shown, and where they are written."""

    url: str
    console: bool = True
    decorate: bool = False
    summary_files: tuple[Path, ...] = ()
    summary_output: bool = True
    status_updates: bool = False


@dataclass(frozen=True, slots=True)
class TaskFile:
    """What `trigger --dump-json` wrote: the tasks in order of their shards, and how long they may take."""

    task_ids: tuple[str, ...]
    longest_s: float = field(default=0.0)


async def upload_manifest(store: BlobStore, path: Path) -> str:
    """Store a `.isolated` file that was kept on disk; returns its hash."""
    content = await asyncio.to_thread(path.read_bytes)
    namespace = store.namespace
    blob = namespace.blob(content)

    async def blocks() -> AsyncIterator[Block]:
        yield Block.pack(namespace.algorithm, [(blob, content)], MANIFEST_LEVEL)

    if await store.missing([blob]):
        await store.write(blocks())
    return blob.digest.hex()


async def trigger(client: SwarmingClient, shards: Sequence[ShardRequest], screen: Screen) -> list[TriggeredTask]:
    """Create a task for each shard; stops at the first refusal, saying how many there are."""
    done: list[TriggeredTask] = []
    try:
        for shard in shards:
            answer = await client.new_task(shard.body)
            done.append(TriggeredTask(shard, answer.task_id))
            if answer.priority != shard.body["priority"]:
                screen.err(f"Priority was reset to {answer.priority}")
    except IsolateError:
        if done:
            screen.err(f"Only {len(done)} shard(s) out of {len(shards)} were triggered")
        raise
    return done


def how_to_collect(tasks: Sequence[TriggeredTask], name: str, url: str, dump_json: Path | None) -> str:
    """Return what `trigger` prints (§7.3)."""
    which = f"--json {dump_json}" if dump_json else " ".join(task.task_id for task in tasks)
    lines = [f"Triggered task: {name}", "To collect results, use:", f"  swarming.py collect -S {url} {which}"]
    return "\n".join([*lines, "Or visit:", *(f"  {url}/user/task/{task.task_id}" for task in tasks)])


def dump(tasks: Sequence[TriggeredTask], name: str, url: str, path: Path) -> None:
    """Write the file `collect --json` reads (§7.3)."""
    entries = {
        task.request.name: {
            "shard_index": task.request.index,
            "task_id": task.task_id,
            "view_url": f"{url}/user/task/{task.task_id}",
        }
        for task in tasks
    }
    content = {"base_task_name": name, "request": tasks[0].request.body, "tasks": entries}
    write_json(path, content, compact=True)


def load(path: Path) -> TaskFile:
    """Read what `dump` wrote; raises InvalidInput naming what is wrong with the file."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        entries = sorted(content["tasks"].values(), key=lambda entry: int(entry["shard_index"]))
        task_ids = tuple(str(entry["task_id"]) for entry in entries)
        return TaskFile(task_ids, longest_s(content["request"]))
    except OSError as error:
        raise InvalidInput(f"Cannot read {path}: {error.strerror}") from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise InvalidInput(f"{path} is no file that `trigger --dump-json` wrote") from error


def longest_s(request: Mapping[str, Any]) -> float:
    """Return how long a request may take until its last slice has ended, as the client of 2020 reckons."""
    longest, offset = 0.0, 0.0
    for piece in request["task_slices"]:
        expiration = float(piece["expiration_secs"])
        longest = max(longest, offset + float(piece["properties"]["execution_timeout_secs"]) + expiration)
        offset += expiration
    return longest + COLLECT_SLACK_S


def namespace_of_file(path: Path) -> Namespace:
    """Return the namespace a `.isolated` file belongs to, by its algorithm; raises InvalidInput."""
    try:
        algorithm = json.loads(path.read_text(encoding="utf-8"))["algo"]
        return Namespace.parse(NAMESPACE_BY_ALGORITHM[algorithm])
    except OSError as error:
        raise InvalidInput(f"Cannot read {path}: {error.strerror}") from error
    except (ValueError, KeyError, TypeError) as error:
        raise InvalidInput(f"{path} is no `.isolated` file with a known algorithm") from error


def base64_text(content: bytes) -> str:
    """Return bytes as the REST API has them."""
    return base64.b64encode(content).decode()


async def find(client: SwarmingClient, names: Iterable[str]) -> list[str]:
    """Return the ids of tasks given by id or name; raises NotFound for a name no task has."""
    found: list[str] = []
    for name in names:
        if _TASK_ID.fullmatch(name):
            found.append(name)
            continue
        ids = await client.tasks_named(name, NAMES_LOOKED_AT)
        if not ids:
            raise NotFound(f"No task is called {name!r} (looked at the newest {NAMES_LOOKED_AT:,})")
        found.extend(ids)
    return found


async def collect_and_show(
    client: SwarmingClient, task_ids: Sequence[str], wanted: Wanted, how: Show, clock: Clock, screen: Screen
) -> int:
    """Wait for tasks, print each as it ends, write the summaries; returns the exit status of the whole."""
    waiting = set(range(len(task_ids)))

    def show(shard: Shard) -> None:
        waiting.discard(shard.index)
        shown = shard if how.console else Shard(shard.index, shard.result, None)
        screen.out(report.decorated(shown, how.url) if how.decorate else report.plain(shown))
        if shard.problem:
            screen.err(f"Outputs of shard {shard.index} are incomplete: {shard.problem}")

    async def say_who_is_awaited() -> None:
        while True:
            await clock.sleep(STATUS_EVERY_S)
            screen.err(f"Waiting for results from the following shards: {_listed(waiting)}")

    async with asyncio.TaskGroup() as group:
        status = group.create_task(say_who_is_awaited()) if how.status_updates else None
        shards = await collect(client, task_ids, wanted, clock, show)
        if status:
            status.cancel()
    for path in how.summary_files:
        write_json(path, report.summary(shards, len(task_ids), with_output=how.summary_output))
    if how.decorate and (total := report.total(shards)):
        screen.out(total)
    if waiting:
        screen.err(f"Results from some shards are missing: {_listed(waiting)}")
    return exit_status(shards, len(task_ids))


async def cancel(client: SwarmingClient, task_ids: Sequence[str], screen: Screen, *, kill_running: bool) -> int:
    """Cancel tasks; returns 1 when one of them could not be."""
    status = 0
    for task_id in task_ids:
        ok = False
        with suppress(NotFound, InvalidInput):
            ok = await client.cancel(task_id, kill_running=kill_running)
        if not ok:
            screen.err(f"Deleting {task_id} failed. Probably already gone")
            status = 1
    return status


async def query(client: SwarmingClient, method: str, limit: int) -> dict[str, Any]:
    """Return the reply of a GET method, with the items of all its pages up to `limit`."""
    parts = urlsplit(method)
    arguments = parse_qs(parts.query, keep_blank_values=True)
    reply: dict[str, Any] = await client.get(parts.path.strip("/"), {**arguments, "limit": str(min(limit, 250))})
    items = reply.get("items")
    while items is not None and reply.get("cursor") and len(items) < limit:
        page = {**arguments, "limit": str(min(limit - len(items), 250)), "cursor": reply["cursor"]}
        more = await client.get(parts.path.strip("/"), page)
        items.extend(more.get("items", []))
        reply["cursor"] = more.get("cursor")
    if items is not None:
        reply.pop("cursor", None)
    return reply


async def bots(
    client: SwarmingClient, dead: str, busy: str, dimensions: Sequence[tuple[str, str]], screen: Screen, *, bare: bool
) -> None:
    """Print the bots, by id, each with its dimensions and its task unless `bare` (§7.6)."""
    wanted = {"is_dead": dead, "is_busy": busy, "dimensions": [f"{key}:{value}" for key, value in dimensions]}
    found = [bot async for bot in client.items("bots/list", wanted, MOST_BOTS)]
    for bot in sorted(found, key=lambda bot: natural_key(bot["bot_id"])):
        screen.out(bot["bot_id"])
        if not bare:
            listed = {pair["key"]: pair.get("value", []) for pair in bot.get("dimensions", ())}
            screen.out(f"  {json.dumps(listed, sort_keys=True)}")
            if bot.get("task_id"):
                screen.out(f"  task: {bot['task_id']}")


def natural_key(text: str) -> list[tuple[int, str]]:
    """Return a key that sorts `bot10` after `bot9`."""
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in re.split(r"(\d+)", text)]


def write_json(path: Path, content: object, *, compact: bool = False) -> None:
    """Write a JSON file whole, keys sorted; raises InvalidInput when it cannot be written there."""
    text = json.dumps(content, sort_keys=True, separators=(",", ":")) if compact else json_text(content)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_file(path) as file:
            file.write(f"{text}\n".encode())
    except OSError as error:
        raise InvalidInput(f"Cannot write {path}: {error.strerror}") from error


def json_text(content: object) -> str:
    """Return JSON for people: indented, keys sorted."""
    return json.dumps(content, indent=2, sort_keys=True)


def _listed(indexes: Iterable[int]) -> str:
    return ", ".join(map(str, sorted(indexes)))
