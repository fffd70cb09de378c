"""One conversation with a server: what the flags of a command describe, in the words of the library.

Knows the names of the flags (`swarming.flags`) but neither click nor the environment. The invariant: every file that a
request names has been uploaded before the request is made.
"""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from isolate import __version__
from isolate.cas.digest import Namespace
from isolate.cas.remote import HttpStore
from isolate.clock import SystemClock
from isolate.http import HttpClient
from isolate.monitor import Monitor
from isolate.urls import normalize_url
from swarming import actions, trigger
from swarming.client import SwarmingClient
from swarming.collect import Wanted
from swarming.outputs import OutputDownloader

USER_AGENT = f"swarming/{__version__}"
ISOLATED_SUFFIX = ".isolated"


@dataclass(frozen=True, slots=True)
class Session:
    """A server that is being talked to."""

    url: str
    client: SwarmingClient
    screen: actions.Screen
    monitor: Monitor


@dataclass(frozen=True, slots=True)
class Asked:
    """What a user asked for besides flags: words before and after `--`, who asks, and from inside which task."""

    what: tuple[str, ...]
    after: tuple[str, ...]
    user: str | None
    parent_task_id: str


@asynccontextmanager
async def connect(url: str, screen: actions.Screen, monitor: Monitor) -> AsyncIterator[Session]:
    """Give a session with the server at `url`."""
    async with HttpClient(url, user_agent=USER_AGENT, monitor=monitor) as http:
        yield Session(url, SwarmingClient(http), screen, monitor)


async def shard_requests(session: Session, asked: Asked, flags: Mapping[str, Any]) -> list[trigger.ShardRequest]:
    """Return the requests to post; a `.isolated` file that is named is uploaded first. Raises InvalidInput."""
    given = dict(flags)
    isolated, namespace, what = given.pop("isolated"), given.pop("namespace"), asked.what
    server = normalize_url(given.pop("isolate_server") or session.url)
    if isolated is None and what and not given["raw_command"]:
        isolated, what = what[0], what[1:]
    if isolated and isolated.endswith(ISOLATED_SUFFIX):
        isolated, namespace = await _upload(Path(isolated), server, namespace, session.monitor)
    elif isolated:
        known = Namespace.parse(namespace) if namespace else Namespace.of_hash(isolated)
        known.algorithm.parse_hex(isolated)
        namespace = known.name
    secret = given.pop("secret")
    spec = trigger.TaskSpec(
        name=given.pop("task_name"),
        user=given.pop("user") or asked.user,
        isolated=isolated,
        isolate_server=server,
        namespace=namespace,
        command=(*what, *asked.after),
        optional_dimensions=tuple(trigger.OptionalDimension(*one) for one in given.pop("optional")),
        secret=actions.base64_text(secret.read()) if secret else None,
        parent_task_id=asked.parent_task_id,
        **given,
    )
    return trigger.requests(spec, lambda: str(uuid.uuid4()))


async def gather(
    session: Session, task_ids: Sequence[str], flags: Mapping[str, Any], longest_s: float, cache: Path
) -> int:
    """Collect and show tasks as the flags say; returns the exit status."""
    directory: Path | None = flags["task_output_dir"]
    summaries = [flags["task_summary_json"]] if flags["task_summary_json"] else []
    if directory:
        summaries.append(directory / "summary.json")
    stdout = flags["task_output_stdout"]
    how = actions.Show(
        url=session.url,
        console=stdout in {"all", "console"},
        decorate=flags["decorate"],
        summary_files=tuple(summaries),
        summary_output=stdout in {"all", "json"},
        status_updates=flags["print_status_updates"],
    )
    async with AsyncExitStack() as stack:
        outputs = None
        if directory:
            downloader = OutputDownloader(directory, cache, flags["filepath_filter"], session.monitor)
            outputs = await stack.enter_async_context(downloader)
        wanted = Wanted(
            timeout_s=longest_s if flags["timeout_s"] is None else flags["timeout_s"],
            stdout=stdout != "none",
            performance=flags["perf"],
            outputs=outputs.fetch if outputs else None,
        )
        return await actions.collect_and_show(session.client, task_ids, wanted, how, SystemClock(), session.screen)


async def _upload(path: Path, server: str, namespace: str | None, monitor: Monitor) -> tuple[str, str]:
    """Return the hash and the namespace of a `.isolated` file, having made sure that the server has it."""
    known = Namespace.parse(namespace) if namespace else actions.namespace_of_file(path)
    async with HttpClient(server, user_agent=USER_AGENT, monitor=monitor) as http:
        return await actions.upload_manifest(HttpStore(http, known), path), known.name
