"""`swarming-server config check`: all that is wrong with a directory of settings, before a server reads it.

Looks at more than a running server does: at files that it would never read, and at the scripts that others name.
Changes nothing. The invariant: what a server would refuse is refused here, in the same words.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from server.bot_config import SCRIPTS
from server.live_settings import read
from server.settings import FILES, InvalidSettings, Settings, parse


def look_at(directory: Path) -> tuple[Settings | None, Sequence[str]]:
    """Return the settings in `directory`, None if they cannot be applied, and every problem as `file:line: reason`."""
    problems: list[str] = []
    settings = None
    try:
        settings = parse(read(directory), _names(directory / SCRIPTS, ".py"))
    except InvalidSettings as error:
        problems += error.problems
    known = ", ".join(FILES)
    problems += [
        f"{name}:1: The server reads no file of this name: its settings are {known}"
        for name in _names(directory, ".toml")
        if name not in FILES
    ]
    return (None if problems else settings), problems


def absent(directory: Path) -> list[str]:
    """Return the files that are not there, which is no problem."""
    return [name for name in FILES if not (directory / name).exists()]


def _names(folder: Path, suffix: str) -> list[str]:
    try:
        return sorted(one.name for one in folder.iterdir() if one.suffix == suffix)
    except OSError:  # not there, or not readable: whatever names something in it is a problem then
        return []
