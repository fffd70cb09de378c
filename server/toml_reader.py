"""TOML with line numbers: typed reading of tables that collects every problem, each with the line it is on.

Pure: text in, values and problems out; knows no setting. The standard parser gives no positions, so keys are found
again in the text; a file that parses is written in the usual way, one key per line.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Sequence
from typing import Any

_HEADER = re.compile(r"\s*(\[\[?)\s*([A-Za-z0-9_.\-\"' ]+?)\s*\]\]?\s*(#.*)?$")
_KEY = re.compile(r"\s*([A-Za-z0-9_\-\"']+)\s*=")
_AT_LINE = re.compile(r" \(at line (\d+), column \d+\)| \(at end of document\)")
_MARK = "\ufeff"
_MOST_NESTED = 8  # no setting is deeper
_MOST_SHOWN = 100  # characters of a value in a message

Path = tuple[str | int, ...]


class TomlFile:
    """One file: its content, where things are in it, and what is wrong with them."""

    def __init__(self, text: str, name: str) -> None:
        self.name = name
        self.problems: list[str] = []
        self.warnings: list[str] = []  # what is valid and hardly meant
        self._lines = _lines(text)
        self._firsts: dict[Path, int] = {}  # the first line of what is in a table or list
        for inner, line in self._lines.items():
            for length in range(1, min(len(inner), _MOST_NESTED)):
                self._firsts.setdefault(inner[:length], line)
        self.content: dict[str, Any] = {}
        if text.startswith(_MARK):
            self.problems.append(f"{name}:1: Begins with a byte order mark (BOM): save it as UTF-8 without one")
            return
        try:
            self.content = tomllib.loads(text)
        except RecursionError:
            self.problems.append(f"{name}:1: Lists or tables are nested too deeply")
        except tomllib.TOMLDecodeError as error:
            found = _AT_LINE.search(str(error))
            line = int(found[1]) if found is not None and found[1] else len(text.splitlines()) or 1
            self.problems.append(f"{name}:{line}: {_AT_LINE.sub('', str(error))}")

    def problem(self, path: Path, message: str) -> None:
        """Note what is wrong with the value at `path`."""
        self.problems.append(self._placed(path, message))

    def warn(self, path: Path, message: str) -> None:
        """Note what is hardly meant at `path`."""
        self.warnings.append(self._placed(path, message))

    def _placed(self, path: Path, message: str) -> str:
        return f"{self.name}:{self._line(path)}: {message}"

    def _line(self, path: Path) -> int:
        """Return the line of what is at `path`, of the first thing in it, or of what it is in."""
        while path:
            line = self._lines.get(path) or self._firsts.get(path)
            if line:
                return line
            path = path[:-1]
        return 1

    def top(self) -> Table:
        """Return the whole file as a table."""
        return Table(self, (), self.content)


class Table:
    """One table: every key is taken once, what is left over at `close` is unknown."""

    def __init__(self, file: TomlFile, path: Path, values: dict[str, Any]) -> None:
        self._file, self._path, self._left = file, path, dict(values)

    def problem(self, key: str, message: str) -> None:
        """Note what is wrong with the value of `key`, which may have been taken."""
        self._file.problem((*self._path, key) if key else self._path, message)

    def warn(self, message: str) -> None:
        """Note what is hardly meant about the whole table."""
        self._file.warn(self._path, message)

    def has(self, key: str) -> bool:
        """Say whether `key` is there and was not taken."""
        return key in self._left

    def number(self, key: str, default: float, low: float, high: float) -> float:
        """Return a number between `low` and `high`."""
        value = self._left.pop(key, default)
        if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
            self.problem(key, f"{key} must be a number from {low:g} to {high:g}, not {_shown(value)}")
            return default
        return value

    def truth(self, key: str, *, default: bool) -> bool:
        """Return a truth."""
        value = self._left.pop(key, default)
        if not isinstance(value, bool):
            self.problem(key, f"{key} must be true or false, not {_shown(value)}")
            return default
        return value

    def text(self, key: str, default: str = "") -> str:
        """Return a text."""
        value = self._left.pop(key, default)
        if not isinstance(value, str):
            self.problem(key, f"{key} must be a text, not {_shown(value)}")
            return default
        return value

    def texts(self, key: str, needed: str = "") -> tuple[str, ...]:
        """Return a list of texts; `needed` is what to say when there is none."""
        value = self._left.pop(key, [])
        if not isinstance(value, list):
            self.problem(key, f"{key} must be a list of texts, not {_shown(value)}")
            return ()
        if needed and not value:
            self.problem("", needed)
        for number, one in enumerate(value, start=1):
            if not isinstance(one, str) or not one:
                why = "is empty" if one == "" else f"is {_shown(one)}"
                self.problem(key, f"{key} must be a list of texts that are not empty, but item {number} {why}")
                return ()
        return tuple(value)

    def table(self, key: str) -> Table:
        """Return the table below `key`; an empty one when there is none."""
        value = self._left.pop(key, {})
        if not isinstance(value, dict):
            self.problem(key, f"{key} must be a table: [{key}]")
            value = {}
        return Table(self._file, (*self._path, key), value)

    def tables(self, key: str) -> Sequence[Table]:
        """Return the tables written as `[[key]]`."""
        value = self._left.pop(key, [])
        if not isinstance(value, list) or not all(isinstance(one, dict) for one in value):
            self.problem(key, f"{key} must be written as [[{key}]]")
            return ()
        return [Table(self._file, (*self._path, key, index), one) for index, one in enumerate(value)]

    def close(self) -> None:
        """Note every key that nobody asked for."""
        for key in self._left:
            self.problem(key, f"Unknown key {key}")


def _shown(value: object) -> str:
    """Return a value as a message has it: not all of a long one."""
    text = repr(value)
    return text if len(text) <= _MOST_SHOWN else f"{text[:_MOST_SHOWN]}…"


def _lines(text: str) -> dict[Path, int]:
    """Return the line of every table and key."""
    found: dict[Path, int] = {}
    counts: dict[tuple[str, ...], int] = {}
    table: Path = ()
    for number, line in enumerate(text.splitlines(), start=1):
        header, key = _HEADER.match(line), _KEY.match(line)
        if header is not None:
            names = tuple(part.strip().strip("\"'") for part in header[2].split("."))
            if header[1] == "[[":
                counts[names] = counts.get(names, -1) + 1
                for inner in [one for one in counts if one != names and one[: len(names)] == names]:
                    del counts[inner]  # lists within this one begin anew
            table = _indexed(names, counts)
            found.setdefault(table, number)
        elif key is not None:
            found.setdefault((*table, key[1].strip("\"'")), number)
    return found


def _indexed(names: tuple[str, ...], counts: dict[tuple[str, ...], int]) -> Path:
    """Return the path of a table, with the number of each list of tables on the way."""
    path: list[str | int] = []
    for length, name in enumerate(names, start=1):
        path.append(name)
        if names[:length] in counts:
            path.append(counts[names[:length]])
    return tuple(path)
