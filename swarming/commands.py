"""The commands of `swarming` about bots and the REST API as a whole: parse, call one function, print.

A root. Knows no protocol. The invariant: results go to stdout, everything else to stderr.
"""

from __future__ import annotations

import asyncio
import shutil
import sys
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO, TypeVar

import click

from isolate.commands import CommandGroup
from isolate.terminal import EXIT_FAILED, Console, TerminalMonitor, is_terminal, verbose_option
from swarming import completing
from swarming.flags import OUT_FILE, pair_option, server_option

if TYPE_CHECKING:
    from isolate.monitor import Monitor
    from swarming.actions import Screen
    from swarming.session import Session

Result = TypeVar("Result")


def screen_of_terminal(console: Console) -> Screen:
    """Return stdout for results and stderr for the rest; bars of `console` stay below whole lines."""
    from swarming.actions import Screen

    def out(text: str) -> None:
        with console.aside():
            click.echo(text)

    def err(text: str) -> None:
        with console.aside():
            click.echo(text, err=True)

    return Screen(out, err, lambda text: click.echo(text, nl=False))


def screen_width() -> int | None:
    """Return the columns of the screen that results go to; None when they go to a file or a pipe."""
    return shutil.get_terminal_size().columns if is_terminal(sys.stdout) else None


def _stdin(what: str) -> TextIO:
    if sys.stdin is None:
        raise click.UsageError(f"Stdin is closed, where {what} is to come from.")
    return sys.stdin


def with_session(
    console: Console,
    server: str | None,
    act: Callable[[Session], Coroutine[Any, Any, Result]],
    *,
    bars: bool = True,
) -> Result:
    """Return what `act` does with the server; `bars` show its progress unless it draws on the terminal itself."""
    from isolate.urls import normalize_url
    from swarming.session import connect

    if not server:
        raise click.UsageError("--swarming is required (or set SWARMING_SERVER).")
    url = normalize_url(server)

    async def talk(monitor: Monitor) -> Result:
        async with connect(url, screen_of_terminal(console), monitor) as session:
            return await act(session)

    if not bars:
        return asyncio.run(talk(TerminalMonitor(console.program)))
    with console.watch() as monitor:
        return asyncio.run(talk(monitor))


@click.command(cls=CommandGroup.command_class)
@server_option
@click.option("-k", "--kill-running", is_flag=True, help="Also stop what is running.")
@verbose_option
@click.argument("tasks", nargs=-1, required=True, shell_complete=completing.task_ids)
@click.pass_obj
def cancel(console: Console, /, swarming: str | None, tasks: tuple[str, ...], *, kill_running: bool) -> int:
    """Cancel TASKS, by id."""

    async def act(session: Session) -> int:
        from swarming import orders

        return await orders.cancel(session.client, tasks, session.screen, kill_running=kill_running)

    return with_session(console, swarming, act)


@click.command(cls=CommandGroup.command_class, short_help="List the bots that are alive.")
@server_option
@pair_option("-d", "--dimension", "dimensions", metavar="KEY VALUE", text="Only bots that have it.")
@click.option("--optional-dimension", nargs=3, multiple=True, hidden=True, expose_value=False)
@click.option("--dead-only", is_flag=True, help="Only dead bots.")
@click.option("-k", "--keep-dead", is_flag=True, help="Also dead bots.")
@click.option("--busy", is_flag=True, help="Only bots with a task.")
@click.option("--idle", is_flag=True, help="Only bots without a task.")
@click.option("--mp", is_flag=True, hidden=True)
@click.option("--non-mp", is_flag=True, hidden=True)
@click.option("-b", "--bare", is_flag=True, help="Only the ids.")
@click.option("--table/--no-table", default=None, help="As a table [default: on a terminal].")
@verbose_option
@click.pass_obj
def bots(console: Console, /, swarming: str | None, **flags: Any) -> None:
    """List the bots, by default those that are alive: heard of in the last ten minutes, also if they ended."""
    for one, other in (("busy", "idle"), ("dead_only", "keep_dead"), ("mp", "non_mp")):
        if flags[one] and flags[other]:
            raise click.UsageError(f"Use only one of --{one.replace('_', '-')} or --{other.replace('_', '-')}")
    table = flags["table"] if flags["table"] is not None else is_terminal(sys.stdout)
    wanted = {
        "is_dead": "TRUE" if flags["dead_only"] else "NONE" if flags["keep_dead"] else "FALSE",
        "is_busy": "TRUE" if flags["busy"] else "FALSE" if flags["idle"] else "NONE",
        "is_mp": "TRUE" if flags["mp"] else "FALSE" if flags["non_mp"] else "NONE",
        "dimensions": [f"{key}:{value}" for key, value in flags["dimensions"]],
    }

    async def act(session: Session) -> None:
        from swarming import listing

        found = await listing.bots(session.client, wanted)
        if table and not flags["bare"]:
            session.screen.out("\n".join(listing.bots_table(found, screen_width())))
        else:
            listing.show_bots(found, session.screen, bare=flags["bare"])

    with_session(console, swarming, act)


