"""Puts a bot together and lets it live: the one place where every part of a bot is known.

A root without flags: whoever parsed them, or a test with a clock of its own, calls `serve`.
"""

from __future__ import annotations

import asyncio
import faulthandler
import logging
import signal
import uuid
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from isolate import __version__
from isolate.clock import Clock
from isolate.errors import InternalFailure
from isolate.http import HttpClient
from swarming.bot import health
from swarming.bot.attributes import Attributes
from swarming.bot.config import BotConfig
from swarming.bot.confinement import Confinement
from swarming.bot.crew import RunnerProcess
from swarming.bot.hands import MachineHands
from swarming.bot.hooks import HookProcess, Hooks
from swarming.bot.launch import RUNNER_COMMAND, Launch
from swarming.bot.machine import read_machine
from swarming.bot.main import Api, Bot, Ending
from swarming.bot.portrait import Portrait
from swarming.bot.probation import Guardian, Proving
from swarming.bot.protocol import BotApi
from swarming.bot.script import Place, Script
from swarming.bot.slots import refusal, refuse
from swarming.bot.update import Updater, own_version
from swarming.bot.workdir import WorkDirectory
from swarming.bot.workplace import Workplace
from swarming.unpack import FOLDER

AGENT = f"swarming_bot/{__version__}"

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Ended:
    """How a life ended, and the version to go on with when it is another."""

    ending: Ending
    chosen: str | None


async def serve(
    config: BotConfig, directory: WorkDirectory, words: Sequence[str], guardian: Guardian, clock: Clock
) -> Ended:
    """Let a bot live; `words` are what another version is to be called with to be the same bot."""
    identity = config.identity
    log.info("Bot %s works in %s for %s", identity.bot_id, directory.root, config.server)
    confinement = Confinement.here()
    ended = directory.end_tasks(confinement.parent)
    directory.clean()
    if ended:
        log.warning("Ended %d processes that a crashed bot left here", ended)
    script = _script(config, directory, clock)
    async with HttpClient(config.server, user_agent=AGENT, connections=2, clock=clock) as http:
        session = str(uuid.uuid4())
        api: Api = BotApi(http, identity.bot_id, session, script.headers)
        if guardian.is_there:
            api = Proving(api, guardian, clock, config.tried_s)
        place = Workplace(
            directory, config.server, identity.bot_id, config.env, identity.cost_usd_hour, script, confinement
        )
        updater = Updater(http, directory.root / FOLDER, [*words, "--trial", session], config.env, clock)
        hands = MachineHands(api, place, config.reboot_command, updater, clock)
        found = Attributes(identity, read_machine(), config.env, clock, lambda: updater.refused)
        me = Portrait(found, script, lambda: _complaints(directory, script, clock))
        try:
            ending = await _live(Bot(api, me, hands, script, clock), script, directory)
        finally:
            await hands.close()
            await script.close()
    log.info("Ended: %s", ending.value)
    return Ended(ending, updater.chosen)


async def _live(bot: Bot, script: Script, directory: WorkDirectory) -> Ending:
    """Let the bot work, and signals end it."""
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN:  # else started by `nohup`
            asyncio.get_running_loop().add_signal_handler(number, bot.interrupt)
    await script.start()
    _tell_of_refusal(directory.root / FOLDER, script)
    async with asyncio.TaskGroup() as group:
        renewing = group.create_task(script.keep_authenticated())
        ending = await bot.run()
        renewing.cancel()
    return ending


def _tell_of_refusal(folder: Path, script: Script) -> None:
    """Have the server told, once, that this bot came back to an older version."""
    found = refusal(folder)
    if found is not None and not found.is_told:
        script.wishes.events.append(("bot_error", found.reason))
        with suppress(OSError):
            refuse(folder, replace(found, is_told=True))


async def introduce(config: BotConfig, session: str, clock: Clock) -> None:
    """Show that this version works here: start a runner, and shake hands as the bot that wants to know it."""
    directory = WorkDirectory(config.directory)
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
        async with HttpClient(config.server, user_agent=AGENT, connections=1, clock=clock) as http:
            await BotApi(http, config.identity.bot_id, session, script.headers).handshake(hello)
    finally:
        await script.close()


def dump_stacks_on_request(directory: WorkDirectory) -> None:
    """Let SIGUSR1 write what every thread is doing into the log folder; the file stays open for it."""
    with suppress(OSError):  # a full disk, or somebody else's file
        file = (directory.logs / "stacks.log").open("ab")
        faulthandler.register(signal.SIGUSR1, file=file, all_threads=True)


def _script(config: BotConfig, directory: WorkDirectory, clock: Clock) -> Script:
    """Return the administrator's part in this bot."""
    hooks = Hooks(
        lambda: HookProcess.start(directory.root, config.env, directory.logs / "bot_config.log"),
        clock,
        config.hook_limit_s,
    )
    place = Place(
        bot_id=config.identity.bot_id,
        base_dir=directory.root,
        config_dir=directory.config,
        server=config.server,
        archive=str(directory.root / FOLDER / own) if (own := own_version()) else "",
        external_setup=config.external_setup,
    )
    return Script(hooks, place, clock)


def _complaints(directory: WorkDirectory, script: Script, clock: Clock) -> list[str]:
    return health.complaints(health.read(directory.root, directory.vital, clock.now()), script.settings)
