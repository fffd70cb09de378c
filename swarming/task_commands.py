"""The commands of `swarming` about tasks that were triggered before: list, explain, run again here.

A root: parses, calls one function, prints. The invariant: results go to stdout, everything else to stderr.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from isolate.commands import CommandGroup
from isolate.terminal import EXIT_HELP, Console, verbose_option
from swarming import completing
from swarming.commands import screen_width, with_session
from swarming.flags import AFTER, DelimitedCommand, server_option

if TYPE_CHECKING:
    from swarming.session import Session

PIPE = Path("-")
STATES = ("PENDING", "RUNNING", "PENDING_RUNNING", "COMPLETED", "COMPLETED_SUCCESS", "COMPLETED_FAILURE", "EXPIRED",
          "TIMED_OUT", "BOT_DIED", "CANCELED", "ALL", "DEDUPED", "KILLED", "NO_RESOURCE")  # fmt: skip


@click.group(cls=CommandGroup, default="list", epilog=EXIT_HELP)
def tasks() -> None:
    """List tasks, or say why one is pending. Without a command: list."""


@tasks.command("list")
@server_option
@click.option("--state", type=click.Choice(STATES, case_sensitive=False), default="ALL", metavar="STATE",
              help=f"Only those in this state, of {', '.join(STATES)}.")  # fmt: skip
@click.option("--tag", "--tags", "tags", multiple=True, metavar="KEY:VALUE", help="Only tasks that have it.")
@click.option("-L", "--limit", default=50, show_default=True, type=click.IntRange(min=1), help="The newest so many.")
@click.option("--json", "json_file", type=click.Path(dir_okay=False, allow_dash=True, path_type=Path),
              help="Write what the server says to this file instead; - is stdout.")  # fmt: skip
@verbose_option
@click.pass_obj
def tasks_list(
    console: Console, /, swarming: str | None, state: str, tags: tuple[str, ...], limit: int, json_file: Path | None
) -> None:
    """List tasks, newest first."""

    async def act(session: Session) -> None:
        from swarming import actions, listing

        asked = {"state": state.upper(), "tags": list(tags)}
        found = [item async for item in session.client.items("tasks/list", asked, limit)]
        if json_file is None:
            session.screen.out("\n".join(listing.tasks_table(found, screen_width())))
        elif json_file == PIPE:
            session.screen.out(actions.json_text({"items": found}))
        else:
            actions.write_json(json_file, {"items": found}, compact=True)

    with_session(console, swarming, act)


@tasks.command("why", short_help="Say why a task is still pending.")
@server_option
@verbose_option
@click.argument("ids", metavar="TASK...", nargs=-1, required=True, shell_complete=completing.tasks)
@click.pass_obj
def tasks_why(console: Console, /, swarming: str | None, ids: tuple[str, ...]) -> None:
    """Say why a TASK, by id or by name, is still pending: what it asks for, set against the bots there are."""

    async def act(session: Session) -> None:
        from swarming import actions, listing, why

        client = session.client
        found = await actions.find(client, ids)
        fleet = await listing.bots(client, {})
        for task_id in found:
            result, request = (await client.result(task_id)).raw, await client.request(task_id)
            session.screen.out("\n".join(why.explain(result, request, fleet)))

    with_session(console, swarming, act)


@click.command(cls=DelimitedCommand, short_help="Run a task again on this machine.")
@server_option
@click.option(
    "--work",
    type=click.Path(path_type=Path),
    default="work",
    show_default=True,
    metavar="DIR",
    help="Where inputs are mapped and the command runs; must not exist, and is removed in the end.",
)
@click.option(
    "--output",
    type=click.Path(path_type=Path),
    default="out",
    show_default=True,
    metavar="DIR",
    help="Where outputs stay.",
)
@click.option(
    "--cache",
    type=click.Path(path_type=Path),
    default="cache",
    show_default=True,
    metavar="DIR",
    help="Where inputs are kept between runs.",
)
@click.option("--leak", is_flag=True, help="Keep the directory of --work.")
@verbose_option
@click.argument("task", shell_complete=completing.tasks)
@click.argument("more", nargs=-1, metavar="[-- ARGUMENTS]...")
@click.pass_context
def reproduce(
    ctx: click.Context, /, swarming: str | None, task: str, more: tuple[str, ...], *, leak: bool, **places: Path
) -> int:
    """Run TASK, by id or by name, again on this machine; exits as its command does.

    What follows -- is added to its command.
    """
    from swarming import config

    async def act(session: Session) -> int:
        from swarming import actions
        from swarming.outputs import POLICY
        from swarming.reproduce import Places
        from swarming.reproduce import reproduce as run_here

        (task_id, *_) = await actions.find(session.client, [task])
        where = Places(**places, leak=leak, policy=POLICY)
        extra = (*more, *ctx.meta[AFTER])
        return await run_here(session.client, task_id, extra, where, config.environment(), session.monitor)

    return with_session(ctx.obj, swarming, act, bars=False)


ALL = (reproduce, tasks)
