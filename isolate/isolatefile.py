"""A `.isolate` and its includes -> what they select for one configuration.

Pure: knows no disk, the caller reads the files. The rules are those of 2020; which settings win follows from its order:
the more variables a condition's file binds the earlier, within that the including file before its includes and a later
include before an earlier one. The invariant: time is bounded, however includes refer to each other.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from isolate.conditions import Value, comparisons, holds
from isolate.errors import InvalidIsolateFile
from isolate.isolatesyntax import MAX_TEXT, IsolateFile, Settings, parse_isolate
from isolate.places import place_of, shortened

__all__ = ["Chosen", "IsolateFile", "Settings", "load_isolate", "parse_isolate", "substitute", "variables_in"]

MAX_FILES = 1_000  # of one configuration, a file included twice counts twice: includes of includes grow by powers
MAX_DEPTH = 100  # includes of includes
MAX_TOTAL_TEXT = 4 * MAX_TEXT  # characters of one configuration, a file included twice counts twice
MAX_NAMED = 20  # of the variables that have no value

_VARIABLE = re.compile(r"<\(([A-Za-z_][A-Za-z_0-9]*)\)")


@dataclass(frozen=True, slots=True)
class Chosen:
    """What one configuration selects; `files` are as written, each with the directory it is relative to."""

    command: tuple[str, ...]
    files: tuple[tuple[str, str], ...]
    read_only: int | None
    directory: str  # of the file that gives the command: relative paths of the command start there


def load_isolate(path: str, config: Mapping[str, Value], read: Callable[[str], str]) -> Chosen:
    """Return what the `.isolate` at the absolute `path` selects for `config`; `read` returns the text of a file.

    Raises InvalidIsolateFile, also when a variable of a condition has no value.
    """
    files, total = [], 0

    def counted(name: str) -> str:
        nonlocal total
        text = read(name)
        total += len(text)
        if total > MAX_TOTAL_TEXT:
            raise InvalidIsolateFile(f"{path}: With what it includes it is longer than {MAX_TOTAL_TEXT} characters")
        return text

    for found in _with_includes(path, counted(path), counted, ()):
        files.append(found)
        if len(files) > MAX_FILES:
            raise InvalidIsolateFile(f"{path}: It includes more than {MAX_FILES} files, counting repetitions")
    names = sorted(
        {one.name for _, file in files for condition, _ in file.conditions for one in comparisons(condition)}
    )
    _refuse_missing([name for name in names if name not in config], path)
    bound: list[tuple[list[bool], list[tuple[str, Settings]]]] = []
    for directory, file in files:
        # A value that the file never mentions is as good as none, also where it would end an `or` early.
        listed = {one.name for one in file.comparisons() if holds(one, config)}
        values = {name: config[name] for name in listed}
        held = [(directory, settings) for condition, settings in file.conditions if holds(condition, values)]
        bound.append(([name not in listed for name in names], held))
    bound.sort(key=lambda layer: layer[0])
    layers = [layer for _, held in bound for layer in held]
    layers += [(directory, file.variables) for directory, file in files]
    return _united(layers, posixpath.dirname(path))


def _refuse_missing(names: list[str], path: str) -> None:
    if not names:
        return
    more = f" and {len(names) - MAX_NAMED} more" if len(names) > MAX_NAMED else ""
    raise InvalidIsolateFile(
        f"{place_of(names[0], path)}: These configuration variables were missing from the command line: "
        f"{', '.join(map(shortened, names[:MAX_NAMED]))}{more}"
        f" (hint: say --config-variable {shortened(names[0])}=VALUE)"
    )


def variables_in(text: str) -> list[str]:
    """Return the names of the variables used in `text`."""
    return _VARIABLE.findall(text)


def substitute(text: str, values: Mapping[str, object], where: str) -> str:
    """Replace each `<(NAME)`; raises InvalidIsolateFile for an unknown one, naming its place or else `where`."""

    def value(match: re.Match[str]) -> str:
        name = match.group(1)
        if name not in values:
            shown = shortened(name)
            raise InvalidIsolateFile(
                f'{place_of(text, where)}: Variable "{shown}" was not found in {shortened(str(text))!r}; did you '
                f"forget --path-variable {shown}=DIR or --extra-variable {shown}=TEXT?"
            )
        return str(values[name])

    return _VARIABLE.sub(value, text)


def _with_includes(
    path: str, text: str, read: Callable[[str], str], above: tuple[str, ...], *, drop_commands: bool = False
) -> Iterator[tuple[str, IsolateFile]]:
    """Yield the file `path` and all that it includes, each with its directory, in the order of their precedence."""
    file = parse_isolate(text, path)
    directory = posixpath.dirname(path)
    yield directory, file.without_commands() if drop_commands else file
    for include in reversed(file.includes):
        inner, place = posixpath.normpath(posixpath.join(directory, include)), place_of(include, path)
        if inner in (*above, path):
            raise InvalidIsolateFile(f"{place}: {inner!r} includes itself (hint: leave this include out)")
        if len(above) == MAX_DEPTH:
            raise InvalidIsolateFile(f"{place}: more than {MAX_DEPTH} files include each other in a row")
        yield from _with_includes(
            inner,
            _read_at(place, inner, read),
            read,
            (*above, path),
            drop_commands=drop_commands or file.has_command,
        )


def _read_at(place: str, path: str, read: Callable[[str], str]) -> str:
    """Return the text of `path`, which was asked for at `place`; raises InvalidIsolateFile."""
    try:
        return read(path)
    except InvalidIsolateFile as error:
        raise InvalidIsolateFile(f"{place}: {error}") from error


def _united(layers: Sequence[tuple[str, Settings]], directory: str) -> Chosen:
    given = [layer for layer in layers if layer[1] != Settings()]
    command_dir, command = next(((where, one.command) for where, one in given if one.command), ("", ()))
    files_dir = next((where for where, one in given if one.files), "")
    return Chosen(
        command=command,
        files=tuple((where, item) for where, one in given for item in one.files),
        read_only=next((one.read_only for _, one in given if one.read_only is not None), None),
        directory=command_dir or files_dir or directory,
    )