@click.command("bot-delete", cls=CommandGroup.command_class, short_help="Make the server forget bots.")
@server_option
@click.option("-f", "--force", is_flag=True, help="Do not ask.")
@verbose_option
@click.argument("bots", nargs=-1, required=True, shell_complete=completing.bots)
@click.pass_obj
def bot_delete(console: Console, /, swarming: str | None, bots: tuple[str, ...], *, force: bool) -> int:
    """Make the server forget BOTS, by id; one that still runs comes back."""
    if not force:
        click.echo("Delete the following bots?")
        for bot in bots:
            click.echo(f"  {bot}")
        click.echo("Continue? [y/N] ", nl=False)
        if _stdin("the answer").readline().strip().lower() not in {"y", "yes"}:
            click.echo("Goodbye.")
            return EXIT_FAILED

    async def act(session: Session) -> int:
        from swarming import orders

        return await orders.delete_bots(session.client, bots, session.screen)

    return with_session(console, swarming, act)


@click.command(cls=CommandGroup.command_class, short_help="Ask a bot to end once it is idle.")
@server_option
@click.option("--wait", is_flag=True, help="Wait until the bot has ended.")
@verbose_option
@click.argument("bot", shell_complete=completing.bots)
@click.pass_obj
def terminate(console: Console, /, swarming: str | None, bot: str, *, wait: bool) -> int:
    """Ask BOT to end once it is idle, and print the id of the task that does it."""

    async def act(session: Session) -> int:
        from isolate.clock import SystemClock
        from swarming import orders
        from swarming.collect import Wanted
        from swarming.show import Show, collect_and_show

        task_id = await orders.terminate(session.client, bot, session.screen)
        if task_id is None:
            return EXIT_FAILED
        if not wait:
            return 0
        how = Show(url=session.url)
        return await collect_and_show(session.client, [task_id], Wanted(), how, SystemClock(), session.screen)

    return with_session(console, swarming, act, bars=False)


@click.command(cls=CommandGroup.command_class, short_help="POST JSON to the REST API.")
@server_option
@verbose_option
@click.argument("method")
@click.pass_obj
def post(console: Console, /, swarming: str | None, method: str) -> int:
    """POST the JSON on stdin to METHOD of the REST API, such as `tasks/new`, and print the reply as it is."""
    body = _stdin("the JSON to post").buffer.read()

    async def act(session: Session) -> int:
        from swarming import orders

        return await orders.post(session.client, method, body, session.screen)

    return with_session(console, swarming, act)


@click.command(cls=CommandGroup.command_class, short_help="GET from the REST API, all pages of it.")
@server_option
@click.option("-L", "--limit", default=200, show_default=True, help="Most items to list; 250 are asked for at a time.")
@click.option("--json", "json_file", type=OUT_FILE, help="Write to a file instead.")
@click.option("--progress", is_flag=True, help="Print a dot for each page on stderr.")
@verbose_option
@click.argument("method", default="bots/list")
@click.pass_obj
def query(
    console: Console, /, swarming: str | None, limit: int, json_file: Path | None, method: str, *, progress: bool
) -> None:
    """Print what METHOD of the REST API answers, such as `tasks/list?state=PENDING`; by default the bots."""

    def tick() -> None:
        if progress:
            click.echo(".", nl=False, err=True)

    async def act(session: Session) -> None:
        from swarming import actions, listing

        reply = await listing.query(session.client, method, limit, tick)
        if progress:
            session.screen.err("")
        if json_file:
            actions.write_json(json_file, reply, compact=True)
        else:
            session.screen.out(actions.json_text(reply))

    with_session(console, swarming, act)


@click.command("query-list", cls=CommandGroup.command_class)
@server_option
@click.option("--json", "json_file", type=OUT_FILE, help="Write the descriptions to a file instead.")
@verbose_option
@click.pass_obj
def query_list(console: Console, /, swarming: str | None, json_file: Path | None) -> None:
    """List what `query` can be asked for."""

    async def act(session: Session) -> None:
        from swarming import actions, listing

        found = await listing.query_list(session.client)
        if json_file:
            actions.write_json(json_file, found, compact=True)
            return
        for line in listing.described(found, f"{session.url}/_ah/api/explorer"):
            session.screen.out(line)

    with_session(console, swarming, act)


ALL = (bot_delete, bots, cancel, post, query, query_list, terminate)
