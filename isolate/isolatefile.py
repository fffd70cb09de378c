"""The `.isolate` language: text -> what it says, and what that means for one configuration.

Pure: knows no disk, the caller reads the files. The text is a Python literal and is only parsed, never run. Every error
names the file and the line. The rules are those of 2020 (`doc/` has the grammar); which settings win follows from its
order: the more variables a condition's file binds the earlier, within that the including file before its includes and
a later include before an earlier one.
"""

from __future__ import annotations

import ast
import posixpath
import re
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from isolate.conditions import Condition, Equals, Value, comparisons, holds, parse_condition
from isolate.errors import InvalidIsolateFile

_VARIABLE = re.compile(r"<\(([A-Za-z_][A-Za-z_0-9]*)\)")


@dataclass(frozen=True, slots=True)
class Settings:
    """One `variables` dictionary."""

    command: tuple[str, ...] = ()
    files: tuple[str, ...] = ()
    read_only: int | None = None


@dataclass(frozen=True, slots=True)
class IsolateFile:
    """One parsed file."""

    includes: tuple[str, ...]
    variables: Settings
    conditions: tuple[tuple[Condition, Settings], ...]

    def without_commands(self) -> IsolateFile:
        """Return it as seen from a file that has commands of its own."""
        conditions = tuple((condition, replace(settings, command=())) for condition, settings in self.conditions)
        return IsolateFile(self.includes, replace(self.variables, command=()), conditions)

    def comparisons(self) -> Iterator[Equals]:
        """Yield every comparison of its conditions."""
        for condition, _ in self.conditions:
            yield from comparisons(condition)

    @property
    def has_command(self) -> bool:
        return bool(self.variables.command or any(settings.command for _, settings in self.conditions))


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
    files = list(_with_includes(path, read, ()))
    names = sorted(
        {one.name for _, file in files for condition, _ in file.conditions for one in comparisons(condition)}
    )
    missing = [name for name in names if name not in config]
    if missing:
        raise InvalidIsolateFile(
            f"{path}: These configuration variables were missing from the command line: {', '.join(missing)}"
        )
    layers: list[tuple[list[bool], str, Settings]] = []
    for directory, file in files:
        # A value that the file never mentions is as good as none, also where it would end an `or` early.
        listed = {one.name for one in file.comparisons() if holds(one, config)}
        values = {name: config[name] for name in listed}
        rank = [name not in listed for name in names]
        layers += [(rank, directory, settings) for condition, settings in file.conditions if holds(condition, values)]
    layers.sort(key=lambda layer: layer[0])
    layers += [([], directory, file.variables) for directory, file in files]
    return _united([(directory, settings) for _, directory, settings in layers], posixpath.dirname(path))


