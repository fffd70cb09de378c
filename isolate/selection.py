"""A `.isolate` and one configuration -> the files of a tree, its root directory and its command.

Reads names and stat records, never contents; knows no store. The rules are §1.7 of 2020 without its two bugs: an
absolute link is recorded by its relative target, a link to a file outside of the root by that file's content.
"""

from __future__ import annotations

import os
import posixpath
import stat
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from isolate.conditions import Value
from isolate.errors import InvalidInput, InvalidIsolateFile
from isolate.isolated import Kind
from isolate.isolatefile import Chosen, load_isolate, substitute, variables_in
from isolate.isolatesyntax import MAX_TEXT
from isolate.paths import RelPath
from isolate.scan import Found, Scanner, ScanRules, stamp_of, what_is

READ_ONLY = 1  # what 2020 writes when the `.isolate` says nothing; runners do not enforce it
TEST_DATA = "test/data/"
MAX_DEPTH = 255  # directories above an entry: more cannot be written into a manifest


@dataclass(frozen=True, slots=True, kw_only=True)
class Selection:
    """What a `.isolate` selects: `items` are relative to `root` and end in `/` for directories."""

    name: str  # of the `.isolate`
    root: str  # absolute
    items: tuple[str, ...]
    command: tuple[str, ...]
    cwd: str  # of the command, relative to `root`
    said_read_only: int | None  # by the `.isolate`
    path_variables: Mapping[str, str]  # relative to the directory of the command
    subdir: str = ""  # what paths must begin with

    @property
    def relative_cwd(self) -> str | None:
        """What the manifest says of the directory of the command."""
        return self.cwd if self.command else None

    @property
    def read_only(self) -> int:
        return READ_ONLY if self.said_read_only is None else self.said_read_only

    @property
    def groups(self) -> tuple[str, ...]:
        """Beginnings of paths that 2020 kept in manifests of their own, because they change rarely or together."""
        product = self.path_variables.get("PRODUCT_DIR", "")
        return (TEST_DATA, product) if product else (TEST_DATA,)

    def entries(self, rules: ScanRules) -> Iterator[Found]:
        """Yield the entries that are on disk now, sorted by path; raises InvalidInput for what is not there."""
        found = _Expansion(self.root, rules).expand(self.items)
        return (entry for entry in found if entry.path.startswith(self.subdir)) if self.subdir else iter(found)


