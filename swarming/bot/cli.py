"""The command `swarming-bot`.

A root: it puts a bot together and maps its end to an exit status. Longer than others, because half of it declares flags
and the other half is the one place where every part of a bot is known.
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
    from isolate.clock import Clock
    from swarming.bot.config import BotConfig
    from swarming.bot.hands import MachineHands
    from swarming.bot.main import Ending
    from swarming.bot.protocol import BotApi
    from swarming.bot.script import Script
    from swarming.bot.settings import Settings
    from swarming.bot.workdir import WorkDirectory


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
@click.option("--trial", metavar="SESSION", hidden=True, help="Only introduce this version to the server, for another.")
@click.option("-v", "--verbose", is_flag=True, help="Say more on stderr.")
def run(*, verbose: bool, trial: str | None, **flags: Any) -> int:
    """Ask the server for tasks and run them, one at a time, until told to end.

    SIGTERM or Ctrl-C: the task at hand is finished first; a second one ends the task, too. A second bot on one machine
    needs another --id, and another --dir if that is given.
    """
    from swarming.bot.config import load
    from swarming.bot.logs import start_log
    from swarming.bot.main import Ending
    from swarming.bot.workdir import WorkDirectory

    config = load(**flags)
    if trial is not None:
        asyncio.run(_introduce(config, trial))
        return 0
    with WorkDirectory.taken(config.directory) as directory:
        start_log(directory.logs, verbose=verbose)
        ending, python = asyncio.run(_serve(config, directory))
    if ending is Ending.RESTART:
        _start_anew(python)
    return EXIT_FAILED if ending is Ending.REPLACED else 0


@cli.command(epilog=EXIT_HELP)
@identity_options
def attributes(**flags: Any) -> None:
    """Print the dimensions and the state that this bot would report, as JSON."""
    import json

    from isolate.clock import SystemClock
    from swarming.bot.attributes import Attributes
    from swarming.bot.config import load_identity
    from swarming.bot.machine import read_machine

    found = Attributes(load_identity(**flags), read_machine(), {}, SystemClock())
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
    from swarming.bot.attributes import code_version
    from swarming.bot.update import own_version

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
    from isolate.cas.files import write_atomic
    from isolate.errors import InvalidInput
    from swarming.bot.config import load
    from swarming.bot.unit import command, systemd_unit

    found = load(**flags)
    name = f"swarming-bot-{found.identity.bot_id}.service"
    file = unit or Path.home() / ".config" / "systemd" / "user" / name
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(
            file, systemd_unit(found.identity.bot_id, command(found.server, found.identity)).encode(), durable=True
        )
    except OSError as error:
        raise InvalidInput(f"Cannot write {file}: {error.strerror}") from error
    click.echo(file)
    click.echo(f"Start it with: systemctl --user daemon-reload && systemctl --user enable --now {file.name}", err=True)


async def _serve(config: BotConfig, directory: WorkDirectory) -> tuple[Ending, Path | None]:
    """Let the bot live; return how it ended, and the interpreter to go on with if it is another."""
    import logging
    import uuid

    from isolate import __version__
    from isolate.clock import SystemClock
    from isolate.http import HttpClient
    from swarming import unpack
    from swarming.bot.hands import MachineHands
    from swarming.bot.protocol import BotApi
    from swarming.bot.update import Updater
    from swarming.bot.workplace import Workplace

    log, clock, identity = logging.getLogger(__name__), SystemClock(), config.identity
    log.info("Bot %s works in %s for %s", identity.bot_id, directory.root, config.server)
    ended = directory.end_tasks()
    directory.clean()
    if ended:
        log.warning("Ended %d processes that a crashed bot left here", ended)
    script = _script(config, directory, clock)
    async with HttpClient(config.server, user_agent=f"swarming_bot/{__version__}", connections=2, clock=clock) as http:
        session = str(uuid.uuid4())
        api = BotApi(http, identity.bot_id, session, script.headers)
        place = Workplace(directory, config.server, identity.bot_id, config.env, identity.cost_usd_hour, script)
        trial = [*sys.argv[1:], "--trial", session]
        updater = Updater(http, directory.root / unpack.FOLDER, trial, config.env, clock)
        hands = MachineHands(api, place, config.reboot_command, updater, clock)
        try:
            ending = await _live(config, api, hands, script, lambda: updater.refused)
        finally:
            await hands.close()
            await script.close()
    log.info("Ended: %s", ending.value)
    return ending, updater.chosen


async def _live(
    config: BotConfig, api: BotApi, hands: MachineHands, script: Script, refused: Callable[[], str | None]
) -> Ending:
    """Put the bot together, and let signals end it."""
    import signal

    from isolate.clock import SystemClock
    from swarming.bot.attributes import Attributes
    from swarming.bot.machine import read_machine
    from swarming.bot.main import Bot
    from swarming.bot.portrait import Portrait

    clock, directory = SystemClock(), hands.directory
    found = Attributes(config.identity, read_machine(), config.env, clock, refused)
    me = Portrait(found, script, lambda: _complaints(directory, script.settings, clock))
    bot = Bot(api, me, hands, script, clock)
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, bot.interrupt)
    await script.start()
    async with asyncio.TaskGroup() as group:
        renewing = group.create_task(script.keep_authenticated())
        ending = await bot.run()
        renewing.cancel()
    return ending


async def _introduce(config: BotConfig, session: str) -> None:
    """Show that this version works here: start a runner, and shake hands as the bot that wants to know it."""
    from isolate import __version__
    from isolate.clock import SystemClock
    from isolate.errors import InternalFailure
    from isolate.http import HttpClient
    from swarming.bot.attributes import Attributes
    from swarming.bot.crew import RunnerProcess
    from swarming.bot.launch import RUNNER_COMMAND, Launch
    from swarming.bot.machine import read_machine
    from swarming.bot.portrait import Portrait
    from swarming.bot.protocol import BotApi
    from swarming.bot.workdir import WorkDirectory

    clock, directory = SystemClock(), WorkDirectory(config.directory)
    script = _script(config, directory, clock)
    try:
        await script.start()
        found = Attributes(config.identity, read_machine(), config.env, clock)
        hello = await Portrait(found, script, list).hello(None, 0)
        launch = Launch(RUNNER_COMMAND, config.env)
        runner = await RunnerProcess.start(launch, directory.root, directory.logs / "trial.log")
        try:
            if await runner.receive() is None:
                raise InternalFailure("Its runner does not start")
        finally:
            runner.kill()
            await runner.close()
        agent = f"swarming_bot/{__version__}"
        async with HttpClient(config.server, user_agent=agent, connections=1, clock=clock) as http:
            await BotApi(http, config.identity.bot_id, session, script.headers).handshake(hello)
    finally:
        await script.close()


def _script(config: BotConfig, directory: WorkDirectory, clock: Clock) -> Script:
    """Return the administrator's part in this bot."""
    from swarming.bot.hooks import HookProcess, Hooks
    from swarming.bot.script import Place, Script

    hooks = Hooks(
        lambda: HookProcess.start(directory.root, config.env, directory.logs / "bot_config.log"),
        clock,
        config.hook_limit_s,
    )
    from swarming.bot.update import own_version
    from swarming.unpack import FOLDER

    place = Place(
        bot_id=config.identity.bot_id,
        base_dir=directory.root,
        config_dir=directory.config,
        server=config.server,
        archive=str(directory.root / FOLDER / own) if (own := own_version()) else "",
        external_setup=config.external_setup,
    )
    return Script(hooks, place, clock)


def _complaints(directory: WorkDirectory, settings: Settings, clock: Clock) -> list[str]:
    from swarming.bot import health

    return health.complaints(health.read(directory.root, directory.vital, clock.now()), settings)


def _start_anew(python: Path | None) -> None:
    """Become a fresh process of the same program, or of its next version, as the same bot."""
    import os

    program = sys.executable if python is None else str(python)
    os.execv(program, [program, "-P", "-m", "swarming.bot.cli", *sys.argv[1:]])  # noqa: S606


def main() -> int:
    """Run the command line and return the exit status."""
    return run_command("swarming-bot", cli)


if __name__ == "__main__":
    sys.exit(main())
