"""Files and directories below one root, as a `.isolate` or a user names them -> the entries of a tree.

Reads names and stat records, never contents; knows no `.isolate` and no store. The rules are §1.7 of 2020 without its
two bugs: an absolute link is recorded by its relative target, a link to a file outside of the root by that file's
content. The invariant: links that lead in circles end in an error, never in a tree without end.
"""

from __future__ import annotations

import os
import posixpath
import stat
from collections.abc import Iterator, Sequence
from dataclasses import replace

from isolate.entries import Kind
from isolate.errors import InvalidInput
from isolate.paths import RelPath
from isolate.places import named_by, shortened_path
from isolate.scan import Found, Scanner, ScanRules, stamp_of, what_is

EVERYTHING = ("./",)  # the items that stand for all that is below the root
MAX_DEPTH = 255  # directories above an entry: more cannot be written into a manifest


def expand(root: str, items: Sequence[str], rules: ScanRules) -> list[Found]:
    """Return the entries that `items`, relative to the absolute `root`, stand for; sorted by path.

    Items that end in `/` are directories. Raises InvalidInput for what is not there or cannot be a part of a tree.
    """
    return _Expansion(root, rules).expand(items)


def beginning(subdir: str, entries: Iterator[Found]) -> Iterator[Found]:
    """Return the `entries` whose paths begin with the text `subdir`, which is what `--subdir` means."""
    return (entry for entry in entries if entry.path.startswith(subdir)) if subdir else entries


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
                named = InvalidInput(f"{error}{named_by(item)}")
                if self._rules.broken is None:
                    raise named from error
                self._rules.broken(named)
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
            raise InvalidInput(f"Input file {shortened_path(absolute)} doesn't exist")
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
