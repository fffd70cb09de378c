"""What the commands of `swarming` do, between their flags and the library.

Knows no click, no terminal and no environment: it writes lines through a `Screen`. The invariant: a file a command
leaves is written whole, and what could not be done is said on stderr and in the exit status.
"""

from __future__ import annotations

import asyncio
import base64
import errno
import json
import os
import shlex
import tempfile
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from isolate.cas.block import Block
from isolate.cas.digest import DEFAULT_NAMESPACE, NAMESPACE_BY_HEX_LENGTH, Namespace
from isolate.cas.files import atomic_file
from isolate.cas.store import MAX_BATCH, BlobStore
from isolate.clock import Clock
from isolate.errors import InvalidInput, IsolateError, NotFound
from isolate.isolated import loads
from swarming import ids, naming
from swarming.client import SwarmingClient
from swarming.collect import in_time
from swarming.patience import Patience
from swarming.trigger import ShardRequest, unsharded

NAMES_LOOKED_AT = 25_000  # newest tasks among which a name is looked for: more than the shards of the largest run
IN_FLIGHT_S = 2.0  # that a request which is under way gets when the user wants to stop
COLLECT_SLACK_S = 10.0  # what the client of 2020 does
MANIFEST_LEVEL = 3  # one small text: the level does not matter
NAMESPACE_BY_ALGORITHM = {
    "sha-1": NAMESPACE_BY_HEX_LENGTH[40],
    "sha-256": "sha256-deflate",
    "sha-512": NAMESPACE_BY_HEX_LENGTH[128],
    "blake3-256": DEFAULT_NAMESPACE,
}


@dataclass(frozen=True, slots=True)
class Screen:
    """Where results go, and where everything else goes; each call is one or more whole lines, but `piece` is not."""

    out: Callable[[str], None]
    err: Callable[[str], None]
    piece: Callable[[str], None]


@dataclass(frozen=True, slots=True)
class TriggeredTask:
    """A shard that the server accepted."""

    request: ShardRequest
    task_id: str


@dataclass(frozen=True, slots=True)
class TaskFile:
    """What `trigger --dump-json` wrote: the tasks in order of their shards, and how long they may take."""

    task_ids: tuple[str, ...]
    longest_s: float = field(default=0.0)


async def upload_manifest(store: BlobStore, path: Path) -> str:
    """Store a `.isolated` file that was kept on disk; returns its hash. Raises IsolateError when its files are gone."""
    content = await asyncio.to_thread(path.read_bytes)
    namespace = store.namespace
    needed = await asyncio.to_thread(lambda: list(dict.fromkeys(loads(content, namespace).blobs())))
    batches = [needed[start : start + MAX_BATCH] for start in range(0, len(needed), MAX_BATCH)]
    if lost := [blob for batch in batches for blob in await store.missing(batch)]:
        first = lost[0].digest.hex()
        counted = f"{len(lost):,} of its {len(needed):,} files, such as {first}"
        raise IsolateError(f"{path} cannot be used, archive again: the server lacks {counted}")
    blob = namespace.blob(content)

    async def blocks() -> AsyncIterator[Block]:
        yield Block.pack(namespace.algorithm, [(blob, content)], MANIFEST_LEVEL)

    if await store.missing([blob]):
        await store.write(blocks())
    return blob.digest.hex()


async def trigger(
    client: SwarmingClient,
    shards: Sequence[ShardRequest],
    screen: Screen,
    done: list[TriggeredTask],
    clock: Clock,
) -> None:
    """Create a task for each shard, adding it to `done`; when stopped in the middle, says how many there are."""
    patience = Patience(clock, screen.err)

    async def post(shard: ShardRequest) -> None:
        answer = await patience(partial(client.new_task, shard.body))
        done.append(TriggeredTask(shard, answer.task_id))
        if answer.priority != shard.body["priority"]:
            screen.err(f"Priority was reset to {answer.priority}")

    try:
        for shard in shards:
            await _to_its_end(post(shard), clock)
    finally:
        if done and len(done) < len(shards):
            screen.err(f"Only {len(done)} shard(s) out of {len(shards)} were triggered")


