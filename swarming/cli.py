"""The `swarming` command line: parse, call one function, print.

Knows no protocol; `trigger`, `collect` and `client` do the work, `report` makes the texts. The invariant: results go to
stdout, everything else to stderr, and the exit status is that of `isolate.terminal` or of the collected tasks.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from isolate import ending
from isolate.config import load_settings
from isolate.streams import has_stdout
from isolate.terminal import (
    EXIT_FAILED,
    EXIT_HELP,
    EXIT_INTERRUPTED,
    CommandGroup,
    Console,
    drawing_console,
    is_terminal,
    run_command,
    verbose_option,
    version_option,
)
from swarming import commands, completing, config, task_commands
from swarming.flags import (
    AFTER,
    IN_FILE,
    OUT_FILE,
    DelimitedCommand,
    collect_options,
    server_option,
    trigger_options,
)

if TYPE_CHECKING:
    from swarming.actions import TriggeredTask
    from swarming.session import Asked, Here, Session
    from swarming.trigger import ShardRequest

COLLECT_FLAGS = (
    "timeout_s",
    "decorate",
    "print_status_updates",
    "task_summary_json",
    "task_output_dir",
    "task_output_stdout",
    "filepath_filter",
    "perf",
    "live",
)


@click.group(cls=CommandGroup, epilog=EXIT_HELP)
@version_option
def swarming() -> None:
    """Run isolated trees on a fleet of bots, and collect the results."""


@swarming.command(cls=DelimitedCommand, short_help="Trigger a task, or one for each shard.")
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
    from isolate.clock import SystemClock
    from swarming import actions
    from swarming.session import shard_requests

    asked = _asked(what)

    async def act(session: Session) -> None:
        shards = await shard_requests(session, asked, flags)
        if dump_json:
            actions.check_writable(dump_json)
        tasks: list[TriggeredTask] = []
        try:
            await actions.trigger(session.client, shards, session.screen, tasks, SystemClock())
        finally:
            if tasks:
                actions.tell(tasks, _base_name(shards), session.url, dump_json, session.screen)

    commands.with_session(console, swarming, act)


@swarming.command(cls=DelimitedCommand, short_help="Trigger a task and wait for it.")
@server_option
@trigger_options
@collect_options
@click.option("--live/--no-live", default=True, help="Print the output of a single task while it runs.")
@verbose_option
@click.argument("what", nargs=-1)
@click.pass_obj
def run(console: Console, /, swarming: str | None, what: tuple[str, ...], **flags: Any) -> int:
    """Trigger a task and wait for it: [HASH | FILE.isolated] [-- extra arguments].

    Prints what the task prints while it runs, and exits as the task did. With several shards or --decorate the output
    of each is printed when it has ended. Ctrl-C asks whether to cancel the task or to leave it running;
    SIGTERM and SIGHUP leave it running. Both say how to collect it later.
    """
    _check_filter(flags)
    done: list[TriggeredTask] = []
    try:
        return _run(console, swarming, _asked(what), flags, done)
    except KeyboardInterrupt:
        if done:
            _interrupted(console, swarming, done)
        return EXIT_INTERRUPTED
    except Exception:
        if done:
            _tell_how_to_collect(done, swarming)
        raise


@swarming.command(short_help="Wait for tasks, and print what they did.")
@server_option
@click.option("-j", "--json", "json_file", type=IN_FILE, help="The tasks that `trigger --dump-json` wrote.")
@collect_options
@verbose_option
@click.argument("tasks", nargs=-1, shell_complete=completing.tasks)
@click.pass_obj
def collect(
    console: Console, /, swarming: str | None, json_file: Path | None, tasks: tuple[str, ...], **flags: Any
) -> int:
    """Wait for TASKS, by id or by name, and print what they did.

    May be repeated until the server forgets the results. Exits with the last non-zero exit code, which is 1 for a
    task that did not end by itself or cannot be collected.
    """
    from swarming import actions
    from swarming.collect import FOREVER_S
    from swarming.session import check_places, gather

    if json_file and tasks:
        raise click.UsageError("Only use one of task id or --json.")
    if not json_file and not tasks:
        raise click.UsageError("Must specify at least one task id or --json.")
    _check_filter(flags)
    listed = actions.load(json_file) if json_file else None

    async def act(session: Session) -> int:
        task_ids = listed.task_ids if listed else await actions.find(session.client, tasks, session.screen.err)
        check_places(flags)
        return await gather(session, task_ids, flags, listed.longest_s if listed else FOREVER_S, _here())

    return commands.with_session(console, swarming, act, bars=False)


for command in (*commands.ALL, *task_commands.ALL):
    swarming.add_command(command)


def _run(console: Console, server: str | None, asked: Asked, flags: dict[str, Any], done: list[TriggeredTask]) -> int:
    from isolate.clock import SystemClock
    from swarming import actions
    from swarming.session import check_places, gather, shard_requests

    async def act(session: Session) -> int:
        collecting = {name: flags.pop(name) for name in COLLECT_FLAGS}
        shards = await shard_requests(session, asked, flags)
        check_places(collecting)
        await actions.trigger(session.client, shards, session.screen, done, SystemClock())
        session.screen.out(f"Triggered task: {_base_name(shards)}")
        for task in done:
            session.screen.out(f"Task: {session.url}/task?id={task.task_id}")
        longest_s = actions.longest_s(shards[0].body)
        task_ids = [task.task_id for task in done]
        return await gather(
            session, task_ids, collecting, longest_s, _here(), actions.collect_command(done, session.url)
        )

    return commands.with_session(console, server, act, bars=False)


def _interrupted(console: Console, server: str | None, done: list[TriggeredTask]) -> None:
    """Ask whether to cancel what was triggered; else, or where nobody can answer, say how to collect it."""
    from swarming import orders

    async def cancel(session: Session) -> None:
        task_ids = [task.task_id for task in done]
        await orders.withdraw(session.client, task_ids, session.screen)

    what = "the task" if len(done) == 1 else f"the {len(done)} tasks"
    try:
        asked = not ending.came() and is_terminal(sys.stdin) and is_terminal(sys.stderr)
        if asked and click.confirm(f"\nCancel {what}? Otherwise left running", err=True):
            commands.with_session(console, server, cancel, bars=False)
            return
    except click.Abort:  # Ctrl-C again: whoever is in such a hurry does not want to wait for a server
        pass
    click.echo("Left running. ", nl=False, err=True)
    _tell_how_to_collect(done, server)


def _tell_how_to_collect(done: list[TriggeredTask], server: str | None) -> None:
    from isolate.urls import normalize_url
    from swarming import actions

    command = actions.collect_command(done, normalize_url(server or ""))
    click.echo(f"To collect results, use:\n  {command}", err=True)


def _check_filter(flags: dict[str, Any]) -> None:
    if flags["filepath_filter"] and not flags["task_output_dir"]:
        raise click.UsageError("--filepath-filter chooses among the outputs that --task-output-dir brings: give both.")


def _here() -> Here:
    from isolate.config import load
    from swarming.session import Here

    return Here(load().blob_cache, drawing_console())


def _base_name(shards: Sequence[ShardRequest]) -> str:
    name = shards[0].name
    return name if len(shards) == 1 else name.removesuffix(f":0:{len(shards)}")


def _asked(what: tuple[str, ...]) -> Asked:
    from swarming.session import Asked

    return Asked(what, _after_delimiter(), config.user_name(), config.parent_task_id())


def _after_delimiter() -> tuple[str, ...]:
    """Return what the user typed after `--`."""
    found: tuple[str, ...] = click.get_current_context().meta[AFTER]
    return found


def main() -> int:
    """Run the command line; return its exit status."""
    return run_command("swarming", swarming, settings=load_settings) if has_stdout("swarming") else EXIT_FAILED
