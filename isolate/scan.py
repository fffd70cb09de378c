"""A directory as a stream of entries, sorted by path as the manifest sorts them.

Knows no digests and no store; reads names and stat records, never contents. The invariants: what is yielded is below
the root and named once; a link is never followed out of the root in silence: it is recorded when it says where inside
the tree it points, replaced by the file it points to outside, or named in an error. Nothing is skipped unless the
caller asked for broken items to be reported instead of raised.
"""

from __future__ import annotations

import itertools
import os
import posixpath
import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from operator import itemgetter
from typing import NamedTuple, cast

from isolate.denylist import DEFAULT, Denylist
from isolate.entries import Kind
from isolate.errors import FileChanged, InvalidInput, IsolateError, Unreadable

# What tells two states of a file apart without reading it: size, mtime_ns, ctime_ns, inode, device.
Stamp = tuple[int, int, int, int, int]

EARLY_FILES = 16_384  # of one directory: bounds what is held of it
_DIRECTORY_FLAGS = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC

_SPECIAL = {
    stat.S_IFSOCK: "a socket",
    stat.S_IFIFO: "a named pipe",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
    stat.S_IFDIR: "a directory",
}


class Found(NamedTuple):
    """One entry of a tree that is on disk; a FILE has a stamp and a source, a LINK a target."""

    path: str
    kind: Kind
    st_mode: int = 0
    stamp: Stamp | None = None
    source: str = ""  # absolute path of the file to read when it is not `path` below the root
    target: str | None = None


# What `Found(...)` does, without a call in Python for each of a hundred thousand.
found_of = cast("Callable[[tuple[object, ...]], Found]", partial(tuple.__new__, Found))
_FILE = Kind.FILE


@dataclass(frozen=True, slots=True, kw_only=True)
class ScanRules:
    """What a scan includes and how it treats what it cannot record."""

    is_denied: Denylist = DEFAULT
    keep_dangling: bool = True  # record a link to nothing inside the tree; 2020 refuses it
    # Record a target anew, `../here/a//b` as `a/b`; 2020 does, and its hashes depend on it.
    plain_links: bool = False
    broken: Callable[[IsolateError], None] | None = None  # told instead of raised
    # Told the path of a link to a directory outside of the root, which is an error otherwise.
    outside: Callable[[str], None] | None = None
    collapse: bool = False  # treat every link as one that leaves the root


def stamp_of(status: os.stat_result) -> Stamp:
    """Return the stamp of a file with this stat record."""
    return status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino, status.st_dev


def unreadable(error: OSError, path: str) -> IsolateError:
    """Return what to raise for an `error` met while reading `path`, which existed a moment ago."""
    if isinstance(error, (FileNotFoundError, NotADirectoryError)):
        return FileChanged(path)
    return Unreadable(f"Cannot read {path!r}: {error.strerror}")


def place_of(found: Found) -> str:
    """Return what entries are sorted by: an empty directory is where its contents would be."""
    return f"{found[0]}/" if found[1] is Kind.DIR else found[0]


def scan(root: str, rules: ScanRules, start: str = "") -> Iterator[Found]:
    """Yield the files, links and empty directories below the directory `root`, sorted by path, from `start` on.

    A directory whose children are all left out counts as empty. Raises InvalidInput when `root` is no directory or
    holds what no manifest can record (sockets, pipes, devices, links to nowhere), Unreadable.
    """
    return Scanner(root, rules).below("", start)


