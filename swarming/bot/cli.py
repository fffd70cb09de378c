"""The command `swarming-bot`.

A root: it parses flags, lets a bot live, and maps its end to an exit status or to the program that comes next.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from isolate.terminal import EXIT_FAILED, EXIT_HELP, CommandGroup, run_command, version_option

if TYPE_CHECKING:
    from swarming.bot.config import BotConfig
    from swarming.bot.life import Ended
    from swarming.bot.probation import Guardian


def identity_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the flags that say which bot this is."""
    for option in (
        click.option("--cost-usd-hour", default=0.0, type=click.FloatRange(0), help="What an hour of this bot costs."),
        click.option(
            "--dimension",
            "dimensions",
            metavar="KEY VALUE",
            nargs=2,
            multiple=True,
            help="Set a dimension; repeat a KEY for several values. Without one for pool it is in 'default'.",
        ),
        click.option("--id", "bot_id", metavar="ID", help="[default: $SWARMING_BOT_ID, else the short host name]"),
        click.option(
            "--dir",
            "directory",
            metavar="DIR",
            type=click.Path(file_okay=False, path_type=Path),
            help="Directory of this bot alone. [default: ~/.local/share/swarming-bot/ID, or below $XDG_DATA_HOME]",
        ),
    ):
        command = option(command)
    return command


@click.group(name="swarming-bot", cls=CommandGroup, default="run", epilog=EXIT_HELP)
@version_option
def cli() -> None:
    """Run tasks of a swarming server on this machine. Without a command: run."""


@cli.command(epilog=EXIT_HELP)
@click.option("-S", "--server", metavar="URL", help="The server to work for. [default: $SWARMING_SERVER]")
@identity_options
@click.option(
    "--reboot-command",
    metavar="COMMAND",
    default="",
    help="What to run when the server asks for a reboot; without it this machine is never rebooted.",
)
@click.option(
    "--hook-timeout",
    "hook_limit_s",
    metavar="SECONDS",
    default=60.0,
    show_default=True,
    type=click.FloatRange(0, min_open=True),
    help="How long a hook of the server's bot_config.py may take; a bot whose hooks hang is quarantined.",
)
@click.option(
    "--trial-time",
    "tried_s",
    metavar="SECONDS",
    default=300.0,
    show_default=True,
    type=click.FloatRange(0),
    help="How long an update has to work before it is kept; until then its end brings the version before back.",
)
@click.option("--trial", metavar="SESSION", hidden=True, help="Only introduce this version to the server, for another.")
@click.option("--candidate", hidden=True, nargs=2, type=int, help="Tell a guard how this version gets on.")
@click.option("-v", "--verbose", is_flag=True, help="Say more on stderr.")
def run(*, verbose: bool, trial: str | None, candidate: tuple[int, int] | None, **flags: Any) -> int:
    """Ask the server for tasks and run them, one at a time, until told to end.

    SIGTERM or Ctrl-C: the task at hand is finished first; a second one ends the task, too. A second bot on one machine
    needs another --id, and another --dir if that is given.
    """
    import signal

    from isolate.clock import SystemClock
    from run_isolated import linux
    from swarming.bot import life, slots
    from swarming.bot.config import load
    from swarming.bot.logs import start_log
    from swarming.bot.main import Ending
    from swarming.bot.probation import Guardian
    from swarming.bot.workdir import WorkDirectory

    config, words = load(**flags), sys.argv[1:]
    if trial is not None:
        return _introduce(config, trial)
    if candidate is not None:
        words = words[: -slots.CANDIDATE_WORDS]
        linux.die_with_parent(signal.SIGKILL, candidate[1])
    guardian = Guardian(None if candidate is None else candidate[0])
    with WorkDirectory.taken(config.directory) as directory:
        start_log(directory.logs, verbose=verbose)
        life.dump_stacks_on_request(directory)
        ended = asyncio.run(life.serve(config, directory, words, guardian, SystemClock()))
    if ended.ending is Ending.RESTART:
        _go_on(ended, guardian, words, config.server, config.directory)
    guardian.tell(slots.DONE)
    return EXIT_FAILED if ended.ending is Ending.REPLACED else 0


@cli.command(epilog=EXIT_HELP)
@identity_options
def attributes(**flags: Any) -> None:
    """Print the dimensions and the state that this bot would report, as JSON."""
    import json
    import os

    from isolate.clock import SystemClock
    from swarming.bot.attributes import Attributes
    from swarming.bot.config import load_identity
    from swarming.bot.machine import read_machine

    found = Attributes(load_identity(**flags), read_machine(), os.environ, SystemClock())
    shown = {"dimensions": found.dimensions("", {}), "state": found.state(0), "version": found.version}
    click.echo(json.dumps(shown, indent=2, sort_keys=True))


