"""A tree that is on disk already becomes the tree that is wanted: compared with what it should be, then corrected.

Knows no store and no run; it is told what each directory should hold. Whoever mapped the tree linked files of the
cache, so the right file is known by its inode: same inode, size and mtime, and a ctime from before `proven_ns`, say
that nobody wrote to it. A later ctime is a hint (linking moves it, too), and the file is hashed. The invariant: when
`renew` returns, the tree holds what it should, and nothing else; nothing outside of it was changed.

All directories are opened relative to one that was looked at before, links never followed. Nobody else uses the tree.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from isolate.cas.cache_form import Form, form_of
from isolate.cas.inode_flags import make_mutable
from isolate.errors import IsolateError
from run_isolated.facts import Fact, Facts
from run_isolated.folders import Folder
from run_isolated.linked import Variant

_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_CREATE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW
_PRIVATE = 0o700


class NotReusable(IsolateError):
    """A tree is better made anew: too much of it differs, or it cannot be corrected."""


@dataclass(frozen=True, slots=True)
class Sources:
    """The cache as a renewal sees it."""

    files: int  # descriptor of the directory that `path_of` is relative to
    path_of: Callable[[Variant], str]
    is_right: Callable[[Variant], bool]  # hashes; makes read-only again
    # Whether somebody else sees to it that the files of the cache are as told, and nobody wrote to them: then it is
    # enough that a name leads to the inode, where nothing is mounted. A directory tells that without a call for each.
    are_seen_to: bool = False


@dataclass(slots=True)
class _Changes:
    """What has to be done; paths are below the root."""

    surplus: list[tuple[str, bool]] = field(default_factory=list)  # and whether it is a directory
    folders: list[str] = field(default_factory=list)
    files: list[tuple[str, Variant]] = field(default_factory=list)
    empties: list[tuple[str, int]] = field(default_factory=list)
    links: list[tuple[str, bytes]] = field(default_factory=list)
    count: int = 0


def renew(
    root: Path,
    wanted: Iterable[Folder],
    facts: Facts,
    sources: Sources,
    proven_ns: int,
    aside: Path,
    like: Path,
    limit: int,
) -> int:
    """Make the tree at `root` what is `wanted` and return how many names had to be changed.

    Surplus directories are moved to `aside`, which is made for it, and which the caller deletes. `like` is a directory
    that no command had yet, where trees are made: of its group are the directories that somebody makes there. Raises
    NotReusable when more than `limit` names differ, before anything was changed, and when something cannot be.
    """
    try:
        top = os.open(root, _FOLDER)
        try:
            comparison = _Comparison(top, _fresh_forms(like), facts, sources, proven_ns, limit)
            for folder in wanted:
                comparison.compare(folder)
            _correct(top, comparison.changes, sources, aside)
        finally:
            os.close(top)
    except OSError as error:
        raise NotReusable(f"Cannot reuse {str(root)!r}: {error.strerror}: {error.filename}") from error
    return comparison.changes.count


class _Comparison:
    """Goes through a tree once, parents first, and notes what differs."""

    def __init__(
        self, top: int, fresh: tuple[Form, Form], facts: Facts, sources: Sources, proven_ns: int, limit: int
    ) -> None:
        """`fresh` is what the root of a tree and a directory in it look like that were made just now."""
        self._top, self._facts, self._sources = top, facts, sources
        self._proven_ns, self._limit = proven_ns, limit
        self._device, self._umask = os.fstat(top).st_dev, _umask()
        self._root_form, self._folder_form = fresh
        self._lacking: set[bytes] = set()  # directories that are to be made
        self._judged: dict[Variant, bool] = {}
        self.changes = _Changes()

    def compare(self, folder: Folder) -> None:
        files = dict(zip(folder.file_names, self._facts.unpack(folder.facts), strict=True))
        empties = {os.fsdecode(name): mode & ~self._umask for name, mode in folder.empties}
        links = {os.fsdecode(name): target for name, target in folder.links}
        folders = {os.fsdecode(name) for name in folder.folders}
        prefix = os.fsdecode(folder.path + b"/") if folder.path else ""
        descriptor = None if folder.path in self._lacking else self._open(folder.path)
        if descriptor is not None:
            try:
                self._look_through(descriptor, prefix, files, empties, links, folders)
            finally:
                os.close(descriptor)
        changes = self.changes
        changes.files += [(prefix + name, fact.variant) for name, fact in files.items()]
        changes.empties += [(prefix + name, mode) for name, mode in empties.items()]
        changes.links += [(prefix + name, target) for name, target in links.items()]
        changes.folders += [prefix + name for name in folders]
        self._lacking.update(os.fsencode(prefix + name) for name in folders)
        self._count(len(files) + len(empties) + len(links) + len(folders))

    def _open(self, path: bytes) -> int | None:
        """Open a directory that is as it should be; None when it is to be replaced."""
        try:
            descriptor = os.open(path or b".", _FOLDER, dir_fd=self._top)
        except PermissionError:
            self._replace(path)
            return None
        status, form = os.fstat(descriptor), self._folder_form if path else self._root_form
        found = (stat.S_IMODE(status.st_mode), status.st_uid, status.st_gid)
        right = status.st_dev == self._device and found == (form.mode, form.user, form.group)
        if right and status.st_ctime_ns >= self._proven_ns:
            make_mutable(descriptor)
            right = form_of(descriptor) == form
        if right:
            return descriptor
        os.close(descriptor)
        self._replace(path)
        return None

    def _replace(self, path: bytes) -> None:
        if not path:
            raise NotReusable("The directory of the tree itself was changed")
        name = os.fsdecode(path)
        self.changes.surplus.append((name, True))
        self.changes.folders.append(name)
        self._lacking.add(path)
        self._count(1)

    def _look_through(
        self,
        descriptor: int,
        prefix: str,
        files: dict[str, Fact],
        empties: dict[str, int],
        links: dict[str, bytes],
        folders: set[str],
    ) -> None:
        """Take out of the last four what is there as it should be; note what should not be there."""
        device, proven_ns, are_seen_to = self._device, self._proven_ns, self._sources.are_seen_to
        with os.scandir(descriptor) as entries:
            for entry in entries:
                name = entry.name
                fact = files.get(name)
                if fact is not None:
                    if are_seen_to and entry.inode() == fact.inode:
                        del files[name]
                        continue
                    status = entry.stat(follow_symlinks=False)
                    if (
                        status.st_ino == fact.inode
                        and status.st_size == fact.size
                        and status.st_mtime_ns == fact.mtime_ns
                        and status.st_dev == device
                        and (status.st_ctime_ns < proven_ns or self._is_right(fact.variant))
                    ):
                        del files[name]
                        continue
                elif name in folders and entry.is_dir(follow_symlinks=False):
                    folders.discard(name)
                    continue
                elif name in empties and self._is_empty(entry, empties[name]):
                    del empties[name]
                    continue
                elif name in links and self._is_link(entry, descriptor, links[name]):
                    del links[name]
                    continue
                self.changes.surplus.append((prefix + name, entry.is_dir(follow_symlinks=False)))
                self._count(1)

    def _is_right(self, variant: Variant) -> bool:
        known = self._judged.get(variant)
        if known is None:
            known = self._judged[variant] = self._sources.is_right(variant)
            if not known:
                raise NotReusable(f"{variant[0].digest.hex()} was overwritten")
        return known

    def _is_empty(self, entry: os.DirEntry[str], mode: int) -> bool:
        status = entry.stat(follow_symlinks=False)
        return (
            status.st_mode == stat.S_IFREG | mode
            and status.st_size == 0
            and status.st_ctime_ns < self._proven_ns
            and status.st_dev == self._device
        )

    def _is_link(self, entry: os.DirEntry[str], descriptor: int, target: bytes) -> bool:
        """Whether it is the link, and nobody gave it another owner or attributes, which would have moved its ctime."""
        status = entry.stat(follow_symlinks=False)
        return (
            stat.S_ISLNK(status.st_mode)
            and status.st_ctime_ns < self._proven_ns
            and status.st_dev == self._device
            and os.fsencode(os.readlink(entry.name, dir_fd=descriptor)) == target
        )

    def _count(self, names: int) -> None:
        self.changes.count += names
        if self.changes.count > self._limit:
            raise NotReusable("Too much of the tree differs")


def _correct(top: int, changes: _Changes, sources: Sources, aside: Path) -> None:
    """Carry out `changes`: first what goes, then directories parents first, then what is in them."""
    if any(is_folder for _, is_folder in changes.surplus):
        aside.mkdir(mode=_PRIVATE)
    for number, (path, is_folder) in enumerate(changes.surplus):
        with suppress(FileNotFoundError):  # it went with the directory above
            if is_folder:
                os.rename(path, aside / str(number), src_dir_fd=top)
            else:
                os.unlink(path, dir_fd=top)
    for path in changes.folders:
        os.mkdir(path, dir_fd=top)
    for path, variant in changes.files:
        source = sources.path_of(variant)
        os.link(source, path, src_dir_fd=sources.files, dst_dir_fd=top, follow_symlinks=False)
    for path, mode in changes.empties:
        os.close(os.open(path, _CREATE, mode, dir_fd=top))
    for path, target in changes.links:
        os.symlink(target, os.fsencode(path), dir_fd=top)


def _fresh_forms(like: Path) -> tuple[Form, Form]:
    """Return what the root of a tree that is made in `like` looks like, and a directory in it."""
    root = like / f"fresh-{os.urandom(6).hex()}"
    folder = root / "folder"
    made: list[Form] = []
    try:
        for path, mode in ((root, _PRIVATE), (folder, 0o777)):
            os.mkdir(path, mode)
            descriptor = os.open(path, _FOLDER)
            try:
                made.append(form_of(descriptor))
            finally:
                os.close(descriptor)
    finally:
        for path in (folder, root):
            with suppress(FileNotFoundError):
                os.rmdir(path)
    return made[0], made[1]


def _umask() -> int:
    """Return the umask, which can only be read by setting it where /proc does not tell."""
    with suppress(OSError, ValueError), open("/proc/self/status", "rb") as file:
        for line in file:
            if line.startswith(b"Umask:"):
                return int(line.split()[1], 8)
    mask = os.umask(0o077)
    os.umask(mask)
    return mask
