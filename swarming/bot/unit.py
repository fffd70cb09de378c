"""The systemd unit of a bot.

Pure, but for a look at whether the bot came from an archive. The invariant: every word of the command means to systemd
what it means here, whatever characters it has.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from swarming.bot.attributes import Identity
from swarming.bot.update import own_version
from swarming.unpack import CURRENT, FOLDER

_UNIT = """[Unit]
Description=Swarming bot {name}
Wants=network-online.target
After=network-online.target

[Service]
ExecStart={command}
# The first SIGTERM lets the task at hand finish, for as long as this says.
KillMode=mixed
TimeoutStopSec=infinity
Restart=always
RestartSec=10
# The kernel takes a task before the bot when memory ends: tasks have a higher score of their own.
OOMPolicy=continue
Delegate=yes
OOMScoreAdjust=-100

[Install]
WantedBy=default.target
"""


def program(directory: Path) -> list[str]:
    """Return how to start a bot: from an archive, always the version that is chosen at that moment."""
    python = sys.executable
    if own_version() is not None:
        python = str(directory.absolute() / FOLDER / CURRENT / "bin" / "python")
    return [python, "-P", "-m", "swarming.bot.cli"]


def command(server: str, identity: Identity) -> list[str]:
    """Return the command line of a bot, with all that makes it this one."""
    directory = identity.base_dir.absolute()
    words = [*program(directory), "run", "--server", server, "--dir", str(directory), "--id", identity.bot_id]
    if identity.cost_usd_hour:
        words += ["--cost-usd-hour", str(identity.cost_usd_hour)]
    for key, values in sorted(identity.extra.items()):
        for value in values:
            words += ["--dimension", key, value]
    return words


def systemd_unit(name: str, command: Sequence[str]) -> str:
    """Return the text of the unit."""
    return _UNIT.format(name=name.replace("%", "%%"), command=" ".join(_quoted(word) for word in command))


def _quoted(word: str) -> str:
    escaped = word.replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%").replace("$", "$$")
    return escaped if word and not set(escaped) - _PLAIN else f'"{escaped}"'


_PLAIN = set("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_./:=@,+%$")
