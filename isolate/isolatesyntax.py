"""The text of a `.isolate` -> what it says, without what that means for a configuration.

Pure. The text is a Python literal and is only parsed, never run: names, calls and comprehensions are refused where they
stand. Every error names file, line and column, and says what to write instead where that is known. The invariant: time
and memory are bounded by MAX_TEXT, whatever the text is.
"""

from __future__ import annotations

import ast
import re
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, replace

from isolate.conditions import Condition, Equals, comparisons, parse_condition
from isolate.errors import InvalidIsolateFile
from isolate.places import BLANK, Source, Written, place_in, shortened

MAX_TEXT = 1 << 20  # characters of one file; a syntax tree takes 200 times its text
_NO_TEXT = re.compile("[\0\ud800-\udfff]")
_OLD_KEYS = {
    "isolate_dependency_tracked": "files",
    "isolate_dependency_untracked": "files",
    "isolate_files": "files",
    "include": "includes",
    "condition": "conditions",
}


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


def parse_isolate(text: str, name: str) -> IsolateFile:
    """Return what `text` says; raises InvalidIsolateFile with `name`, line and column."""
    return _Parser(text, name).file(syntax_tree(text, name))


def syntax_tree(text: str, name: str) -> ast.expr:
    """Return the syntax tree of `text`, one expression of any kind; raises InvalidIsolateFile."""
    if len(text) > MAX_TEXT:
        raise InvalidIsolateFile(
            f"{place_in(text, MAX_TEXT, name)}: A .isolate of {len(text)} characters is longer than {MAX_TEXT}"
        )
    if wrong := _NO_TEXT.search(text):
        raise InvalidIsolateFile(
            f"{place_in(text, wrong.start(), name)}: {wrong[0]!r} is no part of any text (hint: is this another file?)"
        )
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of Python about the spelling of literals, which is not its business here
            return ast.parse(_without_margin(text), name, mode="eval").body
    except SyntaxError as error:
        if not _has_code(text):
            raise InvalidIsolateFile(
                f"{name}:1:1: the file is empty (hint: an empty .isolate is written {{}})"
            ) from error
        raise InvalidIsolateFile(
            f"{name}:{error.lineno or 1}:{error.offset or 1}: {_said(error)}{_advice(error)}"
        ) from error
    except (RecursionError, MemoryError) as error:
        raise InvalidIsolateFile(f"{name}:1:1: nested too deeply") from error
    except ValueError as error:
        raise InvalidIsolateFile(f"{name}:1:1: {error}") from error


def _has_code(text: str) -> bool:
    lines = (line.strip(BLANK + "\r") for line in text.split("\n"))
    return any(line and not line.startswith("#") for line in lines)


def _without_margin(text: str) -> str:
    """Return `text` with its first expression at the margin, where Python wants it, and everything else in place."""
    lines = text.removeprefix("\ufeff").split("\n")
    for index, line in enumerate(lines):
        if line.strip(BLANK + "\r") and not line.lstrip(BLANK).startswith("#"):
            lines[index] = line.lstrip(BLANK)
            break
    return "\n".join(lines)


def _said(error: SyntaxError) -> str:
    """Return what Python says is wrong, without its advice about Python."""
    return "a number of too many digits" if "(4300 digits)" in error.msg else error.msg


def _advice(error: SyntaxError) -> str:
    if "never closed" in error.msg or "unexpected EOF" in error.msg:
        return " (hint: a bracket or quote that is opened must be closed)"
    if "forgot a comma" in error.msg or "invalid syntax" in error.msg:
        return " (hint: look for a missing comma, quote or bracket there or just before)"
    return ""


