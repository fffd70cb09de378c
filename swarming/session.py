"""One conversation with a server: what the flags of a command describe, in the words of the library.

Knows the names of the flags (`swarming.flags`) but neither click nor the environment. The invariant: every file that a
request names has been uploaded before the request is made.
"""

from __future__ import annotations

import re
import uuid
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from isolate import __version__
from isolate.cas.digest import Namespace
from isolate.cas.remote import HttpStore
from isolate.clock import SystemClock
from isolate.errors import InvalidInput
from isolate.http import HttpClient
from isolate.monitor import Monitor
from isolate.urls import normalize_url
from swarming import actions, trigger
from swarming.client import SwarmingClient
from swarming.collect import NOW_S, Wanted
from swarming.outputs import OutputDownloader
from swarming.show import Show, collect_and_show

if TYPE_CHECKING:
    from rich.console import Console

USER_AGENT = f"swarming/{__version__}"
ISOLATED_SUFFIX = ".isolated"
SUMMARY = "summary.json"  # in the directory of the outputs
_NAMES_A_TREE = re.compile(r"[0-9a-fA-F]{40}|[0-9a-fA-F]{64}|[0-9a-fA-F]{128}|.+\.isolated", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Session:
    """A server that is being talked to."""

    url: str
    http: HttpClient
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
        yield Session(url, http, SwarmingClient(http), screen, monitor)


async def shard_requests(session: Session, asked: Asked, flags: Mapping[str, Any]) -> list[trigger.ShardRequest]:
    """Return the requests to post; a `.isolated` file that is named is uploaded first. Raises InvalidInput."""
    given = dict(flags)
    isolated, namespace, what = given.pop("isolated"), given.pop("namespace"), asked.what
    server = normalize_url(given.pop("isolate_server") or session.url)
    if isolated is None and what and (not given["raw_command"] or _NAMES_A_TREE.fullmatch(what[0])):
        isolated, what = what[0], what[1:]
    if what and given["raw_command"]:
        raise InvalidInput("Arguments with --raw-cmd should be passed after -- as command delimiter.")
    if isolated and isolated.endswith(ISOLATED_SUFFIX):
        isolated, namespace = await _upload(Path(isolated), server, namespace, session.monitor)
    elif isolated:
        namespace = _namespace_of(isolated, namespace)
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


@dataclass(frozen=True, slots=True)
class Here:
    """What a collection needs of this machine: where to cache outputs, and the terminal to draw on, if any."""

    cache: Path
    terminal: Console | None


def check_places(flags: Mapping[str, Any]) -> None:
    """Raise IsolateError unless what a collection is to write can be written where the flags say."""
    if flags["task_summary_json"]:
        actions.check_writable(flags["task_summary_json"])
    if flags["task_output_dir"]:
        actions.check_writable(flags["task_output_dir"] / SUMMARY)


async def gather(
    session: Session, task_ids: Sequence[str], flags: Mapping[str, Any], longest_s: float, here: Here, again: str = ""
) -> int:
    """Collect and show tasks as the flags say; returns the exit status. `again` is what to type when it gives up."""
    directory: Path | None = flags["task_output_dir"]
    summaries = [flags["task_summary_json"]] if flags["task_summary_json"] else []
    if directory:
        summaries.append(directory / SUMMARY)
    given_s: float | None = flags["timeout_s"]
    stdout = flags["task_output_stdout"]
    console = stdout in {"all", "console"}
    how = Show(
        url=session.url,
        console=console,
        decorate=flags["decorate"],
        live=flags.get("live", False) and console and not flags["decorate"] and len(task_ids) == 1 and given_s != NOW_S,
        terminal=here.terminal,
        summary_files=tuple(summaries),
        summary_output=stdout in {"all", "json"},
        status_updates=flags["print_status_updates"],
        again=again,
    )
    async with AsyncExitStack() as stack:
        outputs = None
        if directory:
            downloader = OutputDownloader(
                directory, here.cache, flags["filepath_filter"], session.monitor, session.http
            )
            outputs = await stack.enter_async_context(downloader)
        wanted = Wanted(
            timeout_s=longest_s if given_s is None else given_s,
            all_in_time=given_s is not None,
            stdout=(console and not how.live) or (how.summary_output and bool(summaries)),
            performance=flags["perf"],
            outputs=outputs.fetch if outputs else None,
            server=session.url,
        )
        return await collect_and_show(session.client, task_ids, wanted, how, SystemClock(), session.screen)


def _namespace_of(isolated: str, namespace: str | None) -> str:
    """Return the name of the namespace of a hash; raises InvalidInput for what is no hash of it."""
    if namespace is None and not _NAMES_A_TREE.fullmatch(isolated):
        raise InvalidInput(f"{isolated!r} is neither a hash nor a .isolated file: `isolate archive` makes both")
    known = Namespace.named(namespace) if namespace else Namespace.of_hash(isolated)
    known.algorithm.parse_hex(isolated)
    return known.name


async def _upload(path: Path, server: str, namespace: str | None, monitor: Monitor) -> tuple[str, str]:
    """Return the hash and the namespace of a `.isolated` file, having made sure that the server has it."""
    known = Namespace.named(namespace) if namespace else actions.namespace_of_file(path)
    async with HttpClient(server, user_agent=USER_AGENT, monitor=monitor) as http:
        return await actions.upload_manifest(HttpStore(http, known), path), known.name
