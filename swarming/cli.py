"""The `swarming` command line: parse, call one function, print.

Knows no protocol; `trigger`, `collect` and `client` do the work, `report` makes the texts. The invariant: results go to
stdout, everything else to stderr, and the exit status is that of `isolate.terminal` or of the collected tasks.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from isolate.config import load as load_config
from isolate.terminal import EXIT_HELP, CommandGroup, Console, run_command, verbose_option, version_option
from swarming import config
from swarming.flags import (
    AFTER,
    IN_FILE,
    OUT_FILE,
    DelimitedCommand,
    collect_options,
    pair_option,
    server_option,
    trigger_options,
)

if TYPE_CHECKING:
    from swarming.session import Asked, Session
    from swarming.trigger import ShardRequest

Result = TypeVar("Result")


COLLECT_FLAGS = (
    "timeout_s",
    "decorate",
    "print_status_updates",
    "task_summary_json",
    "task_output_dir",
    "task_output_stdout",
    "filepath_filter",
    "perf",
)


@click.group(cls=CommandGroup, epilog=EXIT_HELP)
@version_option
def swarming() -> None:
    """Run isolated trees on a fleet of bots, and collect the results."""


@swarming.command(cls=DelimitedCommand)
@server_option
@trigger_options
@click.option("--dump-json", type=OUT_FILE, help="Write what `collect --json` needs.")
@verbose_option
@click.argument("what", nargs=-1)
@click.pass_obj
def trigger(
    console: Console, /, swarming: str | None, what: tuple[str, ...], dump_json: Path | None, **flags: Any
) -> None:
    """Trigger a task: [HASH | FILE.isolated] [-- extra arguments].

    The hash may also be given with -s, as in 2020.
    """
    asyncio.run(_trigger(console, swarming, what, _after_delimiter(), flags, dump_json))


@swarming.command(cls=DelimitedCommand)
@server_option
@trigger_options
@collect_options
@verbose_option
@click.argument("what", nargs=-1)
@click.pass_obj
def run(console: Console, /, swarming: str | None, what: tuple[str, ...], **flags: Any) -> int:
    """Trigger a task and wait for it: [HASH | FILE.isolated] [-- extra arguments].

    Exits as the task did.
    """
    return asyncio.run(_run(console, swarming, what, _after_delimiter(), flags))


@swarming.command()
@server_option
@click.option("-j", "--json", "json_file", type=IN_FILE, help="The tasks that `trigger --dump-json` wrote.")
@collect_options
@verbose_option
@click.argument("tasks", nargs=-1)
@click.pass_obj
def collect(
    console: Console, /, swarming: str | None, json_file: Path | None, tasks: tuple[str, ...], **flags: Any
) -> int:
    """Wait for TASKS, by id or by name, and print what they did.

    May be repeated until the server forgets the results. Exits with the last non-zero exit code.
    """
    return asyncio.run(_collect(console, swarming, json_file, tasks, flags))


@swarming.command()
@server_option
@click.option("-k", "--kill-running", is_flag=True, help="Also stop what is running.")
@verbose_option
@click.argument("tasks", nargs=-1, required=True)
@click.pass_obj
def cancel(console: Console, /, swarming: str | None, tasks: tuple[str, ...], *, kill_running: bool) -> int:
    """Cancel TASKS, by id."""

    async def act(session: Session) -> int:
        from swarming import actions

        return await actions.cancel(session.client, tasks, session.screen, kill_running=kill_running)

    return asyncio.run(_with_session(console, swarming, act))


@swarming.command()
@server_option
@pair_option("-d", "--dimension", "dimensions", metavar="KEY VALUE", text="Only bots that have it.")
@click.option("--dead-only", is_flag=True, help="Only dead bots.")
@click.option("-k", "--keep-dead", is_flag=True, help="Also dead bots.")
@click.option("--busy", is_flag=True, help="Only bots with a task.")
@click.option("--idle", is_flag=True, help="Only bots without a task.")
@click.option("-b", "--bare", is_flag=True, help="Only the ids.")
@verbose_option
@click.pass_obj
def bots(console: Console, /, swarming: str | None, **flags: Any) -> None:
    """List the bots, by default those that are alive."""
    for one, other in (("busy", "idle"), ("dead_only", "keep_dead")):
        if flags[one] and flags[other]:
            raise click.UsageError(f"Use only one of --{one.replace('_', '-')} or --{other.replace('_', '-')}")

    async def act(session: Session) -> None:
        from swarming import actions

        dead = "TRUE" if flags["dead_only"] else "NONE" if flags["keep_dead"] else "FALSE"
        busy = "TRUE" if flags["busy"] else "FALSE" if flags["idle"] else "NONE"
        await actions.bots(session.client, dead, busy, flags["dimensions"], session.screen, bare=flags["bare"])

    asyncio.run(_with_session(console, swarming, act))


@swarming.command()
@server_option
@click.option("-L", "--limit", default=200, show_default=True, help="Most items to list.")
@click.option("--json", "json_file", type=OUT_FILE, help="Write to a file instead.")
@verbose_option
@click.argument("method", default="bots/list")
@click.pass_obj
def query(console: Console, /, swarming: str | None, limit: int, json_file: Path | None, method: str) -> None:
    """Print what METHOD of the REST API answers, such as `tasks/list?state=PENDING`."""

    async def act(session: Session) -> None:
        from swarming import actions

        reply = await actions.query(session.client, method, limit)
        if json_file:
            actions.write_json(json_file, reply, compact=True)
        else:
            session.screen.out(actions.json_text(reply))

    asyncio.run(_with_session(console, swarming, act))


async def _with_session(
    console: Console, server: str | None, act: Callable[[Session], Coroutine[Any, Any, Result]]
) -> Result:
    from isolate.urls import normalize_url
    from swarming.actions import Screen
    from swarming.session import connect

    if not server:
        raise click.UsageError("--swarming is required (or set SWARMING_SERVER).")
    screen = Screen(click.echo, lambda text: click.echo(text, err=True))
    with console.watch() as monitor:
        async with connect(normalize_url(server), screen, monitor) as session:
            return await act(session)


async def _trigger(
    console: Console,
    server: str | None,
    what: tuple[str, ...],
    after: tuple[str, ...],
    flags: dict[str, Any],
    dump_json: Path | None,
) -> None:
    from swarming import actions
    from swarming.session import shard_requests

    async def act(session: Session) -> None:
        shards = await shard_requests(session, _asked(what, after), flags)
        tasks = await actions.trigger(session.client, shards, session.screen)
        name = _base_name(shards)
        if dump_json:
            actions.dump(tasks, name, session.url, dump_json)
        session.screen.out(actions.how_to_collect(tasks, name, session.url, dump_json))

    await _with_session(console, server, act)


async def _run(
    console: Console, server: str | None, what: tuple[str, ...], after: tuple[str, ...], flags: dict[str, Any]
) -> int:
    from swarming import actions
    from swarming.session import gather, shard_requests

    async def act(session: Session) -> int:
        collecting = {name: flags.pop(name) for name in COLLECT_FLAGS}
        shards = await shard_requests(session, _asked(what, after), flags)
        tasks = await actions.trigger(session.client, shards, session.screen)
        session.screen.out(f"Triggered task: {_base_name(shards)}")
        for task in tasks:
            session.screen.out(f"Task: {session.url}/task?id={task.task_id}")
        longest_s = actions.longest_s(shards[0].body)
        return await gather(session, [task.task_id for task in tasks], collecting, longest_s, load_config().blob_cache)

    return await _with_session(console, server, act)


async def _collect(
    console: Console, server: str | None, json_file: Path | None, tasks: tuple[str, ...], flags: dict[str, Any]
) -> int:
    from swarming import actions
    from swarming.collect import FOREVER_S
    from swarming.session import gather

    if json_file and tasks:
        raise click.UsageError("Only use one of task id or --json.")
    if not json_file and not tasks:
        raise click.UsageError("Must specify at least one task id or --json.")
    listed = actions.load(json_file) if json_file else None
    cache = load_config().blob_cache

    async def act(session: Session) -> int:
        if listed:
            return await gather(session, listed.task_ids, flags, listed.longest_s, cache)
        return await gather(session, await actions.find(session.client, tasks), flags, FOREVER_S, cache)

    return await _with_session(console, server, act)


def _base_name(shards: Sequence[ShardRequest]) -> str:
    name = shards[0].name
    return name if len(shards) == 1 else name.removesuffix(f":0:{len(shards)}")


def _asked(what: tuple[str, ...], after: tuple[str, ...]) -> Asked:
    from swarming.session import Asked

    return Asked(what, after, config.user_name(), config.parent_task_id())


def _after_delimiter() -> tuple[str, ...]:
    """Return what the user typed after `--`."""
    found: tuple[str, ...] = click.get_current_context().meta[AFTER]
    return found


def main() -> int:
    """Run the command line; return its exit status."""
    return run_command("swarming", swarming)