class _Parser:
    """Checks the syntax tree of one file."""

    def __init__(self, text: str, name: str) -> None:
        self._source = Source(text, name)
        self._name = name

    def file(self, node: ast.expr) -> IsolateFile:
        try:
            root = self._dict(node, ("includes", "conditions", "variables"), "the file")
            includes = tuple(self._include(item) for item in self._list(root.get("includes"), "includes"))
            conditions = tuple(self._condition(item) for item in self._list(root.get("conditions"), "conditions"))
            return IsolateFile(includes, self._settings(root.get("variables")), conditions)
        except RecursionError as error:
            raise InvalidIsolateFile(f"{self._name}:{node.lineno}:1: nested too deeply") from error

    def _include(self, node: ast.expr) -> str:
        path = self._written(node, "includes")
        if path.startswith("/"):
            raise self._error(
                node, f"absolute include path {shortened(path)!r}", "write it relative to the directory of this file"
            )
        return path

    def _condition(self, node: ast.expr) -> tuple[Condition, Settings]:
        items = self._list(node, "a condition")
        if len(items) == 3:
            raise self._error(
                items[2],
                "a condition has 3 parts: 'else' is not supported anymore",
                "write a second condition that holds when this one does not",
            )
        if len(items) != 2:
            raise self._error(
                node,
                f"a condition has {len(items)} parts instead of an expression and a dictionary",
                "['OS==\"linux\"', {'variables': {…}}]",
            )
        text = self._string(items[0], "a condition")
        try:
            condition = parse_condition(
                text, lambda name: Written(name, self._source, items[0].lineno, items[0].col_offset)
            )
        except InvalidIsolateFile as error:
            raise self._error(items[0], str(error), "compare as in 'OS==\"linux\" and bits==64'") from error
        body = self._dict(items[1], ("variables",), "a condition")
        if "variables" not in body:
            raise self._error(
                items[1],
                f"Missing 'variables' in condition {shortened(text)!r}",
                "put command and files into {'variables': {…}}",
            )
        return condition, self._settings(body["variables"])

    def _settings(self, node: ast.expr | None) -> Settings:
        if node is None:
            return Settings()
        body = self._dict(node, ("command", "files", "read_only"), "variables")
        return Settings(
            command=tuple(self._written(item, "command") for item in self._list(body.get("command"), "command")),
            files=tuple(self._written(item, "files") for item in self._list(body.get("files"), "files")),
            read_only=self._read_only(body.get("read_only")),
        )

    def _read_only(self, node: ast.expr | None) -> int | None:
        match node:
            case None | ast.Constant(value=None):
                return None
            case ast.Constant(value=int(value)) if value in {0, 1, 2}:
                return int(value)
        raise self._error(node, "read_only must be 0, 1, 2 or None", "leave it out for the default, 1")

    def _dict(self, node: ast.expr, allowed: tuple[str, ...], what: str) -> dict[str, ast.expr]:
        if not isinstance(node, ast.Dict):
            example = ", ".join(f"{key!r}: …" for key in allowed)
            raise self._error(node, f"{what} must be a dictionary", f"write {{{example}}}")
        body: dict[str, ast.expr] = {}
        for key_node, value in zip(node.keys, node.values, strict=True):
            if key_node is None:
                raise self._error(value, f"{what} may not use '**'", "write the keys out")
            key = self._string(key_node, f"a key of {what}")
            if key not in allowed:
                known = ", ".join(sorted(allowed))
                raise self._error(
                    key_node, f"{what} has the unknown key {key[:80]!r}; known are {known}", _meant(key, allowed)
                )
            if key in body:
                raise self._error(key_node, f"{what} has the key {key!r} twice", "join the two")
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
        hint = "write [ ] instead of ( )" if isinstance(node, ast.Tuple) else "put it into [ ]"
        raise self._error(node, f"{what} must be a list", hint)

    def _string(self, node: ast.expr, what: str) -> str:
        match node:
            case ast.Constant(value=str(text)):
                if "\0" in text:
                    raise self._error(node, f"{what} may not hold a NUL", "no file name or argument can")
                return text
            case ast.BinOp(op=ast.Add(), left=left, right=right):
                return self._string(left, what) + self._string(right, what)
        shown = _shown(node)
        match node:
            case ast.Name() | ast.Constant(value=int() | float()) if shown not in {"True", "False"}:
                hint = f'write "{shown}"'
            case ast.Constant(value=bytes()):
                hint = "leave out the b before the quote"
            case ast.Constant():
                hint = "leave it out, or write the text that is meant in quotes"
            case _:
                hint = "nothing is evaluated here"
        raise self._error(node, f"{what} may hold only strings, not {shown!r}", hint)

    def _written(self, node: ast.expr, what: str) -> Written:
        return Written(self._string(node, what), self._source, node.lineno, node.col_offset)

    def _error(self, node: ast.expr, message: str, hint: str) -> InvalidIsolateFile:
        advice = f" (hint: {hint})" if hint else ""
        return InvalidIsolateFile(f"{self._source.place(node.lineno, node.col_offset)}: {message}{advice}")


def _meant(key: str, allowed: tuple[str, ...]) -> str:
    """Return a hint about a misspelt key, or nothing."""
    import difflib

    old = _OLD_KEYS.get(key)
    close = [old] if old in allowed else difflib.get_close_matches(key[:80], allowed, n=1)
    return f"did you mean {close[0]!r}?" if close else ""


def _shown(node: ast.expr) -> str:
    """Return the beginning of what a node is written as; what is huge is not written out for that."""
    if isinstance(node, ast.Constant) and isinstance(node.value, int):
        return str(node.value) if abs(node.value) < 1 << 64 else "a huge number"
    if isinstance(node, (ast.Constant, ast.Name, ast.Attribute)):
        return ast.unparse(node)[:60]
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
        return f"{node.func.id[:60]}(…)"
    return {ast.Dict: "{…}", ast.List: "[…]", ast.Tuple: "(…)"}.get(type(node), "an expression")
