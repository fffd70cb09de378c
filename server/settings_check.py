"""`swarming-server config check`: all that is wrong with a directory of settings, before a server reads it.

Looks at more than a running server does: at files that it would never read, and into the scripts and archives that
others name.
Changes nothing. The invariant: what a server would refuse is refused here, in the same words.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from isolate.errors import InvalidInput
from server.bot_archive import FOLDER as ARCHIVES
from server.bot_config import FILE, SCRIPTS, fault_of
from server.bot_groups import There
from server.live_settings import read, read_text
from server.settings import FILES, InvalidSettings, Settings, parse
from swarming.bot_archive import archive_version


def look_at(directory: Path, data: Path | None) -> tuple[Settings | None, Sequence[str]]:
    """Return the settings in `directory`, None if they cannot be applied, and every problem as `file:line: reason`.

    `data` is the directory of the server that has them, if there is one: it has archives, and hooks for all bots.
    """
    problems: list[str] = []
    settings = None
    scripts = _names(directory / SCRIPTS, ".py")
    archives = None if data is None else _names(data / ARCHIVES, ".zip")
    try:
        settings = parse(read(directory), There(scripts, archives))
    except InvalidSettings as error:
        problems += error.problems
    if settings is not None and data is not None:
        problems += _bad_archives(data, settings.groups.archives)
    if data is not None:
        problems += _bad_script(data, FILE)
    for name in scripts:
        problems += _bad_script(directory, f"{SCRIPTS}/{name}")
    known = ", ".join(FILES)
    problems += [
        f"{name}:1: The server reads no file of this name: its settings are {known}"
        for name in _names(directory, ".toml")
        if name not in FILES
    ]
    return (None if problems else settings), problems


def _bad_archives(data: Path, names: Iterable[str]) -> Iterator[str]:
    for name in names:
        try:
            archive_version(data / ARCHIVES / name)
        except InvalidInput as error:
            yield f"{ARCHIVES}/{name}:1: {error}"


def _bad_script(directory: Path, name: str) -> list[str]:
    try:
        found = fault_of(read_text(directory, name), name)
    except (FileNotFoundError, NotADirectoryError):  # bots have no such hooks then
        return []
    except InvalidSettings as error:
        return error.problems
    return [] if found is None else [f"{name}:{found[0] or 1}: {found[1]}"]


def absent(directory: Path) -> list[str]:
    """Return the files that are not there, which is no problem."""
    return [name for name in FILES if not (directory / name).exists()]


def _names(folder: Path, suffix: str) -> list[str]:
    try:
        return sorted(one.name for one in folder.iterdir() if one.suffix == suffix)
    except OSError:  # not there, or not readable: whatever names something in it is a problem then
        return []