class Scanner:
    """Looks at what is below the directory `root`; raises InvalidInput when it is none."""

    def __init__(self, root: str, rules: ScanRules) -> None:
        if not os.path.isdir(root):
            raise InvalidInput(f"{root!r} is not a directory" if os.path.lexists(root) else f"{root!r} does not exist")
        self._root = root = os.path.abspath(root)
        self._prefix = root.rstrip("/") + "/"
        self._real_prefix = os.path.realpath(root).rstrip("/") + "/"
        self._rules = rules

    def below(self, directory: str, start: str = "") -> Iterator[Found]:
        """Yield what is below `directory`, a path relative to the root or "", by its path relative to the root.

        What is sorted before the path `start` is left out.
        """
        # A stack instead of recursion: `yield from` through each level would cost every entry its depth.
        stack = _from(start, self._children(directory) or [])
        while stack:
            path, found = stack.pop()
            if found is not None:
                yield found
            elif path.endswith("/"):
                path = path[:-1]
                children = self._children(path)
                if children:
                    stack += _from(start, children) if start > path else children
                elif children is not None and f"{path}/" >= start:
                    yield Found(path, Kind.DIR)
            else:
                found = self.one(path)
                if found is not None:
                    yield found

    def _children(self, directory: str) -> list[tuple[str, Found | None]] | None:
        """Return what is in `directory`, last first; paths of directories end in `/`; None if it is unreadable.

        Files are looked at here: from an open directory that costs the kernel a third less than by their whole path.
        What is no file, is broken, or is past the first EARLY_FILES, is left to be looked at in its turn.
        """
        prefix = f"{directory}/" if directory else ""
        is_denied = self._rules.is_denied
        children: list[tuple[str, Found | None]] = []
        try:
            descriptor = os.open(self._prefix + directory, _DIRECTORY_FLAGS)
            try:
                with os.scandir(descriptor) as entries:
                    for entry in entries:
                        path = prefix + entry.name
                        if is_denied(path):
                            continue
                        if entry.is_dir(follow_symlinks=False):
                            # With the slash a directory sorts where its contents belong: "a.b" < "a/b".
                            children.append((path + "/", None))
                        elif len(children) < EARLY_FILES and entry.is_file(follow_symlinks=False):
                            children.append((path, _at_once(path, entry)))
                        else:
                            children.append((path, None))
            finally:
                os.close(descriptor)
        except OSError as error:
            self._broken(unreadable(error, self._prefix + directory))
            return None
        children.sort(key=itemgetter(0), reverse=True)
        return children

    def one(self, path: str) -> Found | None:
        """Return the file or link at `path`, relative to the root; None if it is broken and that was reported."""
        absolute = self._prefix + path
        try:
            status = os.lstat(absolute)
            if stat.S_ISLNK(status.st_mode):
                return self._link(path, absolute)
            return self._file(path, absolute, status)
        except OSError as error:
            self._broken(unreadable(error, absolute))
            return None

    def _file(self, path: str, absolute: str, status: os.stat_result) -> Found | None:
        if stat.S_ISREG(status.st_mode):
            return found_of((path, _FILE, status.st_mode, stamp_of(status), "", None))
        self._broken(InvalidInput(f"{absolute!r} is {what_is(status.st_mode)}, which cannot be archived"))
        return None

    def _link(self, path: str, absolute: str) -> Found | None:
        target = os.readlink(absolute)
        inside = None if self._rules.collapse else self._inside(path, target)
        if inside is not None and (self._rules.keep_dangling or os.path.exists(absolute)):
            return Found(path, Kind.LINK, target=inside)
        try:
            status = os.stat(absolute)
        except OSError:
            self._broken(InvalidInput(f"Link {absolute!r} points to {target!r}, which does not exist"))
            return None
        if stat.S_ISREG(status.st_mode):
            return Found(path, Kind.FILE, status.st_mode, stamp_of(status), os.path.realpath(absolute))
        if stat.S_ISDIR(status.st_mode) and self._rules.outside is not None:
            self._rules.outside(path)
            return None
        self._broken(
            InvalidInput(f"Link {absolute!r} points to {target!r} outside of {self._root!r}, which is not a file")
        )
        return None

    def _inside(self, path: str, target: str) -> str | None:
        """Return what to record for a link that stays inside the root, None for one that leaves it."""
        directory = posixpath.dirname(path)
        # No directory on the way is a link, so that `..` at the beginning of a target is what its text says.
        written = posixpath.join(self._real_prefix + directory, target)
        where = posixpath.normpath(written)
        is_literal = True
        if _turns_back(target):  # behind a name that is itself a link, `..` is not: ask the file system
            really = os.path.realpath(written)
            is_literal = os.path.realpath(where) == really
            where = where if is_literal else really
        prefix = next((one for one in (self._real_prefix, self._prefix) if f"{where}/".startswith(one)), None)
        if prefix is None:
            return None
        leaves_on_its_way = f"{posixpath.normpath(posixpath.join(directory, target))}/".startswith(("../", "/"))
        if not leaves_on_its_way and not (self._rules.plain_links and is_literal):
            return target
        return posixpath.relpath("/" + where[len(prefix) :], "/" + directory)

    def _broken(self, error: IsolateError) -> None:
        if self._rules.broken is None:
            raise error
        self._rules.broken(error)


def _from(start: str, children: list[tuple[str, Found | None]]) -> list[tuple[str, Found | None]]:
    """Return those of `children` that are not sorted before `start`, or have something below them that is not."""
    if not start:
        return children
    return [child for child in children if child[0] >= start or (child[0][-1] == "/" and start.startswith(child[0]))]


def _at_once(path: str, entry: os.DirEntry[str]) -> Found | None:
    """Return the file that `entry` is, None when something is wrong with it: then it is told in its turn."""
    try:
        status = entry.stat(follow_symlinks=False)
    except OSError:
        return None
    mode = status.st_mode
    if not stat.S_ISREG(mode):
        return None
    stamp = (status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino, status.st_dev)
    return found_of((path, _FILE, mode, stamp, "", None))


def _turns_back(target: str) -> bool:
    """Say whether a `..` stands behind a name."""
    names = [part for part in target.split("/") if part not in {"", "."}]
    return ".." in itertools.dropwhile(lambda name: name == "..", names)


def what_is(st_mode: int) -> str:
    """Return what a thing that is no file is called in an error."""
    return _SPECIAL.get(stat.S_IFMT(st_mode), "of an unknown kind")
