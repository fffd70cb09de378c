"""One task of the server, run again on this machine.

Knows no flags. What a bot does to a task is done here in directories that the user sees: inputs are mapped to `work`,
outputs stay in `output`. The invariant: nothing is sent to the server, and no process is left.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from isolate import __version__
from isolate.cas.cache import CachePolicy
from isolate.cas.digest import Namespace
from isolate.cas.remote import HttpStore
from isolate.clock import Clock, SystemClock
from isolate.errors import InvalidInput, IsolateError
from isolate.http import HttpClient
from isolate.monitor import Monitor
from run_isolated.command import (
    CannotRun,
    Command,
    cannot_start,
    environment,
    inner_path,
    prepare,
    substitute,
    working_directory,
)
from run_isolated.command_group import MARK
from run_isolated.fetching import load
from run_isolated.inputs import Inputs
from run_isolated.process import Launcher
from swarming.client import SwarmingClient

WHO = "reproduce"  # what the task takes for its bot and its id, as in 2020
SECRET = "<REDACTED>"  # what the server says in place of a secret  # noqa: S105


@dataclass(frozen=True, slots=True, kw_only=True)
class Places:
    """Directories: inputs, outputs, cache; `leak` keeps the first."""

    work: Path
    output: Path
    cache: Path
    policy: CachePolicy
    leak: bool = False


@dataclass(frozen=True, slots=True)
class Asked:
    """What of a task request matters here."""

    tree: tuple[str, str, str] | None  # server, namespace, hash
    words: tuple[str, ...]
    is_whole_command: bool
    relative_cwd: str
    env: Mapping[str, str]
    env_prefixes: Mapping[str, Sequence[str]]
    outputs: tuple[str, ...]
    has_secret: bool
    caches: Mapping[str, str]  # named caches: where each is to be


def parse(request: Mapping[str, Any]) -> Asked:
    """Return what a task request of the REST API asks for; its first slice stands for all."""
    slices = request.get("task_slices") or ()
    properties = slices[0]["properties"] if slices else request["properties"]
    ref = properties.get("inputs_ref") or {}
    tree = (ref["isolatedserver"], ref["namespace"], ref["isolated"]) if ref.get("isolated") else None
    command, extra = properties.get("command") or (), properties.get("extra_args") or ()
    if not (tree or command):
        raise InvalidInput("This task has no command to be run, such as one that terminates a bot")
    return Asked(
        tree=tree,
        words=(*command, *extra),
        is_whole_command=bool(command),
        relative_cwd=properties.get("relative_cwd") or "",
        env={pair["key"]: pair.get("value", "") for pair in properties.get("env") or ()},
        env_prefixes={pair["key"]: pair.get("value", ()) for pair in properties.get("env_prefixes") or ()},
        outputs=tuple(properties.get("outputs") or ()),
        has_secret=bool(properties.get("secret_bytes")),
        caches={entry["name"]: entry["path"] for entry in properties.get("caches") or ()},
    )


async def reproduce(
    client: SwarmingClient,
    task_id: str,
    extra: Sequence[str],
    places: Places,
    base_env: Mapping[str, str],
    monitor: Monitor,
) -> int:
    """Run the task here; returns the exit status of its command. Raises InvalidInput when `work` exists."""
    if places.work.is_symlink() or places.work.exists():
        raise InvalidInput(f"{str(places.work)!r} exists; inputs go into a new directory (--work)")
    asked = parse(await client.request(task_id))
    if asked.has_secret:
        monitor.problem("The task has a secret, which no server gives away: it runs without")
    if asked.caches:
        monitor.problem(f"Named caches stay with the bots, and are empty here: {', '.join(asked.caches)}")
    clock = SystemClock()
    try:
        if await asyncio.to_thread(_make, places):
            monitor.problem(f"{places.output} holds files already: what the task does not write anew stays")
        async with AsyncExitStack() as stack:
            return await _run(asked, extra, places, base_env, clock, monitor, stack)
    except OSError as error:
        raise IsolateError(f"Cannot reproduce in {places.work}: {error.strerror}") from error
    finally:
        if not places.leak:
            await asyncio.to_thread(_remove, places.work)


async def _run(
    asked: Asked,
    extra: Sequence[str],
    places: Places,
    base_env: Mapping[str, str],
    clock: Clock,
    monitor: Monitor,
    stack: AsyncExitStack,
) -> int:
    launcher = await stack.enter_async_context(Launcher.started(None))
    words, relative_cwd = asked.words, asked.relative_cwd
    if asked.tree is not None:
        inputs = await _load(asked.tree, places, clock, monitor, stack)
        if not asked.is_whole_command:
            words, relative_cwd = (*inputs.command, *words), inputs.relative_cwd or ""
    await asyncio.to_thread(_make_caches, asked.caches, places.work)
    temp = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="reproduce-")))
    work, out = places.work.absolute(), places.output.absolute()
    changes = {key: substitute(value, out, None) for key, value in asked.env.items()}
    changes |= {"SWARMING_BOT_ID": WHO, "SWARMING_TASK_ID": WHO, "SWARMING_HEADLESS": "1"}
    env = environment(base_env, changes, asked.env_prefixes, work, temp) | {MARK: str(temp)}
    try:
        command = prepare([*words, *extra], relative_cwd, env, work, out, None)
        code = await _execute(launcher, command, clock)
    except CannotRun as refusal:
        raise IsolateError(" ".join(str(refusal).split())) from refusal
    await asyncio.to_thread(_keep_outputs, asked.outputs, work, out)
    return code


async def _load(
    tree: tuple[str, str, str], places: Places, clock: Clock, monitor: Monitor, stack: AsyncExitStack
) -> Inputs:
    server, namespace, root = tree
    http = HttpClient(server, user_agent=f"swarming/{__version__}", clock=clock, monitor=monitor)
    store = HttpStore(await stack.enter_async_context(http), Namespace.parse(namespace))
    inputs = await load(store, root, places.work, places.cache, places.policy, clock, monitor, keep=False)
    stack.push_async_callback(asyncio.to_thread, inputs.close)
    stack.push_async_callback(asyncio.to_thread, inputs.put_away)
    return inputs


async def _execute(launcher: Launcher, command: Command, clock: Clock) -> int:
    """Run to the end; Ctrl-C gives the command the time to end itself, as long as it likes."""
    stop, loop = asyncio.Event(), asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGINT, stop.set)
    try:
        ended = await launcher.run(*command, hard_timeout_s=None, grace_period_s=30.0, stop=stop, clock=clock)
    finally:
        loop.remove_signal_handler(signal.SIGINT)
    if ended.start_error:
        raise cannot_start(command, ended.start_error)
    return ended.exit_code


def _make(places: Places) -> bool:
    """Make all of them; returns whether there are outputs already."""
    for place in (places.work, places.output, places.cache):
        place.mkdir(parents=True, exist_ok=True)
    return any(places.output.iterdir())


def _make_caches(caches: Mapping[str, str], work: Path) -> None:
    for name, path in caches.items():
        if working_directory(work, inner_path(path)) is None:
            raise IsolateError(f"The named cache {name!r} leads out of the directory of the inputs: {path!r}")


def _keep_outputs(outputs: Sequence[str], work: Path, out: Path) -> None:
    """Copy what the request names as outputs to where the others are."""
    for output in outputs:
        source, target = work / inner_path(output), out / inner_path(output)
        if source.is_dir():
            shutil.copytree(source, target, symlinks=True, dirs_exist_ok=True)
        elif source.exists():
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(source, target)


def _remove(work: Path) -> None:
    for folder, _, _ in os.walk(work):
        with suppress(OSError):
            os.chmod(folder, 0o700)
    shutil.rmtree(work, ignore_errors=True)