async def _to_its_end(work: Coroutine[Any, Any, None], clock: Clock) -> None:
    """Do `work`; when cancelled, give it a moment to end: the server may have done its part already."""
    doing = asyncio.ensure_future(work)

    async def rest() -> None:
        await doing

    try:
        await asyncio.shield(doing)
    except asyncio.CancelledError:
        with suppress(TimeoutError, IsolateError):
            await in_time(clock, IN_FLIGHT_S, rest())
        raise
    finally:
        doing.cancel()


def tell(tasks: Sequence[TriggeredTask], name: str, url: str, dump_json: Path | None, screen: Screen) -> None:
    """Print how to collect tasks, having written them to a file if asked; the ids are printed even if that fails."""
    try:
        if dump_json:
            dump(tasks, name, url, dump_json)
    except BaseException:
        _print(how_to_collect(tasks, name, url, None), screen)
        raise
    _print(how_to_collect(tasks, name, url, dump_json), screen)


def _print(text: str, screen: Screen) -> None:
    """Print what must not be lost: on stderr when stdout takes it not."""
    try:
        screen.out(text)
    except OSError:
        screen.err(text)
        raise


def how_to_collect(tasks: Sequence[TriggeredTask], name: str, url: str, dump_json: Path | None) -> str:
    """Return what `trigger` prints (§7.3)."""
    command = collect_command(tasks, url)
    if dump_json:
        command = f"swarming.py collect -S {url} --json {shlex.quote(str(dump_json))}"
    lines = [f"Triggered task: {name}", "To collect results, use:", f"  {command}"]
    return "\n".join([*lines, "Or visit:", *(f"  {url}/user/task/{task.task_id}" for task in tasks)])


def collect_command(tasks: Sequence[TriggeredTask], url: str) -> str:
    """Return what a user types to collect tasks later."""
    return f"swarming.py collect -S {url} {' '.join(task.task_id for task in tasks)}"


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
    content = {"base_task_name": name, "request": unsharded(tasks[0].request, name), "tasks": entries}
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


async def find(client: SwarmingClient, names: Iterable[str], tell: Callable[[str], None] | None = None) -> list[str]:
    """Return the ids of tasks given by id or name; `tell` is told what a name was taken for.

    Raises NotFound for a name no task has, and for one whose newest run lacks shards: what is missing cannot succeed.
    """
    found: list[str] = []
    for name in names:
        if _is_id(name):
            found.append(name)
            continue
        named = await naming.newest(client.items("tasks/list", {}, NAMES_LOOKED_AT), name)
        if named is None:
            raise NotFound(f"No task is called {name!r} (looked at the newest {NAMES_LOOKED_AT:,})")
        if not named.is_whole:
            counted = f"{len(named.task_ids)} of its {named.total} shards"
            raise NotFound(f"The newest {name!r} has only {counted}: {' '.join(named.task_ids)}")
        if tell:
            what = f"{named.total} shards" if named.total else f"task {named.task_ids[0]}"
            when = named.created_ts.partition(".")[0].replace("T", " ")
            tell(f"The newest {name!r} is {what} triggered at {when} UTC")
        found.extend(named.task_ids)
    return found


def _is_id(text: str) -> bool:
    try:
        ids.unpack(text)
    except InvalidInput:
        return False
    return True


def write_json(path: Path, content: object, *, compact: bool = False) -> None:
    """Write a JSON file whole, keys sorted; raises IsolateError when it cannot be written there."""
    text = json.dumps(content, sort_keys=True, separators=(",", ":")) if compact else json_text(content)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_file(path) as file:
            file.write(f"{text}\n".encode())
    except OSError as error:
        raise IsolateError(f"Cannot write {path}: {error.strerror}") from error


def check_writable(path: Path) -> None:
    """Raise IsolateError unless a file can be written there, making the folder it is to be in."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.is_dir():
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        if path.exists() and not path.is_file():  # a device or a pipe: opening it might do something already
            if not os.access(path, os.W_OK):
                raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
            return
        with tempfile.TemporaryFile(dir=Path(os.path.realpath(path)).parent):
            pass
    except OSError as error:
        raise IsolateError(f"Cannot write {path}: {error.strerror}") from error


def json_text(content: object) -> str:
    """Return JSON for people: indented, keys sorted."""
    return json.dumps(content, indent=2, sort_keys=True)
