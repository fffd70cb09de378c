"""What a bot takes from outside its flags, and what becomes of both: its configuration.

A root, and the only module of the bot that reads the environment.
"""

from __future__ import annotations

import math
import os
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from isolate.errors import InvalidInput
from isolate.http import normalize_url
from swarming.bot.attributes import Identity, check_value, parse_dimensions
from swarming.bot.hooks import HOOK_LIMIT_S
from swarming.bot.machine import short_hostname
from swarming.bot.slots import TRIED_S

NOT_IN_IDS = frozenset("/\\<>|?#%")  # as the server has it: an id names folders, and stands in addresses of pages
# Of the environment of the bot, not for its tasks: what concerns another task, or the bot itself.
NOT_FOR_TASKS = ("LUCI_CONTEXT", "SWARMING_TASK_ID", "RUN_ISOLATED_WORK_DIR")


@dataclass(frozen=True, slots=True)
class BotConfig:
    """A bot, before it starts."""

    server: str
    directory: Path
    identity: Identity
    env: Mapping[str, str]  # for hooks, runners and tasks
    reboot_command: tuple[str, ...]
    hook_limit_s: float
    tried_s: float  # how long a new version is watched before it is chosen
    external_setup: bool  # `setup_bot` of the hooks is somebody else's business


def load(
    *,
    server: str | None,
    directory: Path | None,
    bot_id: str | None,
    dimensions: Sequence[tuple[str, str]] = (),
    cost_usd_hour: float = 0.0,
    reboot_command: str = "",
    hook_limit_s: float = HOOK_LIMIT_S,
    tried_s: float = TRIED_S,
    environment: Mapping[str, str] | None = None,
) -> BotConfig:
    """Return the configuration that flags and `environment` describe, flags first; raises InvalidInput."""
    known = os.environ if environment is None else environment
    url = server or known.get("SWARMING_SERVER")
    if not url:
        raise InvalidInput("No server: say --server URL or set SWARMING_SERVER")
    identity = load_identity(bot_id, dimensions, cost_usd_hour, directory, known)
    for flag, seconds in (("--hook-timeout", hook_limit_s), ("--trial-time", tried_s)):
        if not math.isfinite(seconds):
            raise InvalidInput(f"{flag} {seconds}: a number of seconds is needed")
    env = {name: value for name, value in known.items() if name not in NOT_FOR_TASKS}
    return BotConfig(
        server=normalize_url(url),
        directory=identity.base_dir,
        identity=identity,
        env={**env, "SWARMING_HEADLESS": "1", "SWARMING_BOT_ID": identity.bot_id},
        reboot_command=_words(reboot_command),
        hook_limit_s=hook_limit_s,
        tried_s=tried_s,
        external_setup=known.get("SWARMING_EXTERNAL_BOT_SETUP") == "1",
    )


def load_identity(
    bot_id: str | None,
    dimensions: Sequence[tuple[str, str]],
    cost_usd_hour: float,
    directory: Path | None,
    environment: Mapping[str, str] | None = None,
) -> Identity:
    """Return who a bot with these flags is; raises InvalidInput."""
    known = os.environ if environment is None else environment
    name = check_value("The id of the bot", bot_id or known.get("SWARMING_BOT_ID") or short_hostname())
    if found := NOT_IN_IDS & set(name):
        raise InvalidInput(f"The id of the bot: {name!r} must not contain {min(found)!r}")
    if not math.isfinite(cost_usd_hour):
        raise InvalidInput(f"--cost-usd-hour {cost_usd_hour}: a number is needed")
    return Identity(name, parse_dimensions(dimensions), cost_usd_hour, directory or _data_home(known) / name)


def _words(command: str) -> tuple[str, ...]:
    try:
        return tuple(shlex.split(command))
    except ValueError as error:
        raise InvalidInput(f"--reboot-command {command!r}: {error}") from error


def _data_home(environment: Mapping[str, str]) -> Path:
    # The XDG specification: a relative path is to be ignored.
    configured = environment.get("XDG_DATA_HOME", "")
    home = Path(configured) if os.path.isabs(configured) else Path("~/.local/share").expanduser()
    return home / "swarming-bot"
