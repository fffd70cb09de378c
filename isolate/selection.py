"""A `.isolate` and one configuration -> the files of a tree, its root directory and its command.

Reads `.isolate` files and asks which path variables are directories; what is in directories is `expansion`'s. Knows no
store. The rules are §1.7 of 2020.
"""

from __future__ import annotations

import os
import posixpath
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from isolate.conditions import Value
from isolate.errors import InvalidInput, InvalidIsolateFile
from isolate.expansion import beginning, expand
from isolate.isolatefile import Chosen, load_isolate, substitute, variables_in
from isolate.places import MAX_BYTES, Written, decoded, named_by, shortened_path
from isolate.scan import Found, ScanRules

READ_ONLY = 1  # what 2020 writes when the `.isolate` says nothing; runners do not enforce it
TEST_DATA = "test/data/"


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
        return beginning(self.subdir, iter(expand(self.root, self.items, rules)))


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
    # As in 2020 every path variable counts, also one that nothing uses: the root is a part of the hash.
    root = _root(directory, [*(written for _, written in items), *variables.values()])
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
            return decoded(file.read(MAX_BYTES + 1), path)
    except OSError as error:
        raise InvalidIsolateFile(f"Cannot read {shortened_path(path)!r}: {error.strerror}") from error


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


def _item(chosen: Chosen, where: str, item: str, variables: Mapping[str, object], name: str) -> tuple[str, str]:
    """Return one of the `files` as a normal absolute path with its trailing slash, and as it is written.

    That is relative to the directory of the command, unless it is written absolute.
    """
    # What begins with a path variable is relative to the effective directory, wherever it was written.
    base = chosen.directory if item.startswith("<(") else where
    path = substitute(item, variables, name)
    absolute = posixpath.normpath(posixpath.join(base, path)) + ("/" if path.endswith("/") else "")
    way = posixpath.relpath(base, chosen.directory)
    return item.meaning(absolute) if isinstance(item, Written) else absolute, path if way == "." else posixpath.join(
        way, path
    )


def _root(directory: str, paths: Iterable[str]) -> str:
    """Return `directory`, moved up once for each `../` that any of the relative `paths` begins with.

    As in 2020 those behind a name do not count: `x/../../y` is outside.
    """
    above = 0
    for path in paths:
        parts = path.split("/")
        above = max(above, next((count for count, part in enumerate(parts) if part != ".."), len(parts)))
    return posixpath.normpath(posixpath.join(directory, *[".."] * above))


def _below(root: str, item: str) -> str:
    relative = posixpath.relpath(item, root)
    if relative.split("/")[0] == "..":
        raise InvalidInput(f"Can't map file {shortened_path(item)} outside {shortened_path(root)}{named_by(item)}")
    relative += "/" if item.endswith("/") else ""
    return item.meaning(relative) if isinstance(item, Written) else relative