class BadVariable(InvalidInput):
    """A path variable that is no directory."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Variables:
    """The variables of a command line: `paths` are directories, `extra` are texts for command and files."""

    config: Mapping[str, str] = field(default_factory=dict)
    paths: Mapping[str, str] = field(default_factory=dict)
    extra: Mapping[str, str] = field(default_factory=dict)


NONE = Variables()


def host_defaults(platform: str) -> Variables:
    """Return what variables are without anybody saying so, on a host whose `sys.platform` is `platform`."""
    is_windows = platform in {"win32", "cygwin"}
    name = {"darwin": "mac", "win32": "win", "cygwin": "win"}.get(platform, platform)
    return Variables(config={"OS": name}, extra={"EXECUTABLE_SUFFIX": ".exe" if is_windows else ""})


def config_values(given: Mapping[str, str]) -> dict[str, Value]:
    """Return configuration variables as conditions compare them: what looks like an int is one."""
    return {name: _int_or_text(value) for name, value in given.items()}


def select(
    isolate_file: Path,
    given: Variables,
    cwd: Path,
    *,
    defaults: Variables = NONE,
    subdir: str = "",
) -> Selection:
    """Return what `isolate_file` selects.

    Path variables are relative to `cwd`; what is `given` by any kind of flag goes before a default of that name. Raises
    InvalidIsolateFile, BadVariable, InvalidInput.
    """
    name = posixpath.normpath(posixpath.join(cwd, isolate_file))
    values = config_values({**defaults.config, **given.config})
    chosen = load_isolate(name, values, _read)
    directory = chosen.directory
    variables = {key: _path_variable(key, value, cwd, directory) for key, value in given.paths.items()}
    in_files = {**defaults.extra, **variables, **given.extra}
    in_command = {**config_values(defaults.config), **defaults.extra, **variables, **config_values(given.config)}
    in_command.update(given.extra)
    items = [_item(chosen, where, item, in_files, name) for where, item in chosen.files]
    used = [variables[variable] for text in chosen.command for variable in variables_in(text) if variable in variables]
    inner = [path for path, is_absolute in items if not is_absolute]
    root = _root(directory, [*inner, *(posixpath.join(directory, path) for path in used)])
    return Selection(
        name=name,
        root=root,
        items=tuple(_below(root, path) for path, _ in items),
        command=tuple(substitute(text, in_command, name) for text in chosen.command),
        cwd=posixpath.relpath(directory, root),
        said_read_only=chosen.read_only,
        path_variables=variables,
        subdir=_subdir(subdir, root, directory, in_files),
    )


def _subdir(text: str, root: str, directory: str, values: Mapping[str, object]) -> str:
    """Return what `--subdir` keeps, relative to `root`; with a variable in it, it is relative to `directory`."""
    if not variables_in(text):
        return text.removeprefix("./")
    path = posixpath.join(directory, substitute(text, values, "--subdir"))
    return posixpath.relpath(path, root) + ("/" if path.endswith("/") else "")


def _read(path: str) -> str:
    try:
        if os.path.exists(path) and not os.path.isfile(path):
            raise InvalidIsolateFile(f"Cannot read {path!r}: it is not a file")
        with open(path, "rb") as file:
            return file.read(MAX_TEXT + 1).decode("utf-8")  # one byte too many is enough to be refused
    except OSError as error:
        raise InvalidIsolateFile(f"Cannot read {path!r}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise InvalidIsolateFile(f"{path}: not UTF-8 text") from error


def _int_or_text(value: str) -> Value:
    try:
        return int(value)
    except ValueError:
        return value


def _path_variable(name: str, value: str, cwd: Path, directory: str) -> str:
    """Return a path variable relative to the directory of the `.isolate`."""
    absolute = posixpath.normpath(posixpath.join(cwd, value.strip()))
    if not os.path.isdir(absolute):
        raise BadVariable(f"{name}={absolute} is not a directory")
    return posixpath.relpath(absolute, directory)


def _item(chosen: Chosen, where: str, item: str, variables: Mapping[str, object], name: str) -> tuple[str, bool]:
    """Return one of the `files` as a normal absolute path with its trailing slash, and whether it was written so."""
    # What begins with a path variable is relative to the effective directory, wherever it was written.
    base = chosen.directory if item.startswith("<(") else where
    path = substitute(item, variables, name)
    absolute = posixpath.normpath(posixpath.join(base, path))
    return absolute + ("/" if path.endswith("/") else ""), path.startswith("/")


def _root(directory: str, paths: Sequence[str]) -> str:
    """Return `directory`, moved up as far as the relative form of any of `paths` needs."""
    above = 0
    for path in paths:
        parts = posixpath.relpath(path, directory).split("/")
        above = max(above, next((count for count, part in enumerate(parts) if part != ".."), len(parts)))
    return posixpath.normpath(posixpath.join(directory, *[".."] * above))


def _below(root: str, item: str) -> str:
    relative = posixpath.relpath(item, root)
    if relative.split("/")[0] == "..":
        raise InvalidInput(f"Can't map file {item} outside {root}")
    return relative + "/" if item.endswith("/") else relative


class _Expansion:
    """Turns items into entries: directories into what is in them, links into themselves and what they lead to."""

    def __init__(self, root: str, rules: ScanRules) -> None:
        self._root = root
        self._outside: list[str] = []
        self._rules = replace(rules, outside=self._outside.append)
        self._scanner = Scanner(root, self._rules)
        self._found: dict[str, Found] = {}
        self._expanded: set[str] = set()
        self._pending: list[str] = []

    def expand(self, items: Sequence[str]) -> list[Found]:
        self._pending = list(items)
        while self._pending:
            item = self._pending.pop()
            try:
                self._expand(item)
                while self._outside:
                    self._add_outside(self._outside.pop())
            except InvalidInput as error:
                if self._rules.broken is None:
                    raise
                self._rules.broken(error)
        holding = {parent for path in self._found for parent in RelPath(path).parents}
        entries = (self._found[path] for path in sorted(self._found))
        return [entry for entry in entries if entry.kind is not Kind.DIR or entry.path not in holding]

    def _expand(self, item: str) -> None:
        if item in self._expanded:
            return
        self._expanded.add(item)
        path = item.rstrip("/")
        absolute = posixpath.join(self._root, path)
        if not os.path.exists(absolute):
            raise InvalidInput(f"Input file {absolute} doesn't exist")
        if os.path.isdir(absolute) and not item.endswith("/"):
            raise InvalidInput(f"Input directory {absolute} must have a trailing slash")
        if item.endswith("/") and not os.path.isdir(absolute):
            raise InvalidInput(f'{absolute}/ is not a directory but ends with "/"')
        link = self._first_link(path)
        if link is None:
            self._add_plain(path)
            return
        if self._rules.collapse:
            self._add_outside(path)
            return
        found = self._scanner.one(link)
        self._outside.clear()  # whether `link` leaves the root is seen from what was found
        if found is None:
            self._add_outside(path)
        elif found.kind is Kind.LINK:
            self._add(found, rest=path[len(link) :])
        elif link == path:
            self._add(found)

    def _add_plain(self, path: str) -> None:
        """Add what is at a path without links in it."""
        if not os.path.isdir(posixpath.join(self._root, path)):
            self._add(self._scanner.one(path))
            return
        directory = "" if path == "." else path
        for found in self._scanner.below(directory):
            self._add(found)
        if directory:
            self._found.setdefault(directory, Found(directory, Kind.DIR))

    def _add(self, found: Found | None, rest: str = "") -> None:
        """Add an entry; of a link also what it leads to, or only what is at `rest` below that."""
        if found is None:
            return
        self._found[found.path] = found
        if found.target is None:
            return
        absolute = posixpath.join(self._root, found.path)
        if not os.path.exists(absolute):
            raise InvalidInput(f"Input file {absolute} doesn't exist: it is a link to {found.target!r}")
        target = posixpath.normpath(posixpath.join(posixpath.dirname(found.path), found.target))
        if target == "." or f"{found.path}/".startswith(f"{target}/"):
            raise InvalidInput(f"Link {absolute} points to a directory that it is in, a recursive reference")
        item = target + rest
        self._pending.append(f"{item}/" if os.path.isdir(posixpath.join(self._root, item)) else item)

    def _add_outside(self, path: str) -> None:
        """Add what is at a path that leaves the root through a link, as if it were inside."""
        absolute = posixpath.join(self._root, path)
        real = os.path.realpath(absolute)
        if not os.path.isdir(real):
            status = os.stat(real)
            if not stat.S_ISREG(status.st_mode):
                raise InvalidInput(f"{absolute!r} is {what_is(status.st_mode)}, which cannot be archived")
            self._found[path] = Found(path, Kind.FILE, status.st_mode, stamp_of(status), real)
            return
        if self._is_within(real, path) or path.count("/") >= MAX_DEPTH:
            raise InvalidInput(f"Link {absolute} points to a directory that it is in, a recursive reference")
        rules = replace(
            self._rules,
            is_denied=lambda child: self._rules.is_denied(f"{path}/{child}"),
            outside=lambda child: self._outside.append(f"{path}/{child}"),
        )
        for found in Scanner(real, rules).below(""):
            source = found.source or posixpath.join(real, found.path)
            self._found[f"{path}/{found.path}"] = found._replace(path=f"{path}/{found.path}", source=source)

    def _is_within(self, real: str, path: str) -> bool:
        """Say whether the directory `real` is above `path`, or one that was gone through to get there."""
        parts = path.split("/")[:-1]
        ways = (posixpath.join(self._root, *parts[:end]) for end in range(len(parts) + 1))
        return any(f"{os.path.realpath(way)}/".startswith(f"{real.rstrip('/')}/") for way in ways)

    def _first_link(self, path: str) -> str | None:
        """Return the shortest leading part of `path` that is a link."""
        parts = path.split("/")
        leading = ("/".join(parts[:end]) for end in range(1, len(parts) + 1))
        return next((part for part in leading if os.path.islink(posixpath.join(self._root, part))), None)