@cli.command(epilog=EXIT_HELP)
@click.option("-S", "--server", metavar="URL", help="The server to work for. [default: $SWARMING_SERVER]")
@identity_options
def config(**flags: Any) -> None:
    """Print what a bot with these flags would work with, as JSON."""
    import json

    from swarming.bot.config import load
    from swarming.bot.update import own_version

    found = load(**flags)
    shown = {
        "server": found.server,
        "id": found.identity.bot_id,
        "directory": str(found.directory),
        "dimensions": found.identity.extra,
        "cost_usd_hour": found.identity.cost_usd_hour,
        "external_setup": found.external_setup,
        "archive": own_version(),
    }
    click.echo(json.dumps(shown, indent=2, sort_keys=True))


@cli.command(epilog=EXIT_HELP)
def version() -> None:
    """Print the version of the code of this bot, as a server sees it."""
    from swarming.bot.update import own_version
    from swarming.bot_archive import code_version

    click.echo(own_version() or code_version())


@cli.command(epilog=EXIT_HELP)
@click.option("-S", "--server", metavar="URL", help="The server to work for. [default: $SWARMING_SERVER]")
@identity_options
@click.option(
    "--unit",
    metavar="FILE",
    type=click.Path(dir_okay=False, path_type=Path),
    default=None,
    help="Where to write the unit. [default: ~/.config/systemd/user/swarming-bot-ID.service]",
)
def install(unit: Path | None, **flags: Any) -> None:
    """Write a systemd unit that runs this bot, for the user who calls this; starts nothing.

    Prints the file, and on stderr the command that starts the bot now and with the machine.
    """
    import shlex

    from isolate.cas.files import write_atomic
    from isolate.errors import InvalidInput
    from swarming.bot.config import load
    from swarming.bot.unit import command, systemd_unit

    found = load(**flags)
    name = f"swarming-bot-{found.identity.bot_id}.service"
    file = unit or Path.home() / ".config" / "systemd" / "user" / name
    if file.suffix != ".service":
        raise InvalidInput(f"--unit {str(file)!r}: systemd wants a name that ends in .service")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(
            file, systemd_unit(found.identity.bot_id, command(found.server, found.identity)).encode(), durable=True
        )
    except OSError as error:
        raise InvalidInput(f"Cannot write {file}: {error.strerror}") from error
    click.echo(file)
    named = shlex.quote(file.name if unit is None else str(file.absolute()))  # a path works wherever it is
    click.echo(f"The bot works for {found.server}", err=True)  # what was meant by a word without a scheme
    click.echo(f"Start it with: systemctl --user daemon-reload && systemctl --user enable --now {named}", err=True)


def _introduce(config: BotConfig, session: str) -> int:
    """Show that this version works here; what is wrong with the moment has a status of its own."""
    import errno

    from isolate.clock import SystemClock
    from isolate.errors import NoSpace, Unavailable
    from isolate.terminal import describe
    from swarming.bot import life, slots

    passing = {errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.ENOMEM, errno.EAGAIN, errno.EMFILE, errno.ENFILE}
    try:
        asyncio.run(life.introduce(config, session, SystemClock()))
    except (Unavailable, NoSpace, OSError) as error:
        may_pass = not isinstance(error, OSError) or error.errno in passing
        if not may_pass and not isinstance(error, (ConnectionError, TimeoutError)):
            raise
        click.echo(describe(error), err=True)
        return slots.NOT_NOW
    return 0


def _go_on(ended: Ended, guardian: Guardian, words: list[str], server: str, directory: Path) -> None:
    """Become a fresh process of the same program, or the guard of its next version, as the same bot."""
    import os

    from swarming.bot import slots
    from swarming.unpack import FOLDER

    if guardian.is_there:
        guardian.tell(*((slots.BECOME, ended.chosen) if ended.chosen else (slots.AGAIN,)))
        sys.exit(0)
    command = slots.bot_command(sys.executable, words)
    if ended.chosen:
        command = slots.guard_command(sys.executable, directory.resolve() / FOLDER, ended.chosen, server, words)
    os.execv(command[0], command)  # noqa: S606


def main() -> int:
    """Run the command line and return the exit status."""
    return run_command("swarming-bot", cli)


if __name__ == "__main__":
    sys.exit(main())