def parse_isolate(text: str, name: str) -> IsolateFile:
    """Return what `text` says; raises InvalidIsolateFile with `name` and the line."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of Python about the spelling of literals, which is not its business here
            tree = ast.parse(text.removeprefix("\ufeff").strip(" \t\f"), name, mode="eval")
        return _Parser(name).file(tree.body)
    except SyntaxError as error:
        raise InvalidIsolateFile(f"{name}:{error.lineno or 1}: {error.msg}") from error
    except (ValueError, RecursionError, MemoryError) as error:
        raise InvalidIsolateFile(f"{name}: Not a .isolate: {error or 'nested too deeply'}") from error


def variables_in(text: str) -> list[str]:
    """Return the names of the variables used in `text`."""
    return _VARIABLE.findall(text)


def substitute(text: str, values: Mapping[str, object], where: str) -> str:
    """Replace each `<(NAME)`; raises InvalidIsolateFile for an unknown one."""

    def value(match: re.Match[str]) -> str:
        name = match.group(1)
        if name not in values:
            raise InvalidIsolateFile(
                f'{where}: Variable "{name}" was not found in {text!r}; did you forget --path-variable?'
            )
        return str(values[name])

    return _VARIABLE.sub(value, text)


def _with_includes(
    path: str, read: Callable[[str], str], above: tuple[str, ...], *, drop_commands: bool = False
) -> Iterator[tuple[str, IsolateFile]]:
    """Yield each file with its directory, in the order of their precedence."""
    if path in above:
        raise InvalidIsolateFile(f"{above[-1]}: {path!r} includes itself")
    file = parse_isolate(read(path), path)
    directory = posixpath.dirname(path)
    yield directory, file.without_commands() if drop_commands else file
    for include in reversed(file.includes):
        yield from _with_includes(
            posixpath.normpath(posixpath.join(directory, include)),
            read,
            (*above, path),
            drop_commands=drop_commands or file.has_command,
        )


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


class _Parser:
    """Checks the syntax tree of one file; every error has its line."""

    def __init__(self, name: str) -> None:
        self._name = name

    def file(self, node: ast.expr) -> IsolateFile:
        root = self._dict(node, {"includes", "conditions", "variables"}, "the file")
        includes = tuple(self._include(item) for item in self._list(root.get("includes"), "includes"))
        conditions = tuple(self._condition(item) for item in self._list(root.get("conditions"), "conditions"))
        return IsolateFile(includes, self._settings(root.get("variables")), conditions)

    def _include(self, node: ast.expr) -> str:
        path = self._string(node, "includes")
        if path.startswith("/"):
            raise self._error(node, f"absolute include path {path!r}")
        return path

    def _condition(self, node: ast.expr) -> tuple[Condition, Settings]:
        items = self._list(node, "a condition")
        if len(items) == 3:
            raise self._error(node, "a condition has 3 parts: 'else' is not supported anymore")
        if len(items) != 2:
            raise self._error(node, f"a condition has {len(items)} parts instead of an expression and a dictionary")
        text = self._string(items[0], "a condition")
        try:
            condition = parse_condition(text)
        except InvalidIsolateFile as error:
            raise self._error(items[0], str(error)) from error
        body = self._dict(items[1], {"variables"}, "a condition")
        if "variables" not in body:
            raise self._error(items[1], f"Missing 'variables' in condition {text!r}")
        return condition, self._settings(body["variables"])

    def _settings(self, node: ast.expr | None) -> Settings:
        if node is None:
            return Settings()
        body = self._dict(node, {"command", "files", "read_only"}, "variables")
        return Settings(
            command=tuple(self._string(item, "command") for item in self._list(body.get("command"), "command")),
            files=tuple(self._string(item, "files") for item in self._list(body.get("files"), "files")),
            read_only=self._read_only(body.get("read_only")),
        )

    def _read_only(self, node: ast.expr | None) -> int | None:
        match node:
            case None | ast.Constant(value=None):
                return None
            case ast.Constant(value=int(value)) if value in {0, 1, 2}:
                return int(value)
        raise self._error(node, "read_only must be 0, 1, 2 or None")

    def _dict(self, node: ast.expr, allowed: set[str], what: str) -> dict[str, ast.expr]:
        if not isinstance(node, ast.Dict):
            raise self._error(node, f"{what} must be a dictionary")
        body: dict[str, ast.expr] = {}
        for key_node, value in zip(node.keys, node.values, strict=True):
            if key_node is None:
                raise self._error(value, f"{what} may not use '**'")
            key = self._string(key_node, f"a key of {what}")
            if key not in allowed:
                raise self._error(
                    key_node, f"{what} has the unknown key {key!r}; known are {', '.join(sorted(allowed))}"
                )
            if key in body:
                raise self._error(key_node, f"{what} has the key {key!r} twice")
            body[key] = value
        return body

    def _list(self, node: ast.expr | None, what: str) -> list[ast.expr]:
        match node:
            case None:
                return []
            case ast.List(elts=items):
                return items
            case ast.BinOp(op=ast.Add(), left=left, right=right):
                return [*self._list(left, what), *self._list(right, what)]
        raise self._error(node, f"{what} must be a list")

    def _string(self, node: ast.expr, what: str) -> str:
        match node:
            case ast.Constant(value=str(text)):
                return text
            case ast.BinOp(op=ast.Add(), left=left, right=right):
                return self._string(left, what) + self._string(right, what)
        raise self._error(node, f"{what} may hold only strings, not {ast.unparse(node)[:60]!r}")

    def _error(self, node: ast.expr, message: str) -> InvalidIsolateFile:
        return InvalidIsolateFile(f"{self._name}:{node.lineno}: {message}")
