"""What two versions of this program tell each other: how one is put on trial, and what became of it.

Pure, but for one small file. Imports little, because the guard lives as long as the version it watches. What is here
stays as it is: the guard is of the older version, and the bot it watches of the newer one.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path

BOT, GUARD = "swarming.bot.cli", "swarming.bot.guard"
# Lines of a candidate to its guard.
HEARD = "heard"  # the server answered
WORKS = "works"  # it has done what a bot is for
AGAIN = "again"  # it is to be started once more
BECOME = "become"  # with a version: that one is to be tried
DONE = "done"  # it ends because somebody wants it to
CANDIDATE = "--candidate"  # with the descriptor for these lines, and the process that reads them
CANDIDATE_WORDS = 3
TRIED_S = 300.0  # usual length of a trial, from the first answer to a poll
NOT_NOW = 75  # status of a trial that failed for a reason that will pass
PING = "/swarming/api/v1/bot/server_ping"
_REFUSED = "refused.json"


@dataclass(frozen=True, slots=True)
class Refusal:
    """The version that did not work here, and why."""

    version: str
    reason: str
    is_told: bool = False  # the server has heard why


def refuse(folder: Path, refusal: Refusal) -> None:
    """Remember a version that did not work, for this program and for the server; raises OSError."""
    fresh = folder / f".{_REFUSED}.{os.getpid()}"
    found = {"version": refusal.version, "reason": refusal.reason, "is_told": refusal.is_told}
    fresh.write_text(json.dumps(found), encoding="ascii")
    fresh.replace(folder / _REFUSED)


def refusal(folder: Path) -> Refusal | None:
    """Return what was refused last."""
    try:
        found = json.loads((folder / _REFUSED).read_bytes())
        return Refusal(str(found["version"]), str(found["reason"]), bool(found.get("is_told")))
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def python_of(folder: Path, version: str) -> str:
    """Return the interpreter of a version."""
    return str(folder / version / "bin" / "python")


def bot_command(python: str, words: list[str]) -> list[str]:
    """Return the command line of a bot."""
    return [python, "-P", "-m", BOT, *words]


def guard_command(python: str, folder: Path, version: str, server: str, words: list[str]) -> list[str]:
    """Return the command line that puts a version on trial."""
    return [python, "-P", "-m", GUARD, str(folder), version, server, *words]
